"""Control calls reject wrong arguments and say which are valid."""

from typing import Any

import pytest

from tests.support.sandbox import Sandbox


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("/faults", {"kind": "earthquake"}, "unknown fault 'earthquake'; known: status"),
        ("/faults", {"kind": "slow", "match": {"host": "x"}}, "unknown match 'host'; known: path"),
        ("/settings", {"latency": 1}, "unknown setting 'latency'; known: latency_ms"),
        ("/settings", {"latency_ms": -1}, "latency_ms must be a number of at least 0, not -1"),
        ("/github/repositories", {"name": "x", "issue": 1}, "unknown size 'issue'; known: issues"),
        ("/github/repositories", {"name": "x/y"}, "name must consist of letters, digits and hyphens"),
        ("/github/changes", {"kind": "rename"}, "unknown change 'rename'; known: close"),
        ("/github/changes", {"kind": "edit", "repository": "x/y"}, "unknown repository 'x/y'"),
        ("/github/changes", {"kind": "edit", "number": 9999}, "the change 'edit' of sandbox/handbook"),
        ("/hubspot/account", {"deals": -1}, "deals must be a whole number from 0 to 100,000, not -1"),
        ("/hubspot/account", {"unicorns": 1}, "unknown size 'unicorns'; known: companies"),
        ("/hubspot/changes", {"kind": "explode"}, "unknown change 'explode'; known: new_object"),
        ("/hubspot/changes", {"kind": "archive", "type": "deals", "id": "1"}, "deals has no 1; ids: 3000001"),
        ("/hubspot/changes", {"kind": "archive", "type": "deal", "id": "1"}, "unknown type 'deal'; known: companies"),
        ("/stripe/accounts", {"key": "other"}, "key must begin with sandbox-token-"),
        ("/stripe/accounts", {"key": "sandbox-token-a", "colours": 1}, "unknown size 'colours'; known: customers"),
        ("/stripe/accounts", {"key": "sandbox-token-a", "customers": -1}, "customers must be a whole number from 0"),
        ("/stripe/changes", {"kind": "burn"}, "unknown change 'burn'; known: new_customer, update_customer"),
        ("/stripe/changes", {"kind": "settle", "key": "other"}, "unknown key 'other'"),
        ("/stripe/changes", {"kind": "update_customer", "id": "cus_0"}, "customers has no cus_0"),
        ("/stripe/changes", {"kind": "update_customer", "colour": 1}, "unknown field 'colour'; known: default_source"),
        ("/stripe/changes", {"kind": "settle", "colour": 1}, "the change 'settle' with {'colour': 1} failed"),
        ("/thinkific/site", {"users": -1}, "users must be a whole number from 0"),
        ("/thinkific/site", {"users": 1, "enrollments": 13}, "1 users can enroll only once in each of 12 courses"),
        ("/thinkific/site", {"enrollments": 5, "course_reviews": 6}, "each review needs an enrollment"),
        ("/thinkific/site", {"lessons": 1}, "unknown size 'lessons'; known: courses"),
        ("/thinkific/changes", {"kind": "burn"}, "unknown change 'burn'; known: new, edit, progress, delete"),
        ("/thinkific/changes", {"kind": "edit", "table": "users", "id": 7}, "users has no row 7"),
        ("/thinkific/changes", {"kind": "edit", "table": "users", "age": 7}, "unknown column 'age'; known: id"),
        ("/thinkific/changes", {"kind": "new", "table": "enrollments"}, "user 1001 is already enrolled in course 101"),
        ("/thinkific/changes", {"kind": "new", "table": "lessons"}, "unknown table 'lessons'; known: courses, users"),
    ],
)
def test_a_wrong_control_call_gets_status_400_and_says_what_is_valid(
    sandbox: Sandbox, path: str, body: dict[str, Any], error: str
) -> None:
    response = sandbox.http.post(f"{sandbox.url}/_sandbox{path}", json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"].startswith(error)
