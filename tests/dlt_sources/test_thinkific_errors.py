"""Thinkific's failures: rate limits are waited for, transient errors retried, and messages say what to change."""

import logging
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from dlt.common.exceptions import TerminalException, TransientException

from dlt_sources.errors import PermanentSourceError, SourceError, TransientSourceError
from dlt_sources.http import LimitError
from dlt_sources.thinkific import thinkific
from tests.support.sandbox import ThinkificApi
from tests.support.source_warehouse import SourceWarehouse

BOTH = "SOURCES__THINKIFIC__API_KEY and SOURCES__THINKIFIC__SUBDOMAIN"


def read_courses(**options: Any) -> list[dict[str, Any]]:
    return list(thinkific(**options).resources["courses"])


@pytest.mark.parametrize(
    "variable",
    ["SOURCES__THINKIFIC__API_KEY", "SOURCES__THINKIFIC__SUBDOMAIN"],
)
def test_a_wrong_credential_fails_without_a_retry(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "a-wrong-one")
    error = warehouse.load_error(thinkific())
    assert isinstance(error, TerminalException)
    assert "(401 at http" in str(error)
    assert str(error).endswith(f": check {BOTH}.")
    assert "a-wrong-one" not in str(error)
    assert thinkific_api.sandbox.counts()["total"] == 1


@pytest.mark.parametrize("value", [None, "", "  "])
@pytest.mark.parametrize("key", ["API_KEY", "SUBDOMAIN"])
def test_an_error_names_a_missing_setting(
    thinkific_api: ThinkificApi,
    warehouse: SourceWarehouse,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    value: str | None,
) -> None:
    monkeypatch.setenv(key, "somebody-else's")
    monkeypatch.delenv(f"SOURCES__THINKIFIC__{key}")
    if value is not None:
        monkeypatch.setenv(f"SOURCES__THINKIFIC__{key}", value)
    error = warehouse.load_error(thinkific())
    assert str(error) == f"SOURCES__THINKIFIC__{key} is missing, empty or a placeholder: set it to read from Thinkific."
    assert isinstance(error, PermanentSourceError)
    assert thinkific_api.sandbox.counts()["total"] == 0


