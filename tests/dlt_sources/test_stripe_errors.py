"""What goes wrong at Stripe: waited for, tried again, or told in a sentence that says what to do."""

import logging
from typing import Any

import pytest

from dlt_sources.http import LimitError, PermanentSourceError, SourceError, TransientSourceError
from dlt_sources.stripe import incremental_stripe_source, stripe_money, stripe_source
from tests.conftest import Sandbox
from tests.dlt_sources.conftest import Warehouse


def read(endpoint: str = "Customer", **options: Any) -> list[dict[str, Any]]:
    [resource] = stripe_source((endpoint,), **options).resources.values()
    return list(resource)


@pytest.mark.parametrize("key", [None, "", "  "])
@pytest.mark.parametrize("section", ["stripe", "stripe_eu"])
def test_a_missing_key_is_named(
    stripe: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, key: str | None, section: str
) -> None:
    variable = f"SOURCES__{section.upper()}__SECRET_KEY"
    monkeypatch.setenv("SECRET_KEY", "somebody-else's")
    monkeypatch.delenv(variable)
    if key is not None:
        monkeypatch.setenv(variable, key)
    for source in (stripe_source(section=section), incremental_stripe_source(section=section)):
        error = warehouse.refused(source)
        assert str(error) == f"{variable} is missing or empty: set it to read from Stripe."
    with pytest.raises(PermanentSourceError, match=variable):
        stripe_money(None, None, section=section)
    assert stripe.counts()["total"] == 0


def test_a_wrong_key_fails_at_once(stripe: Sandbox, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__STRIPE_EU__SECRET_KEY", "a-wrong-key")
    error = warehouse.refused(incremental_stripe_source(("Event",), section="stripe_eu"))
    assert isinstance(error, PermanentSourceError)
    assert "Stripe rejects the credential (401 at " in str(error)
    assert str(error).endswith("check SOURCES__STRIPE_EU__SECRET_KEY.")
    assert stripe.counts()["total"] == 1
    assert len(read(section="stripe")) == 250  # the other account has its own key


def test_bare_variables_change_nothing_and_an_argument_wins(stripe: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_KEY", "START_DATE", "END_DATE", "SECTION", "API_BASE_URL", "CREATED"):
        monkeypatch.setenv(name, "2026-05-01")
    assert len(read()) == 250
    monkeypatch.setenv("SOURCES__STRIPE__SECRET_KEY", "a-wrong-key")
    assert len(read(secret_key=stripe.token)) == 250


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (400, r"Stripe refuses http.*/v1/customers.* \(400: .*told to answer"),
        (403, r"\(403: .*\): SOURCES__STRIPE__SECRET_KEY needs read access to it, if it is a restricted key\.$"),
        (404, r"Stripe has nothing at .* SOURCES__STRIPE__API_BASE_URL"),
    ],
)
def test_a_refusal_fails_at_once_and_says_what_to_change(stripe: Sandbox, status: int, sentence: str) -> None:
    stripe.fault("status", status=status)
    with pytest.raises(PermanentSourceError, match=sentence):
        read()
    assert stripe.counts()["total"] == 1


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
def test_what_may_pass_is_tried_again(stripe: Sandbox, kind: str, options: dict[str, Any]) -> None:
    stripe.fault(kind, times=2, match={"path": "/v1/customers"}, **options)
    assert len({row["id"] for row in read()}) == 250
    assert stripe.counts()["total"] == 3 + 2


def test_what_does_not_pass_says_what_it_was(stripe: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    stripe.fault("stripe_lock_timeout", times=None)
    with pytest.raises(TransientSourceError, match=r"Stripe failed at .*409.*process is currently accessing.* Gave up"):
        read()
    stripe.clear_faults()
    stripe.fault("status", times=None, status=429, retry_after=1_800)
    monkeypatch.setenv("SOURCES__STRIPE__MAX_WAIT", "5")
    with pytest.raises(LimitError, match=r"Stripe's rate limit is used up until .* UTC; .*SOURCES__STRIPE__MAX_WAIT"):
        read()


def test_a_limit_per_second_slows_down_and_loses_nothing(stripe: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME__REQUEST_BACKOFF_FACTOR", "0.3")
    stripe.settings(stripe_requests_per_second=4)
    assert len({row["id"] for row in read("Event")}) == 802
    assert stripe.counts()["by_status"].get("429", 0) > 0


@pytest.mark.parametrize("path", ["/v1/invoices", "/lines"])
def test_a_malformed_body_is_never_skipped(stripe: Sandbox, path: str) -> None:
    stripe.fault("malformed_json", times=None, match={"path": path})
    with pytest.raises(TransientSourceError, match=rf"Stripe sent no valid JSON \(\d+ bytes at http.*{path}"):
        read("Invoice")


def test_what_is_no_list_is_told(stripe: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__STRIPE__API_BASE_URL", f"{stripe.url}/stripe/v1/customers/{read()[0]['id']}?")
    with pytest.raises(TransientSourceError, match="Stripe sent no list, or an endless one, at http"):
        read()


def test_an_interrupted_load_loads_nothing_and_the_next_one_everything(stripe: Sandbox, warehouse: Warehouse) -> None:
    warehouse.load(incremental_stripe_source(end_date="2026-05-01"))
    before = warehouse.value("SELECT count(*) FROM event")
    stripe.forget_requests()
    stripe.fault("status", status=401, match={"path": "/v1/balance_transactions"})
    assert isinstance(warehouse.refused(incremental_stripe_source()), PermanentSourceError)
    assert stripe.counts()["by_path"]["/stripe/v1/events"] > 0  # some of it was read already
    assert warehouse.value("SELECT count(*) FROM event") == before
    loaded = warehouse.load(incremental_stripe_source())
    assert (loaded["event"], loaded["balance_transaction"]) == (802, 381)
    assert warehouse.value("SELECT count(*) FROM event") == 802


def test_the_key_is_in_no_message(
    stripe: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("dlt"), "propagate", True)
    faults: list[tuple[str, dict[str, Any]]] = [
        ("status", {"status": 500, "times": 9, "message": f"{stripe.token} failed"}),
        ("status", {"status": 403, "message": f"{stripe.token} may not"}),
        ("status", {"status": 400, "message": f"{stripe.token} is wrong"}),
        ("connection_reset", {"times": 9}),
        ("malformed_json", {}),
    ]
    with caplog.at_level(logging.DEBUG, "dlt"):
        for kind, options in faults:
            stripe.fault(kind, **options)
            with pytest.raises(SourceError) as failure:
                read()
            chain: BaseException | None = failure.value
            while chain:
                assert stripe.token not in f"{chain} {chain!r}"
                chain = chain.__cause__ or chain.__context__
            stripe.clear_faults()
    assert "Next attempt" in caplog.text
    assert stripe.token not in caplog.text
