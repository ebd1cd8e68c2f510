"""Requests that no client sends: each is refused, its answer tells nothing, and whoever got it goes on."""

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.stack import LOCATIONS, Stack

NEVER_TOLD = ("root:x:", "PASSWORD=", "postgres_url", "/site-packages/", "Traceback")
SQL = "sandbox/'; DROP TABLE runs; --"

# Calls a location over gRPC, from another container of its network.
CALLS = """
import socket, sys, grpc
import dagster._grpc.__generated__.dagster_api_pb2 as api
host = sys.argv[1]
START = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n"
for garbage in (b"GET / HTTP/1.1\\r\\n\\r\\n", START + b"\\xff" * 100_000, b"\\0" * 100_000):
    with socket.create_connection((host, 4000), 10) as connection:
        connection.settimeout(10)
        try:
            connection.sendall(garbage)
            while connection.recv(65536):
                pass
        except OSError:
            pass
channel = grpc.insecure_channel(f"{host}:4000", [("grpc.max_receive_message_length", -1)])
def call(method, body):
    try:
        return channel.unary_unary(f"/api.DagsterApi/{method}")(body, timeout=60)
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}".encode()
for method in ("StartRun", "ExecutionPlanSnapshot", "CancelExecution", "ExternalRepository", "NoSuchMethod"):
    for text in ("{\\"__class__\\": \\"system\\"}", "[" * 100_000, "\\0"):
        print(method, call(method, api.StartRunRequest(serialized_execute_run_args=text).SerializeToString())[:2000])
    print(method, call(method, b"\\xff" * 4)[:2000])
for path in ("/proc/self/environ", "../proc/self/environ.ipynb", "/dagster/dagster.yaml"):
    request = api.ExternalNotebookDataRequest(notebook_path=path)
    print(path, call("ExternalNotebookData", request.SerializeToString())[:2000])
print("too long", call("Ping", api.PingRequest(echo="x" * 120_000_000).SerializeToString())[:200])
print(api.PingReply.FromString(call("Ping", api.PingRequest(echo="still here").SerializeToString())).echo)
"""


@pytest.fixture(autouse=True)
def goes_on(stack: Stack) -> Iterator[None]:
    """No container has been started again, and all locations are loaded."""
    before = stack.started()
    yield
    assert stack.started() == before
    assert set(stack.locations().values()) == {"loaded"}


def ask(stack: Stack, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    """Sends a path as it is. Returns status and text."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read(1_000_000).decode(errors="replace")
    connection.close()
    return answer.status, text


def demand_nothing_told(text: str) -> None:
    assert [one for one in NEVER_TOLD if one in text] == [], text[:2000]


@pytest.mark.parametrize(
    "path",
    [
        "/logs/../../../../etc/passwd",
        "/logs/%2e%2e/%2e%2e/%2e%2e/etc/passwd.out",
        "/logs/..%2f..%2f..%2fproc%2fself%2fenviron",
        "/logs//proc/self/environ",
        "/notebook?path=/proc/self/environ&repoLocName=engineering",
        "/notebook?path=../proc/self/environ.ipynb&repoLocName=engineering",
        "/download_debug/..%2f..%2fetc%2fpasswd",
        f"/download_debug/{SQL.replace(' ', '%20')}",
        "/static/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
    ],
)
def test_paths_lead_to_no_file_outside(stack: Stack, path: str) -> None:
    _, text = ask(stack, "GET", path)

    demand_nothing_told(text)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"query": 1}', b"[" * 100_000])
def test_bodies_that_are_no_query_are_refused(stack: Stack, body: bytes) -> None:
    status, text = ask(stack, "POST", "/graphql", body)

    assert status in (400, 500)
    demand_nothing_told(text)


@pytest.mark.parametrize("depth", [200, 100_000])
def test_a_query_that_is_nested_too_deeply_is_refused(stack: Stack, depth: int) -> None:
    query = "{ assetNodes " + "{ dependencies { asset " * depth + "{ id }" + "} }" * depth + "}"

    _, text = ask(stack, "POST", "/graphql", json.dumps({"query": query}).encode())

    demand_nothing_told(text)
    assert "rror" in text


def test_what_is_no_http_is_refused(stack: Stack) -> None:
    for garbage in (b"\x00" * 10_000, b"GET " + b"a" * 1_000_000, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 100_000):
        with socket.create_connection(("127.0.0.1", stack.port), 20) as connection:
            try:
                connection.sendall(garbage)
                demand_nothing_told(connection.recv(10_000).decode(errors="replace"))
            except OSError:  # it has closed the connection
                continue
    assert ask(stack, "GET", "/server_info")[0] == 200


def test_names_that_look_like_sql_are_only_names(stack: Stack) -> None:
    tables = stack.rows("SELECT count(*) FROM pg_tables")
    launch = "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename } }"
    for location, job in [("engineering", SQL), (SQL, "__ASSET_JOB")]:
        selector = {"repositoryLocationName": location, "repositoryName": "__repository__", "jobName": job}
        launched = stack.graphql(launch, p={"selector": selector})["launchRun"]["__typename"]
        assert launched in ("PipelineNotFoundError", "InvalidSubsetError"), launched

    run = stack.materialize([["github", "issues"]], SQL)

    assert run["status"] == "FAILURE"
    assert SQL in stack.failures(run["runId"])
    assert stack.rows("SELECT count(*) FROM pg_tables") == tables


@pytest.mark.parametrize("location", LOCATIONS[:1])
def test_a_location_goes_on_after_calls_that_no_client_makes(stack: Stack, location: str) -> None:
    result = stack.compose("exec", "-T", "daemon", "python", "-c", CALLS, f"{location}.instance", check=False)

    assert result.stdout.splitlines()[-1:] == ["still here"], result.stdout[-3000:] + result.stderr[-3000:]
    assert [one for one in ("root:x:", "PASSWORD=", "_TOKEN=") if one in result.stdout] == []
