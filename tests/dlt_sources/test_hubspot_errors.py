"""What goes wrong at HubSpot: waited for, tried again, or told in a sentence that says what to do."""

import logging
import time
from typing import Any

import pytest
from dlt.common.exceptions import TerminalException, TransientException

from dlt_sources.http import LimitError, PermanentSourceError, SourceError, TransientSourceError
from dlt_sources.hubspot import hubspot, hubspot_total
from dlt_sources.hubspot.helpers import value
from tests.conftest import Sandbox
from tests.dlt_sources.conftest import Warehouse


def read_owners(**options: Any) -> list[dict[str, Any]]:
    return list(hubspot(**options).resources["owners"])


def test_a_wrong_key_fails_at_once(crm: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__HUBSPOT__API_KEY", "pat-wrong")
    error = warehouse.refused(hubspot())
    assert isinstance(error, PermanentSourceError)
    assert isinstance(error, TerminalException)
    assert str(error).endswith("): check SOURCES__HUBSPOT__API_KEY.")
    assert "pat-wrong" not in str(error)
    assert crm.counts()["total"] == 1


@pytest.mark.parametrize("key", [None, "", "  "])
def test_a_missing_key_is_named(
    crm: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setenv("API_KEY", "somebody-else's")
    monkeypatch.delenv("SOURCES__HUBSPOT__API_KEY")
    if key is not None:
        monkeypatch.setenv("SOURCES__HUBSPOT__API_KEY", key)
    for name in hubspot(include_history=True).resources:
        error = warehouse.refused(hubspot(include_history=True).with_resources(name))
        assert str(error) == "SOURCES__HUBSPOT__API_KEY is missing or empty: set it to read from HubSpot."
    assert crm.counts()["total"] == 0


def test_an_argument_wins_over_the_variable(crm: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__HUBSPOT__API_KEY", "pat-wrong")
    assert len(read_owners(api_key=crm.token)) == 12
    assert hubspot_total("deals", crm.token) == 240


def test_a_missing_scope_is_named(crm: Sandbox) -> None:
    crm.fault("hubspot_scope", scope="crm.objects.owners.read")
    sentence = r"403: .*crm\.objects\.owners\.read.*SOURCES__HUBSPOT__API_KEY needs the private app's scopes"
    with pytest.raises(PermanentSourceError, match=sentence):
        read_owners()
    assert crm.counts()["total"] == 1


def test_a_wrong_address_is_named(crm: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__HUBSPOT__API_BASE_URL", f"{crm.hubspot_url}/v1")
    sentence = r"nothing at .*/hubspot/v1/crm/v3/owners.* \(404\).*SOURCES__HUBSPOT__API_BASE_URL"
    with pytest.raises(PermanentSourceError, match=sentence):
        read_owners()


def test_what_hubspot_calls_invalid_is_told_in_its_words(crm: Sandbox) -> None:
    crm.fault("status", status=400, message="Property values were not valid")
    with pytest.raises(PermanentSourceError, match=r"\(400: .*Property values were not valid"):
        read_owners()


@pytest.mark.parametrize(
    ("kind", "options", "least"),
    [
        ("hubspot_limit", {"policy": "SECONDLY"}, 1),
        ("status", {"status": 429, "retry_after": 1}, 1),
        ("status", {"status": 503}, 0),
        ("status", {"status": 502}, 0),
        ("connection_reset", {}, 0),
        ("truncated_body", {}, 0),
    ],
)
def test_what_passes_is_waited_for(crm: Sandbox, kind: str, options: dict[str, Any], least: float) -> None:
    crm.fault(kind, **options)
    start = time.monotonic()
    assert len(read_owners()) == 12
    assert time.monotonic() - start >= least
    assert crm.counts()["total"] == 3


@pytest.mark.parametrize(
    ("policy", "name", "wait"),
    [("TEN_SECONDLY_ROLLING", "rate limit of ten seconds", 10), ("DAILY", "daily limit", 86_400)],
)
def test_a_limit_that_lasts_too_long_ends_the_load(
    crm: Sandbox, monkeypatch: pytest.MonkeyPatch, policy: str, name: str, wait: float
) -> None:
    monkeypatch.setenv("SOURCES__HUBSPOT__MAX_WAIT", "5")
    crm.fault("hubspot_limit", policy=policy)
    with pytest.raises(LimitError, match=rf"HubSpot's {name} is used up until .* UTC; .*HUBSPOT__MAX_WAIT") as failure:
        read_owners()
    assert isinstance(failure.value, TransientException)
    assert failure.value.wait == wait
    assert crm.counts()["total"] == 1


def test_many_searches_keep_to_their_limit(crm: Sandbox) -> None:
    crm.settings(hubspot_searches_per_second=1)
    assert [hubspot_total(kind) for kind in ("deals", "tickets")] == [240, 130]
    assert crm.counts()["by_status"] == {"200": 2, "429": 1}


@pytest.mark.parametrize("kind", ["malformed_json", "status"])
def test_a_body_that_is_no_answer_names_its_address(crm: Sandbox, kind: str) -> None:
    crm.fault(kind, status=200)
    with pytest.raises(TransientSourceError, match=rf"HubSpot sent .*JSON.* {crm.hubspot_url}/crm/v3/owners"):
        read_owners()


def test_the_key_is_in_no_message(
    crm: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    faults: list[tuple[str, dict[str, Any]]] = [
        ("status", {"status": 500, "times": 9, "message": f"Bearer {crm.token} failed"}),
        ("status", {"status": 403, "message": f"{crm.token} may not"}),
        ("connection_reset", {"times": 9}),
    ]
    with caplog.at_level(logging.DEBUG, "dlt"):
        for kind, options in faults:
            crm.fault(kind, **options)
            with pytest.raises(SourceError) as failure:
                read_owners()
            chain: BaseException | None = failure.value
            while chain:
                assert crm.token not in f"{chain} {chain!r}"
                chain = chain.__cause__ or chain.__context__
            crm.clear_faults()
    assert "Next attempt" in caplog.text
    assert crm.token not in caplog.text


@pytest.mark.parametrize(
    ("text", "data_type", "expected"),
    [
        ("", "text", ""),
        ("", "double", None),
        ("", "bool", None),
        ("", "timestamp", None),
        (None, "date", None),
        ("2026-03-01", "date", "2026-03-01"),
        ("2026-03-01T08:00:00.123Z", "timestamp", "2026-03-01T08:00:00.123Z"),
    ],
)
def test_what_was_emptied_is_null_unless_it_is_text(text: str | None, data_type: str, expected: str | None) -> None:
    assert value(text, data_type) == expected


def test_times_in_milliseconds_are_read_too() -> None:
    assert value("1772352000123", "timestamp").isoformat() == "2026-03-01T08:00:00.123000+00:00"
