"""What sources over HTTP share: settings, rate limits and retries, without the API of a vendor."""

import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.providers import environ
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.exceptions import SignalReceivedException
from dlt.common.runtime import signals
from dlt.sources.helpers.requests import Response

from dlt_sources.errors import PermanentSourceError
from dlt_sources.http import ApiClient, Limit, LimitError, backoff, pause, read_limit, seconds_until_reset

ACME = ApiClient("acme", "Acme", "api_key", "https://api.acme.example", "the permission `read`")


def response(status: int, **headers: str) -> Response:
    made = Response()
    made.status_code = status
    made.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return made


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "7"}, 7),
        ({"RateLimit_Reset": "30"}, 30),
        ({"Retry_After": "7", "X_RateLimit_Reset": "30"}, 7),
        ({"Retry_After": "soon"}, None),
        ({}, None),
    ],
)
def test_the_wait_follows_the_rate_limit_headers(headers: dict[str, str], seconds: float | None) -> None:
    assert seconds_until_reset(response(429, **headers)) == seconds


def test_the_headers_may_contain_a_date_or_an_epoch() -> None:
    moment = time.time() + 90
    for headers in ({"Retry_After": formatdate(moment, usegmt=True)}, {"X_RateLimit_Reset": str(int(moment))}):
        assert seconds_until_reset(response(403, **headers)) == pytest.approx(90, abs=2)


def test_a_rate_limit_is_distinguished_from_a_missing_permission() -> None:
    assert read_limit(response(429)) == Limit("rate limit", None)
    assert read_limit(response(403, Retry_After="3")) == Limit("rate limit", 3)
    assert read_limit(response(403, X_RateLimit_Remaining="0", RateLimit_Reset="9")) == Limit("rate limit", 9)
    assert read_limit(response(403, X_RateLimit_Remaining="17")) is None
    assert read_limit(response(200, X_RateLimit_Remaining="0")) is None


def test_a_secret_is_read_under_its_exact_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "bare")
    monkeypatch.setenv("SOURCES__API_KEY", "half-bare")
    with pytest.raises(PermanentSourceError, match=r"^SOURCES__ACME__API_KEY is missing, empty or a placeholder"):
        ACME.secret()
    monkeypatch.setenv("SOURCES__ACME__API_KEY", " exact\n")
    assert ACME.secret() == "exact"
    assert ACME.secret("given") == "given"


def test_a_setting_is_read_under_its_exact_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCOUNT", "bare")
    with pytest.raises(PermanentSourceError, match=r"^SOURCES__ACME__ACCOUNT is missing, empty or a placeholder"):
        ACME.setting("account")
    monkeypatch.setenv("SOURCES__ACME__ACCOUNT", " exact\n")
    assert ACME.setting("account") == "exact"
    assert ACME.setting("account", "given") == "given"


def test_secrets_and_settings_are_read_from_dlts_toml_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text('[sources.acme]\napi_key = "from-the-file"\n')
    (tmp_path / ".dlt" / "config.toml").write_text('[sources.acme]\naccount = "from-the-file"\n')
    monkeypatch.chdir(tmp_path)
    context = Container()[PluggableRunContext]
    context.reload()
    try:
        assert ACME.secret() == ACME.setting("account") == "from-the-file"
    finally:
        monkeypatch.undo()
        context.reload()


def test_a_secret_is_read_from_a_file_of_docker_or_kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environ, "SECRET_STORAGE_PATH", f"{tmp_path}/%s")  # /run/secrets/%s
    monkeypatch.setenv("SOURCES__ACME__API_KEY", "from-the-variable")
    (tmp_path / "sources--acme--api-key").write_text("from-the-file\n")

    assert ACME.secret() == "from-the-file"


def test_a_malformed_secret_fails_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for damaged in ("two words", "line\nbreak", "ümlaut"):
        monkeypatch.setenv("SOURCES__ACME__API_KEY", damaged)
        with pytest.raises(PermanentSourceError, match=r"^SOURCES__ACME__API_KEY contains whitespace or") as failure:
            ACME.secret()
        assert damaged not in str(failure.value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("CHANGEME", "CHANGEME"),
        ("CHANGEME-acme", "CHANGEME"),
        ("changeme", "CHANGEME"),
        ("<configure me>", "<configure me>"),
        ("<canary>", "<…>"),
    ],
)
def test_a_placeholder_fails_with_the_variables_name(monkeypatch: pytest.MonkeyPatch, value: str, shown: str) -> None:
    for key in ("api_key", "account", "api_base_url"):
        monkeypatch.setenv(f"SOURCES__ACME__{key.upper()}", value)
    reads: dict[str, Callable[[], object]] = {
        "API_KEY": ACME.rest_client,
        "ACCOUNT": lambda: ACME.setting("account"),
        "API_BASE_URL": ACME.api_base_url,
    }
    for name, read in reads.items():
        with pytest.raises(PermanentSourceError) as failure:
            read()
        sentence = f"SOURCES__ACME__{name} is still the placeholder {shown}: set it to read from Acme."
        assert str(failure.value) == sentence
    with pytest.raises(PermanentSourceError, match="is still the placeholder"):
        ACME.secret(value)


def test_a_malformed_setting_fails_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ACME.api_base_url(), ACME.max_wait()) == ("https://api.acme.example", 3_900)
    monkeypatch.setenv("SOURCES__ACME__API_BASE_URL", "")
    monkeypatch.setenv("SOURCES__ACME__MAX_WAIT", "")
    assert (ACME.api_base_url(), ACME.max_wait()) == ("https://api.acme.example", 3_900)
    monkeypatch.setenv("SOURCES__ACME__MAX_WAIT", "0.5")
    assert ACME.max_wait() == 0.5
    monkeypatch.setenv("SOURCES__ACME__MAX_WAIT", "an hour")
    with pytest.raises(PermanentSourceError, match="SOURCES__ACME__MAX_WAIT must be a number of seconds"):
        ACME.max_wait()
    for wrong in ("api.acme.example", "ftp://api.acme.example", "https://user:password@api.acme.example"):
        monkeypatch.setenv("SOURCES__ACME__API_BASE_URL", wrong)
        with pytest.raises(PermanentSourceError, match="SOURCES__ACME__API_BASE_URL must look like"):
            ACME.api_base_url()


def test_backoff_grows_with_jitter_up_to_a_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "1")
    monkeypatch.setenv("RUNTIME__REQUEST_MAX_RETRY_DELAY", "20")
    for attempt, most in ((1, 1), (2, 2), (5, 16), (6, 20), (100, 20)):
        delays = {backoff(attempt) for _ in range(20)}
        assert len(delays) > 1
        assert most / 2 <= min(delays) <= max(delays) <= most


def test_a_limit_longer_than_the_wait_fails_before_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__ACME__MAX_WAIT", "1")
    with pytest.raises(LimitError, match=r"Acme's daily limit is used up until .* UTC; a request waits 1 s at most"):
        ACME.wait_for(Limit("daily limit", 60))


def test_a_run_that_was_told_to_stop_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_received_signal", 15)
    monkeypatch.setattr(signals, "sleep", lambda seconds: pytest.fail(f"sleeps {seconds} s"))
    with pytest.raises(SignalReceivedException):
        pause(60)
