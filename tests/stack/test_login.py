"""The login, as browsers and scripts meet it: passwords, groups, sessions, TLS, and requests that must not pass."""

import base64
import json
import re
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPMessage
from http.cookiejar import CookieJar
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest
import yaml
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from scripts import up
from tests.support.paths import ROOT
from tests.support.stack import PROJECT, Stack, free_port, wait_for

SERVICES = ("caddy", "login", "webserver", "webserver-viewers")
PASSWORD = "correct horse battery"
STOCK = """
import dagster as dg

@dg.asset
def report(): ...

defs = dg.Definitions([report], jobs=[dg.define_asset_job("daily", [report])])
"""
LAUNCH = """mutation { launchRun(executionParams: {selector: {
    repositoryLocationName: "stock", repositoryName: "__repository__", jobName: "daily"}}) {
    __typename ... on LaunchRunSuccess { run { runId tags { key value } } } } }"""
GROUPS_FORGED = {"X_Login_Group": "editors", "OIDC_CLAIM_groups": "dagster-editors"}
PAGE = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class Answer(NamedTuple):
    status: int
    url: str
    headers: HTTPMessage
    text: str


class Deployment(Stack):
    """The webservers with a login, without the locations: a small one runs in the webservers themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.https, self.http = folder, free_port(), free_port()
        override = folder / "override.yml"
        (folder / "stock.py").write_text(STOCK)
        location = {"python_file": {"relative_path": "/stock.py", "location_name": "stock"}}
        (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [location]}))
        mounts = [f"{folder}/workspace.yaml:/dagster/workspace.yaml:ro", f"{folder}/stock.py:/stock.py:ro"]
        override.write_text(yaml.safe_dump({"services": {name: {"volumes": mounts} for name in SERVICES[2:]}}))
        self.files = f"docker-compose.yml:compose.login.yml:{override}"
        settings = {"COMPOSE_FILE": self.files, "LOGIN_DOMAIN": "localhost"}
        ports = {"LOGIN_PORT": f"127.0.0.1:{self.https}", "LOGIN_HTTP_PORT": f"127.0.0.1:{self.http}"}
        super().__init__(folder, f"{PROJECT}-login", ROOT, **settings, **ports)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.https}"

    def user(self, name: str, group: str = "", password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        """What `make user` runs, with the password from a pipe."""
        command = ["docker", "compose", "--project-name", self.project, "--env-file", str(self.env_file)]
        command += ["exec", "-T", "login", "user", name, group]
        return subprocess.run(command, cwd=ROOT, input=f"{password}\n", capture_output=True, text=True, timeout=60)

    def trust(self) -> ssl.SSLContext:
        """As a browser that trusts Caddy's own CA, and no other."""
        root = self.compose("exec", "-T", "caddy", "cat", "/var/caddy/caddy/pki/authorities/local/root.crt").stdout
        return ssl.create_default_context(cadata=root)


class Browser:
    """Keeps cookies, follows redirects."""

    def __init__(self, deployment: Deployment) -> None:
        self.url, self.tls, self.cookies = deployment.url, deployment.trust(), CookieJar()
        handlers = (urllib.request.HTTPSHandler(context=self.tls), urllib.request.HTTPCookieProcessor(self.cookies))
        self.opener = urllib.request.build_opener(*handlers)

    def open(self, path: str, body: bytes | Iterator[bytes] | None = None, /, **headers: str) -> Answer:
        url = path if path.startswith("http") else self.url + path
        request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response: Any
        try:
            response = self.opener.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            return Answer(response.status, response.url, response.headers, response.read().decode())

    def page(self, path: str) -> Answer:
        return self.open(path, **PAGE)

    def submit(self, page: Answer, **fields: str) -> Answer:
        """Fills in the form of a page."""
        action = re.findall(r'<form[^>]* action="([^"]*)"', page.text)
        target = action[0].replace("&amp;", "&") if action else page.url
        return self.open(target, urlencode(fields).encode(), **PAGE)

    def log_in(self, name: str, password: str = PASSWORD, path: str = "/") -> Answer:
        return self.submit(self.page(path), httpd_username=name, httpd_password=password)

    def graphql(self, query: str, **headers: str) -> Any:
        answer = self.open(
            "/graphql", json.dumps({"query": query}).encode(), Content_Type="application/json", **headers
        )
        assert answer.status == 200, answer
        return json.loads(answer.text)["data"]

    def may_launch(self) -> bool:
        permissions = self.graphql("{ permissions { permission value } }")["permissions"]
        return bool({one["permission"]: one["value"] for one in permissions}["launch_pipeline_execution"])

    def subscribe(self, **headers: str) -> str:
        """Opens Dagster's websocket as its UI does. Returns the type of the first message."""
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies)
        with connect(
            f"{self.url.replace('https', 'wss')}/graphql",
            ssl=self.tls,
            subprotocols=[Subprotocol("graphql-ws")],
            additional_headers={"Cookie": cookies, **headers},
        ) as socket:
            socket.send(json.dumps({"type": "connection_init", "payload": {}}))
            return str(json.loads(socket.recv(timeout=30))["type"])


