"""Thinkific's authentication, paging, filters and errors, and data that is consistent."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from requests import Response

from tests.support.sandbox import Sandbox, StartSandbox

NAMES = ("courses", "users", "enrollments", "course_reviews")
FIELDS = {  # as published: what a row has, and what each field may be beside null
    "courses": {
        int: "id product_id user_id instructor_id",
        str: "name slug subtitle description course_card_text intro_video_youtube contact_information keywords "
        "duration banner_image_url course_card_image_url intro_video_wistia_identifier",
        list: "administrator_user_ids chapter_ids",
        bool: "reviews_enabled",
    },
    "users": {
        int: "id",
        float: "affiliate_commission",
        str: "created_at first_name last_name full_name company email avatar_url bio headline affiliate_code "
        "external_source affiliate_commission_type affiliate_payout_email",
        list: "roles administered_course_ids custom_profile_fields",
    },
    "enrollments": {
        int: "id user_id course_id",
        float: "percentage_completed",
        str: "user_email user_name course_name started_at activated_at completed_at updated_at expiry_date",
        bool: "expired is_free_trial completed",
    },
    "course_reviews": {
        int: "id rating user_id course_id",
        str: "title review_text created_at",
        bool: "approved",
    },
}


def get(sandbox: Sandbox, path: str, key: str = "sandbox-token", site: str = "sandbox", **query: Any) -> Response:
    headers = {"X-Auth-API-Key": key, "X-Auth-Subdomain": site}
    return sandbox.thinkific.get(f"/{path}", headers=headers, params=query)


def everything(sandbox: Sandbox, table: str, **query: Any) -> list[dict[str, Any]]:
    """All rows of a list; of the reviews, those of all courses."""
    if table == "course_reviews" and "course_id" not in query:
        courses = [course["id"] for course in everything(sandbox, "courses")]
        return [review for course in courses for review in everything(sandbox, table, course_id=course)]
    rows: list[dict[str, Any]] = []
    page: int | None = 1
    while page:
        body = get(sandbox, table, page=page, limit=250, **query).json()
        rows += body["items"]
        page = body["meta"]["pagination"]["next_page"]
    return rows


def ids(sandbox: Sandbox, **filters: Any) -> set[int]:
    """The enrollments that pass the filters."""
    return {row["id"] for row in everything(sandbox, "enrollments", **{f"query[{k}]": v for k, v in filters.items()})}


@pytest.mark.parametrize(("key", "site"), [("wrong", "sandbox"), ("sandbox-token", "wrong"), ("", "")])
def test_a_wrong_key_or_subdomain_gets_status_401(sandbox: Sandbox, key: str, site: str) -> None:
    answer = get(sandbox, "courses", key=key, site=site)
    assert (answer.status_code, answer.json()) == (401, {"error": "Authentication Error"})


@pytest.mark.parametrize("table", NAMES)
def test_rows_have_the_documented_fields(sandbox: Sandbox, table: str) -> None:
    kinds = {name: kind for kind, names in FIELDS[table].items() for name in names.split()}
    rows = everything(sandbox, table)
    for row in rows:
        assert set(row) == set(kinds)
        assert all(value is None or type(value) is kinds[name] for name, value in row.items()), row
    assert get(sandbox, f"{table}/{rows[-1]['id']}").json() == rows[-1]


def test_rows_of_different_tables_are_consistent(sandbox: Sandbox) -> None:
    sandbox.settings(thinkific_requests=10_000)
    courses, users, enrollments, reviews = ({r["id"]: r for r in everything(sandbox, table)} for table in NAMES)
    pairs = {(row["user_id"], row["course_id"]) for row in enrollments.values()}
    assert len(pairs) == len(enrollments)
    for row in enrollments.values():
        user, course = users[row["user_id"]], courses[row["course_id"]]
        names = (user["email"], user["full_name"], course["name"])
        assert (row["user_email"], row["user_name"], row["course_name"]) == names
        assert row["completed"] == (row["percentage_completed"] == 1) == (row["completed_at"] is not None)
        assert (row["started_at"] is None) == (row["percentage_completed"] == 0)
        moments = [user["created_at"], row["activated_at"], row["started_at"], row["completed_at"], row["updated_at"]]
        known = [moment for moment in moments if moment]
        assert known == sorted(known)
        assert row["is_free_trial"] == (row["activated_at"] is None)
        assert not row["expired"] or row["updated_at"] == row["expiry_date"]
    assert all((row["user_id"], row["course_id"]) in pairs for row in reviews.values())
    assert all(set(row["administrator_user_ids"]) <= set(users) for row in courses.values())
    assert all(set(row["administered_course_ids"]) <= set(courses) for row in users.values())
    assert len({row["email"] for row in users.values()}) == len(users)


def test_the_seed_determines_the_data(sandbox: Sandbox, start_sandbox: StartSandbox) -> None:
    first = get(sandbox, "enrollments", limit=250).content
    assert get(start_sandbox("--seed", "1"), "enrollments", limit=250).content == first
    assert get(start_sandbox("--seed", "2"), "enrollments", limit=250).content != first


@pytest.mark.parametrize("rows", [0, 1, 100, 101, 10_000])
def test_paging_returns_every_row_once(sandbox: Sandbox, rows: int) -> None:
    sandbox.settings(thinkific_requests=1_000)
    sandbox.thinkific.create_site(courses=1, users=rows, enrollments=rows, course_reviews=rows)
    for table in ("users", "enrollments", "course_reviews"):
        found = [row["id"] for row in everything(sandbox, table)]
        assert len(set(found)) == len(found) == rows


def test_a_page_has_the_documented_metadata(sandbox: Sandbox) -> None:
    sandbox.thinkific.create_site(users=101, enrollments=0, course_reviews=0)
    pagination = get(sandbox, "users", page=2, limit=50).json()["meta"]["pagination"]
    assert pagination == {
        "current_page": 2,
        "next_page": 3,
        "prev_page": 1,
        "total_pages": 3,
        "total_items": 101,
        "entries_info": "51-100 of 101",
    }
    assert len(get(sandbox, "users").json()["items"]) == 25
    sandbox.thinkific.create_site(users=300, enrollments=0, course_reviews=0)
    assert len(get(sandbox, "users", limit=100_000).json()["items"]) == 250
    assert get(sandbox, "users", page=99).json()["items"] == []


def test_enrollments_have_the_documented_filters(sandbox: Sandbox) -> None:
    sandbox.settings(thinkific_requests=10_000)
    rows = everything(sandbox, "enrollments")
    one = rows[700]
    updated, day = one["updated_at"], one["updated_at"][:10]
    expected = {
        ("updated_after", updated): {r["id"] for r in rows if r["updated_at"] > updated},
        ("updated_before", updated): {r["id"] for r in rows if r["updated_at"] < updated},
        ("updated_on_or_before", updated): {r["id"] for r in rows if r["updated_at"] <= updated},
        ("updated_on", day): {r["id"] for r in rows if r["updated_at"][:10] == day},
        ("updated_on_or_after", updated): {r["id"] for r in rows},  # not published, so ignored
        ("user_id", one["user_id"]): {r["id"] for r in rows if r["user_id"] == one["user_id"]},
        ("course_id", one["course_id"]): {r["id"] for r in rows if r["course_id"] == one["course_id"]},
        ("email", one["user_email"]): {r["id"] for r in rows if r["user_email"] == one["user_email"]},
        ("completed", "true"): {r["id"] for r in rows if r["completed"]},
        ("expired", "true"): {r["id"] for r in rows if r["expired"]},
        ("free_trial", "true"): {r["id"] for r in rows if r["is_free_trial"]},
        ("full", "true"): {r["id"] for r in rows if not r["is_free_trial"]},
    }
    for (name, value), wanted in expected.items():
        assert wanted, name
        assert ids(sandbox, **{name: value}) == wanted, name
    created = [ids(sandbox, **{f"created_{when}": "2025-01-01"}) for when in ("before", "on_or_after")]
    assert [*map(bool, created), len(created[0] | created[1])] == [True, True, 2_400]
    assert ids(sandbox, course_id=one["course_id"], completed="true") == (
        expected["course_id", one["course_id"]] & expected["completed", "true"]
    )


def test_users_have_the_documented_filters(sandbox: Sandbox) -> None:
    def found(**filters: str) -> int:
        rows = everything(sandbox, "users", **{f"query[{name}]": value for name, value in filters.items()})
        return len(rows)

    assert found(email="user1002@example.com") == 1
    assert found(role="site_admin") == 1
    assert found(external_source="api") == 150
    assert found(custom_profile_field_label="Country", custom_profile_field_value="Canada") == 120
    assert found(custom_profile_field_label="Country", custom_profile_field_value="Peru") == 0
    assert found(updated_after="2030-01-01") == 600  # not published, so ignored


def test_reviews_require_a_course(sandbox: Sandbox) -> None:
    missing = get(sandbox, "course_reviews")
    assert (missing.status_code, missing.json()) == (422, {"errors": {"course_id": ["can't be blank"]}})
    assert get(sandbox, "course_reviews", course_id=1).status_code == 404
    approved = everything(sandbox, "course_reviews", course_id=101, approved="true")
    assert 0 < len(approved) < len(everything(sandbox, "course_reviews", course_id=101))
    assert all(row["approved"] for row in approved)


def test_missing_rows_and_wrong_filters_get_thinkifics_errors(sandbox: Sandbox) -> None:
    missing = get(sandbox, "users/7")
    assert (missing.status_code, missing.json()) == (404, {"error": "Record not found."})
    assert get(sandbox, "lessons").status_code == 404
    wrong = get(sandbox, "enrollments", **{"query[updated_after]": "yesterday"})
    assert (wrong.status_code, wrong.json()) == (422, {"errors": {"updated_after": ["is not a date"]}})
    sandbox.fault("thinkific_forbidden")
    assert "not available on your plan" in get(sandbox, "users").json()["error"]


def test_the_limit_is_120_requests_per_minute(sandbox: Sandbox) -> None:
    statuses = [get(sandbox, "courses", limit=1).status_code for _ in range(120)]
    refused = get(sandbox, "courses")
    assert (set(statuses), refused.status_code) == ({200}, 429)
    assert 0 < int(refused.headers["RateLimit-Reset"]) - time.time() <= 61
    sandbox.reset()
    sandbox.fault("thinkific_limit", seconds=5)
    limited = get(sandbox, "courses")
    assert limited.status_code == 429
    assert 4 <= int(limited.headers["RateLimit-Reset"]) - time.time() <= 6
    assert get(sandbox, "courses").status_code == 200


def test_a_fault_of_one_api_does_not_apply_to_another(sandbox: Sandbox) -> None:
    sandbox.fault("thinkific_limit")
    sandbox.fault("secondary_limit")
    assert get(sandbox, "courses").status_code == 429
    assert sandbox.github.get("/rate_limit").status_code == 403


def test_rows_stay_consistent_after_changes(sandbox: Sandbox) -> None:
    before = datetime.now(UTC)
    user = sandbox.thinkific.change("new", "users")
    enrollment = sandbox.thinkific.change("new", "enrollments", user_id=user["id"], course_id=101)
    sandbox.thinkific.change("edit", "users", id=user["id"], full_name="Someone Else")
    done = sandbox.thinkific.change("progress", id=enrollment["id"], percentage=1)
    assert done == get(sandbox, f"enrollments/{enrollment['id']}").json()
    assert (done["user_name"], done["completed"], done["completed_at"]) == ("Someone Else", True, done["updated_at"])
    assert ids(sandbox, updated_after=before.isoformat()) == {enrollment["id"]}
    sandbox.thinkific.change("delete", "users", id=user["id"])
    assert get(sandbox, f"enrollments/{enrollment['id']}").status_code == 404
    sandbox.thinkific.change("new", "course_reviews", course_id=102)
    assert len(everything(sandbox, "course_reviews")) == 151
