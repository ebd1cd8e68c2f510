"""The sandbox overlay on a real cluster: first rows, secrets, and a backfill while parts of it end."""

import json
from collections.abc import Callable

from scripts import kubernetes
from tests.stack.test_chaos import ASSETS, REPOSITORIES, SIZE, assert_complete, enough, how_it_ended, partitions
from tests.support.cluster import OVERLAY, Cluster
from tests.support.stack import wait_for

LOCATIONS = kubernetes.locations()
# Location → assets of it, a partition, and a table with its rows.
LOADS = {
    "engineering": ([["github", "issues"]], "sandbox/website", "raw_github.issues"),
    "learning": ([["thinkific", "courses"]], None, "raw_thinkific.courses"),
    "operations": ([["filesystem", "deliveries"]], None, "raw_filesystem.deliveries"),
    "revenue": ([["hubspot", "contacts"]], None, "raw_hubspot.contacts"),
}


def test_a_location_of_each_kind_loads_rows_in_pods_of_its_own(cluster: Cluster, times: Callable[[str], None]) -> None:
    runs = {location: cluster.launch(assets, partition, location) for location, (assets, partition, _) in LOADS.items()}
    query = "query($r: ID!) { runOrError(runId: $r) { ... on Run { status } } }"
    ended: dict[str, str] = {}

    def all_ended() -> bool:
        ended.update({name: cluster.graphql(query, r=run)["runOrError"]["status"] for name, run in runs.items()})
        return set(ended.values()) <= {"SUCCESS", "FAILURE", "CANCELED"}

    wait_for(all_ended, 300, "the runs to end")
    times("rows of four locations")

    assert set(ended.values()) == {"SUCCESS"}, {name: cluster.failures(run) for name, run in runs.items()}
    for _, _, table in LOADS.values():
        [[rows]] = cluster.rows(f"SELECT count(*) FROM {table}")
        assert int(rows) > 0, table
    images = {
        pod["metadata"]["labels"]["dagster/run-id"]: pod["spec"]["containers"][0]["image"]
        for pod in cluster.pods_of_runs()
    }
    assert {run: images[run].split(":")[0] for run in runs.values()} == {
        run: f"dagster-dlt-kube-{location}" for location, run in runs.items()
    }


def test_a_locations_secrets_are_in_its_pods_alone(cluster: Cluster) -> None:
    settings = json.loads(cluster.kubectl("get", "secrets", "--output", "json"))["items"]
    names = {one["metadata"]["name"]: set(one.get("data") or ()) for one in settings}
    secret = {location: names[f"{location}-env"] for location in LOCATIONS}
    shared = set.intersection(*secret.values())
    code = "import json, os; print(json.dumps([*os.environ, *['a token'] * os.path.exists('/var/run/secrets')]))"
    for location in LOCATIONS:
        sees = set(json.loads(cluster.in_pod(location, "python", "-c", code)))
        others = set.union(*(secret[other] for other in LOCATIONS if other != location)) - secret[location]
        assert secret[location] <= sees
        assert not sees & (others | {"a token"}), location
        assert secret[location] - shared or location == "analytics"
    for pod in cluster.pods_of_runs():
        location = pod["metadata"]["labels"]["app"]
        sources = {name["name"] for one in pod["spec"]["containers"][0]["envFrom"] for name in one.values()}
        assert sources == {"instance", f"{location}-env"}
        assert pod["spec"]["automountServiceAccountToken"] is False
    may = ["auth", "can-i", "get", "secrets", "--as", "system:serviceaccount:dagster-sandbox:location"]
    assert cluster.kubectl(*may, check=False).strip() == "no"


def test_a_backfill_loads_every_row_once_while_parts_of_it_end(cluster: Cluster, times: Callable[[str], None]) -> None:
    """A run is killed, its location is replaced, the daemon's pod deleted and the node's kubelet restarted."""
    for repository in REPOSITORIES:
        cluster.sandbox("/github/repositories", name=repository.partition("/")[2], **SIZE)
    cluster.rows("DROP SCHEMA IF EXISTS raw_github CASCADE")
    settings = json.dumps({"stringData": {"GITHUB_REPOSITORIES": ",".join(REPOSITORIES)}})
    cluster.kubectl("patch", "secret", "engineering-env", "--type", "merge", "--patch", settings)
    roll(cluster)
    backfill = cluster.launch_backfill(ASSETS, REPOSITORIES)

    wait_for(lambda: enough(cluster, backfill, 1), 240, "the first partitions")
    [victim, *_] = wait_for(lambda: started(cluster, backfill), 120, "a run to start")
    cluster.kubectl("exec", victim, "--", "sh", "-c", "kill -9 -1", check=False)
    wait_for(lambda: enough(cluster, backfill, 3), 240, "more partitions")
    cluster.kubectl("delete", "pod", "--selector", "app=daemon", "--wait=false")
    roll(cluster)
    cluster.program("run", "sh", "-c", "pkill -x kubelet; while pgrep -x kubelet; do sleep 0.1; done", check=False)
    cluster.program("up")  # starts it again
    cluster.backfilled(backfill, timeout=1500)  # a run takes 16 s of CPU
    times(f"a backfill of {len(REPOSITORIES)} partitions")

    status, failures = how_it_ended(cluster, backfill)
    assert status == "COMPLETED_SUCCESS", failures
    assert len(failures) == 1, failures  # the run that was killed, and no other
    assert partitions(cluster, backfill, "SUCCESS") == set(REPOSITORIES)
    assert_complete(cluster)


def test_what_is_deleted_leaves_nothing(cluster: Cluster) -> None:
    cluster.program("run", "kubectl", "delete", "--ignore-not-found", "--kustomize", str(OVERLAY))

    left = json.loads(cluster.program("run", "kubectl", "get", "all,secrets", "--all-namespaces", "--output", "json"))
    kept = [one["metadata"]["name"] for one in left["items"] if one["metadata"]["namespace"] == "dagster-sandbox"]
    assert kept == []


def roll(cluster: Cluster) -> None:
    cluster.kubectl("rollout", "restart", "deployment/engineering")
    cluster.kubectl("rollout", "status", "deployment/engineering", "--timeout", "280s")
    cluster.reload("engineering")  # else the webserver takes a few seconds to notice
    wait_for(lambda: cluster.locations()["engineering"] == "loaded", 60, "engineering to load")


def started(cluster: Cluster, backfill: str) -> list[str]:
    """The pods of runs that load at this moment."""
    runs = {run["runId"] for run in cluster.backfill_now(backfill)["runs"] if run["status"] == "STARTED"}
    return [
        pod["metadata"]["name"]
        for pod in cluster.pods_of_runs()
        if pod["metadata"]["labels"]["dagster/run-id"] in runs and pod["status"]["phase"] == "Running"
    ]
