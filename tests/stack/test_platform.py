"""What looks after the deployment, on the real stack: an alert and a heartbeat arrive, a second daemon is refused."""

from tests.support.stack import Stack, wait_for

# Takes alerts and heartbeats in the container of `platform`, and writes them to a file.
RECEIVER = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        with open("/tmp/received", "a") as file:
            file.write(f"{self.path} {body}\\n")
        self.send_response(200)
        self.end_headers()
    do_GET = do_POST
HTTPServer(("127.0.0.1", 9999), Handler).serve_forever()
"""


def test_a_failed_run_of_another_location_arrives_as_an_alert_and_the_daemon_sends_heartbeats(
    changed_stack: Stack,
) -> None:
    stack = changed_stack
    stack.apply(
        ALERT_URLS="json://127.0.0.1:9999/alerts",
        HEARTBEAT_URL="http://127.0.0.1:9999/heartbeat",
        SOURCES__GITHUB__ACCESS_TOKEN="wrong-token-7f3a",
    )
    stack.compose("exec", "--detach", "platform", "python", "-c", RECEIVER)
    wait_for(lambda: set(stack.locations().values()) == {"loaded"}, 90, "every location to load")
    run = stack.materialize([["github", "pull_requests"]], "sandbox/handbook")  # no other test lets it fail
    assert run["status"] == "FAILURE"

    def received() -> str:
        return stack.compose("exec", "-T", "platform", "cat", "/tmp/received", check=False).stdout

    wait_for(lambda: run["runId"] in received(), 120, "the alert to arrive")
    wait_for(lambda: "/heartbeat" in received(), 120, "a heartbeat to arrive")
    [alert] = [line for line in received().splitlines() if run["runId"] in line]
    assert "engineering: github/pull_requests [sandbox/handbook] failed" in alert
    assert "GitHub rejects the credential" in alert
    assert f"http://127.0.0.1:{stack.port}/runs/{run['runId']}" in alert
    assert "wrong-token-7f3a" not in received()


def test_a_second_daemon_says_who_the_first_is_and_exits(stack: Stack) -> None:
    second = stack.compose("run", "--rm", "--no-deps", "-T", "daemon", check=False)

    assert second.returncode == 1
    assert "Another daemon works on this instance: dagster-daemon on " in second.stdout + second.stderr
    [daemon] = stack.compose("ps", "--quiet", "daemon").stdout.split()
    assert daemon[:12] in second.stdout + second.stderr  # its host name
