"""Personal data is hashed or left out: in dictionaries and Arrow tables, and never because a name was not found."""

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import Any

import dlt
import pyarrow as pa
import pytest

from dlt_sources.personal_data import protect
from tests.support.source_warehouse import SourceWarehouse

SALT = "a-long-random-text"
ROWS = [
    {"id": 1, "eMail": "ann@example.com", "phone": "+49 30 1", "age": 41},
    {"id": 2, "eMail": None, "phone": None, "age": None},
]


@pytest.fixture(autouse=True)
def salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__CRM__HASH_SALT", SALT)


def digest(text: str) -> str:
    return hmac.new(SALT.encode(), text.encode(), hashlib.sha256).hexdigest()


def crm(page: Any, hashed: Sequence[str] = (), left_out: Sequence[str] = ()) -> Any:
    @dlt.resource(name="people", write_disposition="merge", primary_key="id")
    def people() -> Iterator[Any]:
        yield page

    source = dlt.source(lambda: people, name="crm", section="crm")()
    protect(source.people, "crm", hashed, left_out)
    return source


@pytest.mark.parametrize(
    "page", [ROWS, ROWS[0], pa.Table.from_pylist(ROWS), pa.RecordBatch.from_pylist(ROWS)], ids=type
)
def test_columns_are_hashed_and_left_out(any_warehouse: SourceWarehouse, page: Any) -> None:
    warehouse = any_warehouse
    warehouse.load(crm(page, hashed=["e_mail", "age"], left_out=["phone"]))

    assert set(warehouse.columns("people")) == {"id", "e_mail", "age"}
    loaded = warehouse.rows("SELECT id, e_mail, age FROM people ORDER BY id")
    assert loaded[0] == (1, digest("ann@example.com"), digest("41"))
    assert loaded[1:] in ([], [(2, None, None)])


def test_a_column_in_both_lists_is_left_out(warehouse: SourceWarehouse) -> None:
    warehouse.load(crm(ROWS, hashed=["phone"], left_out=["phone"]))

    assert set(warehouse.columns("people")) == {"id", "e_mail", "age"}


@pytest.mark.parametrize("page", [ROWS, pa.Table.from_pylist(ROWS)], ids=type)
@pytest.mark.parametrize("how", ["hashed", "left_out"])
def test_a_misspelled_column_fails_the_load(warehouse: SourceWarehouse, page: Any, how: str) -> None:
    error = warehouse.load_error(crm(page, **{how: ["phone", "emial"]}))

    assert str(error).startswith("A row of people has no emial, to be hashed or left out.")
    assert "ann@example.com" not in str(error)


def test_rows_of_another_type_are_refused(warehouse: SourceWarehouse) -> None:
    error = warehouse.load_error(crm([("ann@example.com",)], hashed=["e_mail"]))

    assert "rows of the type tuple" in str(error)


def test_a_missing_salt_is_named(warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCES__CRM__HASH_SALT")

    assert str(warehouse.load_error(crm(ROWS, hashed=["e_mail"]))).startswith("SOURCES__CRM__HASH_SALT is missing")


def test_a_cursor_that_fails_does_not_print_the_row(warehouse: SourceWarehouse) -> None:
    source = crm(ROWS, hashed=["e_mail"], left_out=["phone"])
    source.people.apply_hints(incremental=dlt.sources.incremental("changed_at"))

    with pytest.raises(Exception, match="changed_at") as failure:
        warehouse.load(source)
    assert "ann@example.com" not in str(failure.value)
    assert "+49 30 1" not in str(failure.value)