def basic(name: str, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    assert shutil.which("docker"), "make test-stack needs Docker with Compose"
    deployment = Deployment(tmp_path_factory.mktemp("login"))
    deployment.down()
    try:
        deployment.up(*SERVICES)
        for name, group in {"ann": "editors", "vic": "", "eve": "viewers"}.items():
            assert deployment.user(name, group).returncode == 0
        yield deployment
    finally:
        deployment.down()
    assert deployment.containers() == []


@pytest.fixture
def browser(deployment: Deployment) -> Browser:
    return Browser(deployment)


def test_only_the_login_is_published(deployment: Deployment) -> None:
    published = deployment.compose("ps", "--format", "{{.Service}} {{.Ports}}").stdout
    assert {line.split()[0] for line in published.splitlines() if "->" in line} == {"caddy"}


def test_whoever_is_not_logged_in_gets_the_login_page_and_nothing_of_dagster(browser: Browser) -> None:
    page = browser.page("/runs/abc?view=logs")

    assert page.status == 401
    assert 'action="/login/check?/runs/abc?view=logs"' in page.text
    assert "WWW-Authenticate" not in page.headers, "the browser would ask for a password itself"
    for path in ("/graphql", "/server_info", "/logs/a", "/_next/static/x.js", "/login/../server_info"):
        assert browser.open(path).status in (401, 404), path
    assert browser.open("/graphql", b'{"query": "{ version }"}', Content_Type="application/json").status == 401


def test_a_password_opens_the_page_that_was_asked_for(browser: Browser) -> None:
    page = browser.log_in("ann", path="/runs/a%2Fb?view=logs&x=%22")

    assert (page.status, page.url) == (200, f"{browser.url}/runs/a%2Fb?view=logs&x=%22")
    assert "__NEXT_DATA__" in page.text, "Dagster's page"
    [cookie] = browser.cookies
    assert cookie.name.startswith("__Host-")
    assert cookie.secure
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "Lax"


@pytest.mark.parametrize(
    "path", ["//example.com/", "/\\example.com", "/login/check?https://example.com/", '/"><script>']
)
def test_the_login_leads_to_no_other_site(browser: Browser, path: str) -> None:
    page = browser.page(path.replace("<", "%3C").replace(">", "%3E").replace('"', "%22"))
    answer = browser.submit(page, httpd_username="ann", httpd_password=PASSWORD)

    assert urlsplit(answer.url).netloc == urlsplit(browser.url).netloc


def test_a_wrong_password_is_said_and_the_way_is_remembered(browser: Browser) -> None:
    wrong = browser.log_in("ann", "wrong", "/runs/abc")

    assert wrong.status == 401
    assert "The name or the password is wrong." in wrong.text
    assert browser.submit(wrong, httpd_username="ann", httpd_password=PASSWORD).url == f"{browser.url}/runs/abc"


def test_an_editor_may_launch_runs_which_carry_the_name_and_a_viewer_may_not(deployment: Deployment) -> None:
    editor, viewer = Browser(deployment), Browser(deployment)
    editor.log_in("ann")
    viewer.log_in("vic")
    wait_for(lambda: "stock" in json.dumps(editor.graphql("{ repositoriesOrError { ... on RepositoryConnection {"
             " nodes { location { name } } } } }")), 60, "the location to load")  # fmt: skip

    assert editor.may_launch()
    launched = editor.graphql(LAUNCH, X_Forwarded_User="root", X_Login_User="root", X_Login_Group="editors")[
        "launchRun"
    ]
    assert {"key": "user", "value": "ann"} in launched["run"]["tags"]
    assert not viewer.may_launch()
    assert viewer.graphql(LAUNCH, X_Login_Group="editors")["launchRun"]["__typename"] == "UnauthorizedError"


def test_a_script_sends_its_password(browser: Browser) -> None:
    assert browser.graphql("{ version }", **basic("ann"))["version"]
    assert browser.open("/server_info", **basic("ann", "wrong")).status == 401
    assert len(browser.cookies) == 0 or browser.open("/server_info").status == 401, "a password leaves no session"


def test_a_user_who_is_removed_is_out_at_once(deployment: Deployment, browser: Browser) -> None:
    assert browser.log_in("eve").status == 200
    assert deployment.user("eve", "none").returncode == 0

    page = browser.page("/")
    assert page.status == 403
    assert "neither an editor nor a viewer" in page.text
    assert browser.open("/server_info", **basic("eve")).status == 401
    assert deployment.user("").stdout.splitlines() == ["ann editors", "vic viewers"]


@pytest.mark.parametrize(
    ("name", "group", "password", "sentence"),
    [
        ("a b", "viewers", PASSWORD, "use letters, digits"),
        ("bob", "admins", PASSWORD, "use editors, viewers"),
        ("bob", "viewers", "short", "shorter than 12"),
        ("bob", "viewers", "x" * 73, "longer than 72"),
        ("bob", "none", "", "no user bob"),
    ],
)
def test_a_wrong_user_is_refused(deployment: Deployment, name: str, group: str, password: str, sentence: str) -> None:
    result = deployment.user(name, group, password)

    assert result.returncode == 1
    assert sentence in result.stderr
    assert "bob" not in deployment.user("").stdout


def test_the_way_out_ends_the_session(browser: Browser) -> None:
    browser.log_in("ann")
    assert browser.page("/").status == 200

    assert browser.page("/login/out").status == 401
    assert browser.page("/").status == 401


def test_websockets_pass_for_those_who_are_logged_in(browser: Browser) -> None:
    with pytest.raises(InvalidStatus) as refused:
        browser.subscribe()
    assert refused.value.response.status_code == 401

    browser.log_in("vic")
    assert browser.subscribe(Origin=browser.url) == "connection_ack"


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://example.com"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_pages_of_other_sites_change_nothing(browser: Browser, headers: dict[str, str]) -> None:
    browser.log_in("ann")

    for content in ("application/json", "text/plain"):
        body = json.dumps({"query": LAUNCH}).encode()
        assert browser.open("/graphql", body, Content_Type=content, **headers).status == 403
    assert browser.open("/report_asset_materialization/report", b"", **headers).status == 403
    assert browser.open("/login/check", b"httpd_username=vic", **headers).status == 403
    with pytest.raises(InvalidStatus) as refused:
        browser.subscribe(**headers)
    assert refused.value.response.status_code == 403
    assert browser.page("/").status == 200, "a link from another site may lead to a page"


def test_a_link_runs_no_query(browser: Browser) -> None:
    browser.log_in("ann")

    for path in ("/graphql", "/%67raphql"):
        assert browser.open(f"{path}?query=mutation%7Bx%7D%23%zz").status == 405, path


def test_a_body_that_is_larger_than_the_webservers_memory_is_refused(deployment: Deployment, browser: Browser) -> None:
    before = deployment.started()
    headers = {"Content_Type": "application/json", **basic("ann")}

    assert browser.open("/graphql", b" " * 10_100_000, **headers).status in (413, 502)  # 502: Caddy 2.6
    with suppress(urllib.error.URLError):  # refused before all of it is sent
        assert browser.open("/graphql", (b" " * 1_000_000 for _ in range(2_000)), **headers).status in (413, 502)
    assert deployment.started() == before
    assert browser.graphql("{ version }", **basic("ann"))["version"]


def test_browsers_are_told_to_be_careful(deployment: Deployment, browser: Browser) -> None:
    browser.log_in("ann")
    for page in (browser.page("/"), Browser(deployment).page("/")):
        assert page.headers["X-Frame-Options"] == "DENY"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Referrer-Policy"] == "same-origin"
        assert page.headers["Content-Security-Policy"]
        assert page.headers["Server"] is None
        assert page.headers["Strict-Transport-Security"] is None, "it would hold for all ports of localhost"


def test_http_leads_to_https(deployment: Deployment) -> None:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
        ) -> None:
            return None

    with pytest.raises(urllib.error.HTTPError) as redirect:
        urllib.request.build_opener(Stay).open(f"http://localhost:{deployment.http}/runs", timeout=30)
    with redirect.value as answer:
        assert answer.code == 308
        assert answer.headers["Location"] == "https://localhost/runs"