def test_an_argument_takes_precedence_over_the_variable(
    thinkific_api: ThinkificApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__THINKIFIC__API_KEY", "a-wrong-key")
    monkeypatch.setenv("SOURCES__THINKIFIC__SUBDOMAIN", "a-wrong-one")
    assert len(read_courses(subdomain="sandbox", api_key=thinkific_api.token)) == 12


def test_an_error_names_a_plan_without_the_api(thinkific_api: ThinkificApi) -> None:
    thinkific_api.sandbox.fault("thinkific_forbidden")
    with pytest.raises(PermanentSourceError, match=r"403: .*not available on your plan.*API_KEY needs a plan that"):
        read_courses()
    assert thinkific_api.sandbox.counts()["total"] == 1


def test_an_error_names_a_wrong_base_url(thinkific_api: ThinkificApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__THINKIFIC__API_BASE_URL", f"{thinkific_api.url}/v2")
    with pytest.raises(PermanentSourceError, match=r"/v2/courses.*\(404\).*SOURCES__THINKIFIC__API_BASE_URL"):
        read_courses()


def test_a_redirect_fails_instead_of_sending_the_key_to_another_host(thinkific_api: ThinkificApi) -> None:
    elsewhere = f"{thinkific_api.sandbox.github.url}/elsewhere"
    thinkific_api.sandbox.fault("status", status=302, headers={"Location": elsewhere})
    with pytest.raises(PermanentSourceError, match=r"/courses.* redirects: check SOURCES__THINKIFIC__API_BASE"):
        read_courses()
    assert thinkific_api.sandbox.counts()["total"] == 1


def test_a_rejected_request_fails_with_the_apis_own_message(thinkific_api: ThinkificApi) -> None:
    thinkific_api.sandbox.fault("status", status=422, message="course_id can't be blank")
    with pytest.raises(PermanentSourceError, match=r"rejects the request .*/courses.* \(422: .*can't be blank"):
        read_courses()


def test_a_load_waits_for_the_rate_limit(thinkific_api: ThinkificApi, warehouse: SourceWarehouse) -> None:
    thinkific_api.sandbox.settings(thinkific_requests=10, thinkific_window_seconds=1)
    loaded = warehouse.load(thinkific().with_resources("courses", "course_reviews"))
    assert (loaded["courses"], loaded["course_reviews"]) == (12, 150)
    counts = thinkific_api.sandbox.counts()["by_status"]
    assert counts["200"] == 13
    assert counts["429"] >= 1


@pytest.mark.parametrize(
    ("reset", "wait"),
    [
        (lambda: int(time.time()) + 30, 30),  # the moment, in seconds
        (lambda: int(time.time() + 30) * 1_000, 60),  # in milliseconds
        (lambda: 30_000, 60),  # how long, in milliseconds
        (None, 60),
    ],
)
def test_the_wait_for_a_rate_limit_is_at_most_its_window_in_any_unit_of_the_reset_header(
    thinkific_api: ThinkificApi, monkeypatch: pytest.MonkeyPatch, reset: Any, wait: float
) -> None:
    monkeypatch.setenv("SOURCES__THINKIFIC__MAX_WAIT", "5")
    thinkific_api.sandbox.fault("status", status=429, headers={"RateLimit-Reset": reset()} if reset else {})
    sentence = f"Thinkific's rate limit is used up until {datetime.now(UTC):%Y}-.* UTC; .*THINKIFIC__MAX_WAIT"
    with pytest.raises(LimitError, match=sentence) as failure:
        read_courses()
    assert isinstance(failure.value, TransientException)
    assert failure.value.wait == pytest.approx(wait, abs=2)
    assert thinkific_api.sandbox.counts()["total"] == 1


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("connection_reset", {}, r"connection to Thinkific broke at .*/courses.* after 5 attempts"),
        ("truncated_body", {}, r"connection to Thinkific broke at .*/courses.* after 5 attempts"),
        ("status", {"status": 500}, r"failed at .*/courses.* \(500.* after 5 attempts"),
        ("status", {"status": 502}, r"timed out at .*/courses.* after 5 attempts"),
    ],
)
def test_transient_errors_are_retried_up_to_five_times(
    thinkific_api: ThinkificApi, kind: str, options: dict[str, Any], sentence: str
) -> None:
    thinkific_api.sandbox.fault(kind, times=4, **options)
    assert len(read_courses()) == 12
    thinkific_api.sandbox.fault(kind, times=None, **options)
    with pytest.raises(TransientSourceError, match=sentence):
        read_courses()


def test_a_malformed_body_fails_with_its_url(thinkific_api: ThinkificApi, monkeypatch: pytest.MonkeyPatch) -> None:
    thinkific_api.sandbox.fault("malformed_json")
    with pytest.raises(TransientSourceError, match=r"invalid JSON \(\d+ bytes at .*/courses\?page=1&limit=250"):
        read_courses()
    monkeypatch.setenv("SOURCES__THINKIFIC__API_BASE_URL", f"{thinkific_api.sandbox.url}/health?")
    with pytest.raises(TransientSourceError, match=r"JSON that is not a list of courses at .*/health"):
        read_courses()


def test_no_message_contains_the_key(
    thinkific_api: ThinkificApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    key = thinkific_api.token
    faults: list[tuple[str, dict[str, Any]]] = [
        ("status", {"status": 500, "times": 9, "message": f"{key} failed"}),
        ("status", {"status": 403, "message": f"{key} may not"}),
        ("status", {"status": 422, "message": f"{key} is wrong"}),
        ("connection_reset", {"times": 9}),
    ]
    with caplog.at_level(logging.DEBUG, "dlt"):
        for kind, options in faults:
            thinkific_api.sandbox.fault(kind, **options)
            with pytest.raises(SourceError) as failure:
                read_courses()
            chain: BaseException | None = failure.value
            while chain:
                assert key not in f"{chain} {chain!r}"
                chain = chain.__cause__ or chain.__context__
            thinkific_api.sandbox.clear_faults()
    assert key not in caplog.text
