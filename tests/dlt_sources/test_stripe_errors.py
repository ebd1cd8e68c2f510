"""Stripe's failures: rate limits are waited for, transient errors retried, and messages say what to change."""

import logging
from typing import Any

import pytest

from dlt_sources.errors import PermanentSourceError, SourceError, TransientSourceError
from dlt_sources.http import LimitError
from dlt_sources.stripe import incremental_stripe_source, stripe_money, stripe_source
from tests.support.sandbox import StripeApi
from tests.support.source_warehouse import SourceWarehouse


def read(endpoint: str = "Customer", **options: Any) -> list[dict[str, Any]]:
    [resource] = stripe_source((endpoint,), **options).resources.values()
    return list(resource)


@pytest.mark.parametrize("key", [None, "", "  "])
@pytest.mark.parametrize("section", ["stripe", "stripe_eu"])
def test_an_error_names_a_missing_key(
    stripe_api: StripeApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch, key: str | None, section: str
) -> None:
    variable = f"SOURCES__{section.upper()}__SECRET_KEY"
    monkeypatch.setenv("SECRET_KEY", "somebody-else's")
    monkeypatch.delenv(variable)
    if key is not None:
        monkeypatch.setenv(variable, key)
    for source in (stripe_source(section=section), incremental_stripe_source(section=section)):
        error = warehouse.load_error(source)
        assert str(error) == f"{variable} is missing, empty or a placeholder: set it to read from Stripe."
    with pytest.raises(PermanentSourceError, match=variable):
        stripe_money(None, None, section=section)
    assert stripe_api.sandbox.counts()["total"] == 0


def test_a_wrong_key_fails_without_a_retry(
    stripe_api: StripeApi, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__STRIPE_EU__SECRET_KEY", "a-wrong-key")
    error = warehouse.load_error(incremental_stripe_source(("Event",), section="stripe_eu"))
    assert isinstance(error, PermanentSourceError)
    assert "Stripe rejects the credential (401 at " in str(error)
    assert str(error).endswith("check SOURCES__STRIPE_EU__SECRET_KEY.")
    assert stripe_api.sandbox.counts()["total"] == 1
    assert len(read(section="stripe")) == 250  # the other account has its own key


def test_variables_without_the_section_are_ignored_and_an_argument_takes_precedence(
    stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SECRET_KEY", "START_DATE", "END_DATE", "SECTION", "API_BASE_URL", "CREATED"):
        monkeypatch.setenv(name, "2026-05-01")
    assert len(read()) == 250
    monkeypatch.setenv("SOURCES__STRIPE__SECRET_KEY", "a-wrong-key")
    assert len(read(secret_key=stripe_api.token)) == 250


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, r"Stripe rejects the request http.*/v1/customers.* \(400: .*told to answer"),
        (403, r"\(403: .*\): SOURCES__STRIPE__SECRET_KEY needs read access to it, if it is a restricted key\.$"),
        (404, r"Stripe has nothing at .* SOURCES__STRIPE__API_BASE_URL"),
    ],
)
def test_a_client_error_fails_without_a_retry_and_says_what_to_change(
    stripe_api: StripeApi, status: int, sentence: str
) -> None:
    stripe_api.sandbox.fault("status", status=status)
    with pytest.raises(PermanentSourceError, match=sentence):
        read()
    assert stripe_api.sandbox.counts()["total"] == 1


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("stripe_rate_limit", {}),
        ("stripe_lock_timeout", {}),
        ("status", {"status": 429, "retry_after": 0}),
        ("status", {"status": 500}),
        ("status", {"status": 502}),
        ("connection_reset", {}),
        ("truncated_body", {}),
    ],
)
def test_transient_errors_are_retried(stripe_api: StripeApi, kind: str, options: dict[str, Any]) -> None:
    stripe_api.sandbox.fault(kind, times=2, match={"path": "/v1/customers"}, **options)
    assert len({row["id"] for row in read()}) == 250
    assert stripe_api.sandbox.counts()["total"] == 3 + 2


def test_an_error_that_persists_is_raised_with_its_cause(
    stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    stripe_api.sandbox.fault("stripe_lock_timeout", times=None)
    with pytest.raises(TransientSourceError, match=r"Stripe failed at .*409.*process is currently accessing.* Gave up"):
        read()
    stripe_api.sandbox.clear_faults()
    stripe_api.sandbox.fault("status", times=None, status=429, retry_after=1_800)
    monkeypatch.setenv("SOURCES__STRIPE__MAX_WAIT", "5")
    with pytest.raises(LimitError, match=r"Stripe's rate limit is used up until .* UTC; .*SOURCES__STRIPE__MAX_WAIT"):
        read()


def test_a_rate_limit_slows_the_load_down_and_loses_no_rows(
    stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.3")
    stripe_api.sandbox.settings(stripe_requests_per_second=4)
    assert len({row["id"] for row in read("Event")}) == 802
    assert stripe_api.sandbox.counts()["by_status"].get("429", 0) > 0


@pytest.mark.parametrize("path", ["/v1/invoices", "/lines"])
def test_a_malformed_body_fails_with_its_url(stripe_api: StripeApi, path: str) -> None:
    stripe_api.sandbox.fault("malformed_json", times=None, match={"path": path})
    with pytest.raises(TransientSourceError, match=rf"Stripe sent invalid JSON \(\d+ bytes at http.*{path}"):
        read("Invoice")


def test_a_body_that_is_not_a_list_fails(stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "SOURCES__STRIPE__API_BASE_URL", f"{stripe_api.sandbox.url}/stripe/v1/customers/{read()[0]['id']}?"
    )
    with pytest.raises(TransientSourceError, match="Stripe sent JSON that is not a list of objects at http"):
        read()


def test_a_failed_load_loads_nothing_and_the_next_one_everything(
    stripe_api: StripeApi, warehouse: SourceWarehouse
) -> None:
    warehouse.load(incremental_stripe_source(end_date="2026-05-01"))
    before = warehouse.value("SELECT count(*) FROM event")
    stripe_api.sandbox.forget_requests()
    stripe_api.sandbox.fault("status", status=401, match={"path": "/v1/balance_transactions"})
    assert isinstance(warehouse.load_error(incremental_stripe_source()), PermanentSourceError)
    assert stripe_api.sandbox.counts()["by_path"]["/stripe/v1/events"] > 0  # some of it was read already
    assert warehouse.value("SELECT count(*) FROM event") == before
    loaded = warehouse.load(incremental_stripe_source())
    assert (loaded["event"], loaded["balance_transaction"]) == (802, 381)
    assert warehouse.value("SELECT count(*) FROM event") == 802


def test_no_message_contains_the_key(
    stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    faults: list[tuple[str, dict[str, Any]]] = [
        ("status", {"status": 500, "times": 9, "message": f"{stripe_api.token} failed"}),
        ("status", {"status": 403, "message": f"{stripe_api.token} may not"}),
        ("status", {"status": 400, "message": f"{stripe_api.token} is wrong"}),
        ("connection_reset", {"times": 9}),
        ("malformed_json", {}),
    ]
    with caplog.at_level(logging.DEBUG, "dlt"):
        for kind, options in faults:
            stripe_api.sandbox.fault(kind, **options)
            with pytest.raises(SourceError) as failure:
                read()
            chain: BaseException | None = failure.value
            while chain:
                assert stripe_api.token not in f"{chain} {chain!r}"
                chain = chain.__cause__ or chain.__context__
            stripe_api.sandbox.clear_faults()
    assert "Next attempt" in caplog.text
    assert stripe_api.token not in caplog.text
