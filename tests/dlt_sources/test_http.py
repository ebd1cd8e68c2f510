"""What all sources over HTTP share, as far as no vendor is needed for it."""

import time
from email.utils import formatdate
from pathlib import Path

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.exceptions import SignalReceivedException
from dlt.common.runtime import signals
from dlt.sources.helpers.requests import Response

from dlt_sources.http import (
    Limit,
    LimitError,
    PermanentSourceError,
    Vendor,
    backoff,
    pause,
    read_limit,
    seconds_until_reset,
)

VENDOR = Vendor("acme", "Acme", "api_key", "https://api.acme.example", "the permission `read`")


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
def test_the_wait_is_what_the_vendor_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert seconds_until_reset(response(429, **headers)) == seconds


def test_the_vendor_may_name_a_moment() -> None:
    moment = time.time() + 90
    for headers in ({"Retry_After": formatdate(moment, usegmt=True)}, {"X_RateLimit_Reset": str(int(moment))}):
        assert seconds_until_reset(response(403, **headers)) == pytest.approx(90, abs=2)


def test_a_limit_is_told_from_a_refusal() -> None:
    assert read_limit(response(429)) == Limit("rate limit", None)
    assert read_limit(response(403, Retry_After="3")) == Limit("rate limit", 3)
    assert read_limit(response(403, X_RateLimit_Remaining="0", RateLimit_Reset="9")) == Limit("rate limit", 9)
    assert read_limit(response(403, X_RateLimit_Remaining="17")) is None
    assert read_limit(response(200, X_RateLimit_Remaining="0")) is None


def test_a_secret_has_its_exact_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "bare")
    monkeypatch.setenv("SOURCES__API_KEY", "half-bare")
    with pytest.raises(PermanentSourceError, match=r"^SOURCES__ACME__API_KEY is missing or empty: set it"):
        VENDOR.secret()
    monkeypatch.setenv("SOURCES__ACME__API_KEY", " exact\n")
    assert VENDOR.secret() == "exact"
    assert VENDOR.secret("given") == "given"


def test_a_setting_has_its_exact_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCOUNT", "bare")
    with pytest.raises(PermanentSourceError, match=r"^SOURCES__ACME__ACCOUNT is missing or empty: set it"):
        VENDOR.setting("account")
    monkeypatch.setenv("SOURCES__ACME__ACCOUNT", " exact\n")
    assert VENDOR.setting("account") == "exact"
    assert VENDOR.setting("account", "given") == "given"


def test_secrets_and_settings_may_be_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text('[sources.acme]\napi_key = "from-the-file"\n')
    (tmp_path / ".dlt" / "config.toml").write_text('[sources.acme]\naccount = "from-the-file"\n')
    monkeypatch.chdir(tmp_path)
    context = Container()[PluggableRunContext]
    context.reload()
    try:
        assert VENDOR.secret() == VENDOR.setting("account") == "from-the-file"
    finally:
        monkeypatch.undo()
        context.reload()


def test_a_damaged_secret_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for damaged in ("two words", "line\nbreak", "ümlaut"):
        monkeypatch.setenv("SOURCES__ACME__API_KEY", damaged)
        with pytest.raises(PermanentSourceError, match=r"^SOURCES__ACME__API_KEY holds") as failure:
            VENDOR.secret()
        assert damaged not in str(failure.value)


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (VENDOR.base(), VENDOR.max_wait()) == ("https://api.acme.example", 3_900)
    monkeypatch.setenv("SOURCES__ACME__API_BASE_URL", "")
    monkeypatch.setenv("SOURCES__ACME__MAX_WAIT", "")
    assert (VENDOR.base(), VENDOR.max_wait()) == ("https://api.acme.example", 3_900)
    monkeypatch.setenv("SOURCES__ACME__MAX_WAIT", "0.5")
    assert VENDOR.max_wait() == 0.5
    monkeypatch.setenv("SOURCES__ACME__MAX_WAIT", "an hour")
    with pytest.raises(PermanentSourceError, match="SOURCES__ACME__MAX_WAIT has to be a number of seconds"):
        VENDOR.max_wait()
    for wrong in ("api.acme.example", "ftp://api.acme.example", "https://user:password@api.acme.example"):
        monkeypatch.setenv("SOURCES__ACME__API_BASE_URL", wrong)
        with pytest.raises(PermanentSourceError, match="SOURCES__ACME__API_BASE_URL has to look like"):
            VENDOR.base()


def test_back_off_grows_with_jitter_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "1")
    monkeypatch.setenv("RUNTIME__REQUEST_MAX_RETRY_DELAY", "20")
    for attempt, most in ((1, 1), (2, 2), (5, 16), (6, 20), (100, 20)):
        delays = {backoff(attempt) for _ in range(20)}
        assert len(delays) > 1
        assert most / 2 <= min(delays) <= max(delays) <= most


def test_waiting_ahead_of_a_limit_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__ACME__MAX_WAIT", "1")
    with pytest.raises(LimitError, match=r"Acme's daily limit is used up until .* UTC; a request waits 1 s at most"):
        VENDOR.wait_for(Limit("daily limit", 60))


def test_a_run_that_was_told_to_stop_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_received_signal", 15)
    monkeypatch.setattr(signals, "sleep", lambda seconds: pytest.fail(f"sleeps {seconds} s"))
    with pytest.raises(SignalReceivedException):
        pause(60)
