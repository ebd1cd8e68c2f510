"""deploy/kubernetes says what compose says, is valid, and gives each pod its own secrets and no more. No cluster."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml
from dagster import DagsterRun
from dagster._config import process_config
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus
from dagster_k8s import K8sRunLauncher
from dagster_k8s.client import DagsterK8sAPIRetryLimitExceeded, DagsterK8sUnrecoverableAPIError
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job
from kubernetes.client import ApiClient, ApiException

from runtime.instance.kubernetes import PodRunLauncher
from scripts import kubernetes
from tests.test_deployment import COMPOSE, location_services, variables_of

OVERLAYS = ["sandbox", "production"]
LOCATIONS = sorted(location_services())
KUBECTL = Path(sys.executable).with_name("kubectl")
HARDENED = {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
BY_API = {"webserver", "daemon"}  # they end runs; the daemon starts them


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` sends to the cluster."""
    command = [str(KUBECTL), "kustomize", str(kubernetes.FOLDER / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def named(overlay: str, kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in rendered(overlay) if one["kind"] == kind}


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """Deployment → its pod's specification."""
    return {name: one["spec"]["template"]["spec"] for name, one in named(overlay, "Deployment").items()}


def environment(pod: Mapping[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in pod["containers"][0].get("env", [])}


def env_from(pod: Mapping[str, Any]) -> set[str]:
    """The Secrets and ConfigMaps that a pod has as variables."""
    return {source["name"] for one in pod["containers"][0]["envFrom"] for source in one.values()}


def launcher(overlay: str) -> PodRunLauncher:
    """The launcher as the daemon has it, without the API of Kubernetes."""
    [settings] = [
        one["data"]["dagster.yaml"] for one in named(overlay, "ConfigMap").values() if "dagster.yaml" in one["data"]
    ]
    config = yaml.safe_load(settings)["run_launcher"]["config"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAMESPACE", "dagster")
        patch.setattr("dagster_k8s.launcher.load_kubernetes_config", lambda **_: None)
        checked = process_config(PodRunLauncher.config_type(), config)  # type: ignore[no-untyped-call]
        assert checked.success, checked.errors
        found: PodRunLauncher = PodRunLauncher.from_config_value(None, checked.value)  # type: ignore[no-untyped-call]
        return found


def run_of(overlay: str, location: str, **tags: str) -> dict[str, Any]:
    """The Job of a run of a location, as the launcher makes it."""
    variables = environment(pods(overlay)[location])
    starts = launcher(overlay)
    context = K8sContainerContext.create_for_run(DagsterRun("job"), starts, include_run_tags=False)
    context = context.merge(K8sContainerContext.create_from_config(json.loads(variables["DAGSTER_CONTAINER_CONTEXT"])))
    if tags:
        tagged = K8sContainerContext.create_for_run(DagsterRun("job", tags=tags), None, include_run_tags=True)
        context = context.merge(tagged)
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config(variables["DAGSTER_CURRENT_IMAGE"], starts),
        ["dagster"],
        "dagster-run-1",
        context.run_k8s_config,
        component="run_worker",
    )
    return cast("dict[str, Any]", ApiClient().sanitize_for_serialization(job))


def containers(pod: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from [*pod.get("initContainers", []), *pod["containers"]]


def test_the_files_are_what_make_kubernetes_writes() -> None:
    wrong = [path for path, text in kubernetes.files().items() if not path.exists() or path.read_text() != text]

    assert not wrong, f"run `make kubernetes` and commit {', '.join(path.name for path in wrong)}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_in_a_current_kubernetes(overlay: str) -> None:
    runs = [run_of(overlay, location) for location in LOCATIONS]
    for resource in [*rendered(overlay), *runs]:
        kubernetes_validate.validate(resource, "1.37.0", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_location_has_a_server_an_address_and_settings(overlay: str) -> None:
    deployments, services = named(overlay, "Deployment"), named(overlay, "Service")
    expected = {*LOCATIONS, "webserver", "daemon"}

    assert set(deployments) - expected == (
        {"postgres", "warehouse", "shop", "sandbox"} if overlay == "sandbox" else set()
    )
    for location in LOCATIONS:
        pod = deployments[location]["spec"]["template"]
        assert services[location]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        assert services[location]["spec"]["ports"] == [{"port": 4000}]
        assert deployments[location]["spec"].get("replicas", 1) == 1  # Dagster would reload it at each answer
        assert env_from(pod["spec"]) == {"instance", f"{location}-env"}


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_run_is_like_the_server_of_its_location(overlay: str, location: str) -> None:
    server, run = pods(overlay)[location], run_of(overlay, location)["spec"]["template"]
    pod = run["spec"]

    assert pod["containers"][0]["image"] == server["containers"][0]["image"]
    assert env_from(pod) == env_from(server)
    assert run["metadata"]["labels"].items() >= {"app": location, "role": "run"}.items()
    limit = kubernetes.memory(location_services()[location]["mem_limit"])
    assert pod["containers"][0]["resources"]["limits"] == {"memory": limit}
    mounts = {one["mountPath"]: one for one in server["containers"][0]["volumeMounts"] if "subPath" not in one}
    assert {one["mountPath"] for one in pod["containers"][0]["volumeMounts"]} >= set(mounts)


def test_a_tag_changes_the_limit_of_one_run_and_nothing_else() -> None:
    tag = json.dumps({"container_config": {"resources": {"limits": {"memory": "8Gi"}}}})
    [usual, tagged] = [
        run["spec"]["template"]["spec"]["containers"][0]
        for run in (run_of("production", "revenue"), run_of("production", "revenue", **{"dagster-k8s/config": tag}))
    ]

    assert tagged["resources"] == {"requests": usual["resources"]["requests"], "limits": {"memory": "8Gi"}}
    assert {**tagged, "resources": 0} == {**usual, "resources": 0}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_as_hardened_as_in_compose(overlay: str) -> None:
    runs = {f"a run of {location}": run_of(overlay, location)["spec"]["template"]["spec"] for location in LOCATIONS}
    for name, pod in {**pods(overlay), **runs}.items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod.get("automountServiceAccountToken", True) == (name in BY_API), name
        assert pod["enableServiceLinks"] is False, name  # else the Service gives every pod a WEBSERVER_PORT
        for container in containers(pod):
            assert container["securityContext"] == HARDENED, name
            assert container["resources"]["limits"]["memory"], name
        if not name.startswith("a run"):
            assert {"readinessProbe", "livenessProbe"} & set(pod["containers"][0]), name


def test_only_webserver_and_daemon_may_ask_the_api_and_only_the_daemon_starts_pods() -> None:
    roles = {name: one["rules"] for name, one in named("production", "Role").items()}
    bound = {
        name: {subject["name"] for subject in one["subjects"]}
        for name, one in named("production", "RoleBinding").items()
    }

    assert bound == {"launch-runs": {"daemon"}, "end-runs": BY_API}
    assert "create" not in {verb for rule in roles["end-runs"] for verb in rule["verbs"]}
    assert not any("secrets" in rule["resources"] for rules in roles.values() for rule in rules)


def test_secrets_are_those_of_compose() -> None:
    """Each location's Secret has the variables that compose hands to its container, and that have a value."""
    settings = dict.fromkeys(set().union(*map(variables_of, location_services().values())), "a value")
    printed = {
        secret["metadata"]["name"]: set(secret["stringData"])
        for secret in yaml.safe_load_all(
            kubernetes.secrets({**settings, "DAGSTER_POSTGRES_PASSWORD": "x", "OTHER": "y"})
        )
    }
    by_compose = {"WAREHOUSE", "DAGSTER_GRPC_HOST", "WEBSERVER_INTERNAL_URL", *COMPOSE["x-instance-env"]}

    assert printed.pop("instance") == {"DAGSTER_POSTGRES_PASSWORD"}
    assert printed == {
        f"{name}-env": variables_of(service) - by_compose for name, service in location_services().items()
    }


def test_the_sandbox_has_every_secret_that_it_refers_to_and_production_none() -> None:
    secrets = named("sandbox", "Secret")

    assert set(secrets) == {"instance", "sandbox", *(f"{location}-env" for location in LOCATIONS)}
    assert not named("production", "Secret")


@pytest.mark.parametrize("answer", ["away", "gone"])
def test_a_run_is_lost_when_its_job_is_gone_not_when_the_api_is_away(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API is away while the control plane is upgraded. The pods go on."""
    run, asked = DagsterRun("job"), launcher("production")

    def status(**_: Any) -> None:
        if answer == "away":
            raise ConnectionError("refused")

    monkeypatch.setattr(asked._api_client, "get_job_status", status)
    monkeypatch.setattr(asked, "_get_resume_attempt_number", lambda run: None)

    expected = WorkerStatus.RUNNING if answer == "away" else WorkerStatus.UNKNOWN  # which run monitoring takes for lost
    assert asked.check_run_worker_health(run).status == expected


def test_a_run_returns_to_the_queue_when_the_api_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_jobs(monkeypatch, DagsterK8sAPIRetryLimitExceeded, ConnectionError("refused"), max_retries=3)

    with pytest.raises(DagsterUserCodeUnreachableError, match="does not answer"):
        launcher("production").launch_run(cast("LaunchRunContext", None))


@pytest.mark.parametrize("status", [403, 409])
def test_a_run_whose_job_was_made_before_the_api_went_away_is_launched(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue launches it again, and the Job exists. It would be marked as failed, beside its pod."""
    refuse_jobs(monkeypatch, DagsterK8sUnrecoverableAPIError, ApiException(status))

    with nullcontext() if status == 409 else pytest.raises(DagsterK8sUnrecoverableAPIError):
        launcher("production").launch_run(cast("LaunchRunContext", None))


def refuse_jobs(patch: pytest.MonkeyPatch, error: Callable[..., Exception], cause: Exception, **options: Any) -> None:
    """Lets Dagster's launcher fail as it does when the API answers with an error, or not at all."""

    def launch(*_: Any) -> None:
        try:
            raise cause
        except type(cause):
            raise error("refused", k8s_api_exception=cause, original_exc_info=sys.exc_info(), **options) from cause

    patch.setattr(K8sRunLauncher, "launch_run", launch)


def test_the_values_for_helm_have_the_same_locations_images_and_secrets() -> None:
    values = yaml.safe_load((kubernetes.FOLDER / "helm-values.yaml").read_text())
    found = {one["name"]: one for one in values["dagster-user-deployments"]["deployments"]}
    servers = pods("sandbox")

    assert sorted(found) == LOCATIONS
    for name, one in found.items():
        assert one["dagsterApiGrpcArgs"] == ["-m", f"code_locations.{name}.definitions"]
        assert one["port"] == 4000
        assert one["image"]["repository"] == servers[name]["containers"][0]["image"]
        assert {source["name"] for source in [*one["envSecrets"], *one["envConfigMaps"]]} == env_from(servers[name])
        assert one["resources"]["limits"] == {"memory": kubernetes.memory(location_services()[name]["mem_limit"])}
    for part in [values["dagsterWebserver"], values["dagsterDaemon"], *found.values()]:
        assert part["securityContext"] == HARDENED
        assert part["podSecurityContext"]["runAsNonRoot"]
    assert values["dagsterWebserver"]["service"]["port"] == 3000
