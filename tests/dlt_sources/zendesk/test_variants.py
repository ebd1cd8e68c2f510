"""The documentation's variants of its example: a second table, another login."""

import base64
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dlt.extract import DltSource
from dlt.sources.helpers.rest_client.auth import HttpBasicAuth

from tests.dlt_sources import zendesk
from tests.dlt_sources.zendesk import test_zendesk
from tests.dlt_sources.zendesk.test_zendesk import TOKEN, Zendesk
from tests.support.paths import ROOT
from tests.support.source_warehouse import SourceWarehouse

CODE = Path(zendesk.__file__).read_text()
account = test_zendesk.account  # the fixture


def on_the_page(mark: str) -> str:
    """The block of code on the page that contains a mark, besides the example itself."""
    page = (ROOT / "docs" / "add-a-source.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if mark in block and block != CODE]
    return str(block)


def variant(changes: Mapping[str, str]) -> DltSource:
    """The example with some of its code replaced."""
    code = CODE
    for old, new in changes.items():
        assert code.count(old) == 1
        code = code.replace(old, new)
    module: dict[str, Any] = {"__name__": zendesk.__name__, "HttpBasicAuth": HttpBasicAuth}
    exec(code, module)
    source: DltSource = module["zendesk"]()
    return source


def test_a_second_table_has_a_cursor_of_its_own(account: Zendesk, warehouse: SourceWarehouse) -> None:
    users = textwrap.indent(on_the_page("def users"), "    ")
    account.update(1, second=1)
    for number in range(1, 4):
        account.update(number, second=number, table="users")
    both = {"    yield tickets\n": f"    yield tickets\n\n{users}"}
    assert warehouse.load(variant(both)) == {"tickets": 1, "users": 3}
    account.requests.clear()
    account.update(4, second=4, table="users")
    assert warehouse.load(variant(both)) == {"users": 1}
    assert sorted(request["cursor"] for request in account.requests) == [["1"], ["3"]]


def test_an_api_token_logs_in_with_an_email(
    account: Zendesk, warehouse: SourceWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = on_the_page("HttpBasicAuth(").removeprefix("client = ").strip()
    source = variant(
        {
            'credential="access_token",': 'credential="api_token", companions=("email",),',
            "ZENDESK.rest_client()": client,
        }
    )
    monkeypatch.setenv("SOURCES__ZENDESK__API_TOKEN", TOKEN)
    monkeypatch.setenv("SOURCES__ZENDESK__EMAIL", "agent@example.com")
    account.authorization = "Basic " + base64.b64encode(f"agent@example.com/token:{TOKEN}".encode()).decode()
    account.update(1, second=1)
    assert warehouse.load(source) == {"tickets": 1}

    account.authorization = "another"
    named = "check SOURCES__ZENDESK__API_TOKEN and SOURCES__ZENDESK__EMAIL."
    assert str(warehouse.load_error(source)).endswith(named)
