"""What goes wrong at Thinkific: waited for, tried again, or told in a sentence that says what to do."""

import logging
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from dlt.common.exceptions import TerminalException, TransientException

from dlt_sources.http import LimitError, PermanentSourceError, SourceError, TransientSourceError
from dlt_sources.thinkific import thinkific
from tests.conftest import Sandbox
from tests.dlt_sources.conftest import Warehouse

BOTH = "SOURCES__THINKIFIC__API_KEY and SOURCES__THINKIFIC__SUBDOMAIN"


def read_courses(**options: Any) -> list[dict[str, Any]]:
    return list(thinkific(**options).resources["courses"])


@pytest.mark.parametrize(
    "variable",
    ["SOURCES__THINKIFIC__API_KEY", "SOURCES__THINKIFIC__SUBDOMAIN"],
)
def test_a_wrong_credential_fails_at_once(
    thinkific_site: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "a-wrong-one")
    error = warehouse.refused(thinkific())
    assert isinstance(error, TerminalException)
    assert "(401 at http" in str(error)
    assert str(error).endswith(f": check {BOTH}.")
    assert "a-wrong-one" not in str(error)
    assert thinkific_site.counts()["total"] == 1


@pytest.mark.parametrize("value", [None, "", "  "])
@pytest.mark.parametrize("key", ["API_KEY", "SUBDOMAIN"])
def test_a_missing_setting_is_named(
    thinkific_site: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, key: str, value: str | None
) -> None:
    monkeypatch.setenv(key, "somebody-else's")
    monkeypatch.delenv(f"SOURCES__THINKIFIC__{key}")
    if value is not None:
        monkeypatch.setenv(f"SOURCES__THINKIFIC__{key}", value)
    error = warehouse.refused(thinkific())
    assert str(error) == f"SOURCES__THINKIFIC__{key} is missing or empty: set it to read from Thinkific."
    assert isinstance(error, PermanentSourceError)
    assert thinkific_site.counts()["total"] == 0


def test_an_argument_wins_over_the_variable(thinkific_site: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__THINKIFIC__API_KEY", "a-wrong-key")
    monkeypatch.setenv("SOURCES__THINKIFIC__SUBDOMAIN", "a-wrong-one")
    assert len(read_courses(subdomain="sandbox", api_key=thinkific_site.token)) == 12


def test_a_plan_without_the_api_is_named(thinkific_site: Sandbox) -> None:
    thinkific_site.fault("thinkific_forbidden")
    with pytest.raises(PermanentSourceError, match=r"403: .*not available on your plan.*API_KEY needs a plan that"):
        read_courses()
    assert thinkific_site.counts()["total"] == 1


def test_a_wrong_address_is_named(thinkific_site: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__THINKIFIC__API_BASE_URL", f"{thinkific_site.thinkific_url}/v2")
    with pytest.raises(PermanentSourceError, match=r"/v2/courses.*\(404\).*SOURCES__THINKIFIC__API_BASE_URL"):
        read_courses()


def test_the_key_follows_no_redirect(thinkific_site: Sandbox) -> None:
    elsewhere = f"{thinkific_site.github_url}/elsewhere"
    thinkific_site.fault("status", status=302, headers={"Location": elsewhere})
    with pytest.raises(PermanentSourceError, match=r"/courses.* leads elsewhere: check SOURCES__THINKIFIC__API_BASE"):
        read_courses()
    assert thinkific_site.counts()["total"] == 1


def test_a_refused_request_is_told_in_the_vendors_words(thinkific_site: Sandbox) -> None:
    thinkific_site.fault("status", status=422, message="course_id can't be blank")
    with pytest.raises(PermanentSourceError, match=r"refuses .*/courses.* \(422: .*can't be blank"):
        read_courses()


def test_the_limit_is_waited_for(thinkific_site: Sandbox, warehouse: Warehouse) -> None:
    thinkific_site.settings(thinkific_requests=10, thinkific_window_seconds=1)
    loaded = warehouse.load(thinkific().with_resources("courses", "course_reviews"))
    assert (loaded["courses"], loaded["course_reviews"]) == (12, 150)
    counts = thinkific_site.counts()["by_status"]
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
def test_however_the_reset_is_meant_nobody_waits_longer_than_a_minute(
    thinkific_site: Sandbox, monkeypatch: pytest.MonkeyPatch, reset: Any, wait: float
) -> None:
    monkeypatch.setenv("SOURCES__THINKIFIC__MAX_WAIT", "5")
    thinkific_site.fault("status", status=429, headers={"RateLimit-Reset": reset()} if reset else {})
    sentence = f"Thinkific's rate limit is used up until {datetime.now(UTC):%Y}-.* UTC; .*THINKIFIC__MAX_WAIT"
    with pytest.raises(LimitError, match=sentence) as failure:
        read_courses()
    assert isinstance(failure.value, TransientException)
    assert failure.value.wait == pytest.approx(wait, abs=2)
    assert thinkific_site.counts()["total"] == 1


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("connection_reset", {}, r"broke off at .*/courses.* after 5 attempts"),
        ("truncated_body", {}, r"broke off at .*/courses.* after 5 attempts"),
        ("status", {"status": 500}, r"failed at .*/courses.* \(500.* after 5 attempts"),
        ("status", {"status": 502}, r"ran out of time at .*/courses.* after 5 attempts"),
    ],
)
def test_what_may_pass_is_tried_again(
    thinkific_site: Sandbox, kind: str, options: dict[str, Any], sentence: str
) -> None:
    thinkific_site.fault(kind, times=4, **options)
    assert len(read_courses()) == 12
    thinkific_site.fault(kind, times=None, **options)
    with pytest.raises(TransientSourceError, match=sentence):
        read_courses()


def test_a_malformed_body_names_its_address(thinkific_site: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    thinkific_site.fault("malformed_json")
    with pytest.raises(TransientSourceError, match=r"no valid JSON \(\d+ bytes at .*/courses\?page=1&limit=250"):
        read_courses()
    monkeypatch.setenv("SOURCES__THINKIFIC__API_BASE_URL", f"{thinkific_site.url}/health?")
    with pytest.raises(TransientSourceError, match=r"JSON that is no list of courses at .*/health"):
        read_courses()


def test_the_key_is_in_no_message(
    thinkific_site: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    key = thinkific_site.token
    faults: list[tuple[str, dict[str, Any]]] = [
        ("status", {"status": 500, "times": 9, "message": f"{key} failed"}),
        ("status", {"status": 403, "message": f"{key} may not"}),
        ("status", {"status": 422, "message": f"{key} is wrong"}),
        ("connection_reset", {"times": 9}),
    ]
    with caplog.at_level(logging.DEBUG, "dlt"):
        for kind, options in faults:
            thinkific_site.fault(kind, **options)
            with pytest.raises(SourceError) as failure:
                read_courses()
            chain: BaseException | None = failure.value
            while chain:
                assert key not in f"{chain} {chain!r}"
                chain = chain.__cause__ or chain.__context__
            thinkific_site.clear_faults()
    assert key not in caplog.text
