"""HubSpot's failures: rate limits are waited for, transient errors retried, and messages say what to change."""

import logging
import time
from typing import Any

import pytest
from dlt.common.exceptions import TerminalException, TransientException

from dlt_sources.errors import PermanentSourceError, SourceError, TransientSourceError
from dlt_sources.http import LimitError
from dlt_sources.hubspot import hubspot, hubspot_total
from dlt_sources.hubspot.helpers import value
from tests.support.sandbox import HubspotApi
from tests.support.source_warehouse import SourceWarehouse


def read_owners(**options: Any) -> list[dict[str, Any]]:
    return list(hubspot(**options).resources["owners"])


def test_a_wrong_key_fails_without_a_retry(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__HUBSPOT__API_KEY", "pat-wrong")
    error = warehouse.load_error(hubspot())
    assert isinstance(error, PermanentSourceError)
    assert isinstance(error, TerminalException)
    assert str(error).endswith("): check SOURCES__HUBSPOT__API_KEY.")
    assert "pat-wrong" not in str(error)
    assert hubspot_api.sandbox.counts()["total"] == 1


@pytest.mark.parametrize("key", [None, "", "  "])
def test_an_error_names_a_missing_key(
    hubspot_api: HubspotApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setenv("API_KEY", "somebody-else's")
    monkeypatch.delenv("SOURCES__HUBSPOT__API_KEY")
    if key is not None:
        monkeypatch.setenv("SOURCES__HUBSPOT__API_KEY", key)
    for name in hubspot(include_history=True).resources:
        error = warehouse.load_error(hubspot(include_history=True).with_resources(name))
        assert (
            str(error) == "SOURCES__HUBSPOT__API_KEY is missing, empty or a placeholder: set it to read from HubSpot."
        )
    assert hubspot_api.sandbox.counts()["total"] == 0


def test_an_argument_takes_precedence_over_the_variable(
    hubspot_api: HubspotApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__HUBSPOT__API_KEY", "pat-wrong")
    assert len(read_owners(api_key=hubspot_api.token)) == 12
    assert hubspot_total("deals", hubspot_api.token) == 240


def test_an_error_names_a_missing_scope(hubspot_api: HubspotApi) -> None:
    hubspot_api.sandbox.fault("hubspot_scope", scope="crm.objects.owners.read")
    sentence = r"403: .*crm\.objects\.owners\.read.*SOURCES__HUBSPOT__API_KEY needs the private app's scopes"
    with pytest.raises(PermanentSourceError, match=sentence):
        read_owners()
    assert hubspot_api.sandbox.counts()["total"] == 1


def test_an_error_names_a_wrong_base_url(hubspot_api: HubspotApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__HUBSPOT__API_BASE_URL", f"{hubspot_api.url}/v1")
    sentence = r"nothing at .*/hubspot/v1/crm/v3/owners.* \(404\).*SOURCES__HUBSPOT__API_BASE_URL"
    with pytest.raises(PermanentSourceError, match=sentence):
        read_owners()


def test_a_rejected_request_fails_with_the_apis_own_message(hubspot_api: HubspotApi) -> None:
    hubspot_api.sandbox.fault("status", status=400, message="Property values were not valid")
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
def test_transient_errors_are_retried(
    hubspot_api: HubspotApi, kind: str, options: dict[str, Any], least: float
) -> None:
    hubspot_api.sandbox.fault(kind, **options)
    start = time.monotonic()
    assert len(read_owners()) == 12
    assert time.monotonic() - start >= least
    assert hubspot_api.sandbox.counts()["total"] == 3


@pytest.mark.parametrize(
    ("policy", "name", "wait"),
    [("TEN_SECONDLY_ROLLING", "rate limit of ten seconds", 10), ("DAILY", "daily limit", 86_400)],
)
def test_a_limit_longer_than_the_wait_fails(
    hubspot_api: HubspotApi, monkeypatch: pytest.MonkeyPatch, policy: str, name: str, wait: float
) -> None:
    monkeypatch.setenv("SOURCES__HUBSPOT__MAX_WAIT", "5")
    hubspot_api.sandbox.fault("hubspot_limit", policy=policy)
    with pytest.raises(LimitError, match=rf"HubSpot's {name} is used up until .* UTC; .*HUBSPOT__MAX_WAIT") as failure:
        read_owners()
    assert isinstance(failure.value, TransientException)
    assert failure.value.wait == wait
    assert hubspot_api.sandbox.counts()["total"] == 1


def test_searches_wait_for_their_limit(hubspot_api: HubspotApi) -> None:
    hubspot_api.sandbox.settings(hubspot_searches_per_second=1)
    assert [hubspot_total(kind) for kind in ("deals", "tickets")] == [240, 130]
    assert hubspot_api.sandbox.counts()["by_status"] == {"200": 2, "429": 1}


@pytest.mark.parametrize("kind", ["malformed_json", "status"])
def test_an_unexpected_body_fails_with_its_url(hubspot_api: HubspotApi, kind: str) -> None:
    hubspot_api.sandbox.fault(kind, status=200)
    with pytest.raises(TransientSourceError, match=rf"HubSpot sent .*JSON.* {hubspot_api.url}/crm/v3/owners"):
        read_owners()


def test_no_message_contains_the_key(
    hubspot_api: HubspotApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    faults: list[tuple[str, dict[str, Any]]] = [
        ("status", {"status": 500, "times": 9, "message": f"Bearer {hubspot_api.token} failed"}),
        ("status", {"status": 403, "message": f"{hubspot_api.token} may not"}),
        ("connection_reset", {"times": 9}),
    ]
    with caplog.at_level(logging.DEBUG, "dlt"):
        for kind, options in faults:
            hubspot_api.sandbox.fault(kind, **options)
            with pytest.raises(SourceError) as failure:
                read_owners()
            chain: BaseException | None = failure.value
            while chain:
                assert hubspot_api.token not in f"{chain} {chain!r}"
                chain = chain.__cause__ or chain.__context__
            hubspot_api.sandbox.clear_faults()
    assert "Next attempt" in caplog.text
    assert hubspot_api.token not in caplog.text


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
def test_an_emptied_property_is_null_unless_it_is_text(text: str | None, data_type: str, expected: str | None) -> None:
    assert value(text, data_type) == expected


def test_times_in_milliseconds_are_converted() -> None:
    assert value("1772352000123", "timestamp").isoformat() == "2026-03-01T08:00:00.123000+00:00"