def test_make_up_looks_behind_the_login(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name, value in {"PROJECT_NAME": deployment.project, "ENV_FILES": str(deployment.env_file)}.items():
        monkeypatch.setenv(f"COMPOSE_{name}", value)
    services = json.loads(up.compose("config", "--format", "json"))["services"]

    assert up.answers()
    assert up.load_errors() == []
    assert up.login_address(services["caddy"]) == f"https://localhost:{services['caddy']['ports'][0]['published']}"


def test_wrong_passwords_are_limited_and_open_sessions_go_on(deployment: Deployment, browser: Browser) -> None:
    """The last test with passwords: it shuts this address out for ten minutes."""
    browser.log_in("vic")
    thief = Browser(deployment)
    tries = [thief.open("/server_info", **basic("ann", f"guess{number}")).status for number in range(10)]
    tries += [thief.log_in("ann", f"guess{number}").status for number in range(15)]

    assert tries[0] == 401
    assert tries[-1] == 429
    refused = thief.log_in("ann")
    assert refused.status == 429
    assert "Try again in ten minutes" in refused.text
    assert thief.open("/server_info", **basic("ann")).status == 429
    assert browser.page("/").status == 200


class Provider(NamedTuple):
    """A mock of an OpenID Connect provider, reached under one address by browsers and by Apache's container."""

    url: str
    browser: Browser

    def log_in(self, subject: str, path: str = "/") -> Answer:
        page = self.browser.page(path)
        assert page.url.startswith(f"{self.url}/oauth2/authorize?"), page
        return self.browser.submit(page, sub=subject)


@pytest.fixture(scope="module")
def provider_url(deployment: Deployment) -> Iterator[str]:
    """Switches the deployment to single sign-on."""
    users = [
        {"sub": "1", "email": "ann@example.com", "groups": ["staff", "dagster-editors", "dagster-viewers"]},
        {"sub": "2", "email": "vic@example.com", "groups": ["dagster-viewers"]},
        {"sub": "3", "email": "eve@example.com", "groups": ["dagster-editors-in-spe", "staff"]},
        {"sub": "4", "groups": ["dagster-editors"]},
    ]
    gateway = ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]
    address = subprocess.run(gateway, check=True, capture_output=True, text=True).stdout.strip()
    port, uv = str(free_port()), shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    command = [uv, "run", "--quiet", "--no-project", "--with", "oidc-provider-mock==0.3.4", "oidc-provider-mock"]
    command += ["--host", address, "--port", port]
    command += [part for user in users for part in ("--user-claims", json.dumps(user))]
    mock = subprocess.Popen(command, cwd=deployment.folder, stderr=subprocess.DEVNULL)
    try:
        url = f"http://{address}:{port}"
        discovery = f"{url}/.well-known/openid-configuration"
        wait_for(lambda: urllib.request.urlopen(discovery, timeout=5).status == 200, 90, "the provider")
        deployment.set("COMPOSE_FILE", f"{deployment.files}:compose.sso.yml")
        for name, value in {"ISSUER": url, "CLIENT_ID": "dagster", "CLIENT_SECRET": "a%secret"}.items():
            deployment.set(f"SSO_{name}", value)
        deployment.compose("up", "--detach", "--wait", "--no-deps", "login")
        yield url
    finally:
        mock.terminate()
        mock.wait()


