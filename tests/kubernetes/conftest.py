"""A cluster that may be thrown away: KUBERNETES_CLUSTER=<a program, see tests/support/cluster.py>."""

import time
from collections.abc import Callable, Iterator

import pytest

from scripts import kubernetes
from tests.support.cluster import OVERLAY, PROGRAM, Cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kubernetes" in item.path.parts:
            item.add_marker(pytest.mark.timeout(1800))
            if not PROGRAM:
                reason = "no cluster: KUBERNETES_CLUSTER is not set (tests/support/cluster.py)"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def times(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints how long what has just ended took."""
    capture, last = request.config.pluginmanager.getplugin("capturemanager"), [time.monotonic()]

    def took(what: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{what}: {time.monotonic() - last[0]:.0f} s", flush=True)
        last[0] = time.monotonic()

    return took


@pytest.fixture(scope="session")
def cluster(times: Callable[[str], None]) -> Iterator[Cluster]:
    """A new cluster with the images and the sandbox overlay."""
    cluster = Cluster()
    cluster.program("up")
    try:
        times("a cluster")
        kubernetes.build()
        times("images built")
        images = [f"dagster-dlt-kube-{name}" for name in ("host", "sandbox", *kubernetes.locations())]
        cluster.program("load", "postgres:17", *images, seconds=600)
        times("images in the cluster")
        cluster.program("run", "kubectl", "apply", "--kustomize", str(OVERLAY))
        cluster.loaded()
        times("from `kubectl apply` until every location is loaded")
        yield cluster
    finally:
        cluster.program("down")