@pytest.fixture
def provider(provider_url: str, browser: Browser) -> Provider:
    return Provider(provider_url, browser)


def test_single_sign_on_opens_the_page_that_was_asked_for_as_an_editor(provider: Provider) -> None:
    page = provider.log_in("1", "/runs/a%2Fb?view=logs")

    assert (page.status, page.url) == (200, f"{provider.browser.url}/runs/a%2Fb?view=logs")
    launched = provider.browser.graphql(LAUNCH, X_Forwarded_User="root", OIDC_CLAIM_email="root")["launchRun"]
    assert {"key": "user", "value": "ann@example.com"} in launched["run"]["tags"]
    assert provider.browser.subscribe() == "connection_ack"
    assert all(cookie.name.startswith("__Host-") for cookie in provider.browser.cookies if cookie.domain == "localhost")


def test_single_sign_on_lets_a_viewer_look(provider: Provider) -> None:
    assert provider.log_in("2").status == 200
    assert not provider.browser.may_launch()


def test_single_sign_on_refuses_whoever_is_in_neither_group(provider: Provider) -> None:
    page = provider.log_in("3")

    assert page.status == 403
    assert "neither an editor nor a viewer" in page.text
    assert provider.browser.open("/graphql", b"{}", Content_Type="application/json", **GROUPS_FORGED).status == 403


def test_single_sign_on_refuses_a_user_without_a_name(provider: Provider) -> None:
    page = provider.log_in("4")

    assert page.status == 400
    assert "the provider did not say who you are" in page.text


def test_single_sign_on_answers_a_request_of_a_page_that_is_still_open(provider: Provider) -> None:
    """No redirect: the page could not follow it to another site, and would show an error that says nothing."""
    answer = provider.browser.open("/graphql", b"{}", Content_Type="application/json", Sec_Fetch_Mode="cors")

    assert answer.status == 401
    with pytest.raises(InvalidStatus) as refused:
        provider.browser.subscribe()
    assert refused.value.response.status_code == 401


def test_the_way_out_of_single_sign_on_ends_the_session_here_and_asks_the_provider_to_end_its_own(
    provider: Provider,
) -> None:
    provider.log_in("1")
    goodbye = provider.browser.page("/login/out")

    assert goodbye.url.startswith(f"{provider.url}/oauth2/end_session?id_token_hint=")
    assert urlencode({"post_logout_redirect_uri": f"{provider.browser.url}/login/pages/again.html"}) in goodbye.url
    assert "You are not logged in." in provider.browser.page("/login/pages/again.html").text
    assert provider.browser.page("/").url.startswith(provider.url)
