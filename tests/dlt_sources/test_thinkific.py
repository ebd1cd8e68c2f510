"""A load of Thinkific: all rows, typed and described columns, and ids that join."""

from datetime import UTC, datetime

import pytest

from dlt_sources.thinkific import thinkific, thinkific_total
from tests.support.sandbox import ThinkificApi
from tests.support.source_warehouse import SourceWarehouse

SIZES = {"courses": 12, "users": 600, "enrollments": 2_400, "course_reviews": 150}
COLUMNS = {
    "courses": {
        "BIGINT": "id product_id user_id instructor_id",
        "VARCHAR": "name slug subtitle description keywords duration course_card_text contact_information "
        "intro_video_youtube intro_video_wistia_identifier banner_image_url course_card_image_url",
        "BOOLEAN": "reviews_enabled",
    },
    "courses__chapter_ids": {"BIGINT": "value"},
    "courses__administrator_user_ids": {"BIGINT": "value"},
    "users": {
        "BIGINT": "id",
        "VARCHAR": "first_name last_name full_name email company headline bio avatar_url external_source "
        "affiliate_code affiliate_commission_type affiliate_payout_email",
        "DOUBLE": "affiliate_commission",
        "TIMESTAMP WITH TIME ZONE": "created_at",
    },
    "users__roles": {"VARCHAR": "value"},
    "users__administered_course_ids": {"BIGINT": "value"},
    "users__custom_profile_fields": {"BIGINT": "id custom_profile_field_definition_id", "VARCHAR": "value label"},
    "enrollments": {
        "BIGINT": "id user_id course_id",
        "VARCHAR": "user_name user_email course_name",
        "DOUBLE": "percentage_completed",
        "BOOLEAN": "completed expired is_free_trial",
        "TIMESTAMP WITH TIME ZONE": "activated_at started_at completed_at expiry_date updated_at",
    },
    "course_reviews": {
        "BIGINT": "id course_id user_id",
        "DOUBLE": "rating",
        "VARCHAR": "title review_text",
        "BOOLEAN": "approved",
        "TIMESTAMP WITH TIME ZONE": "created_at",
    },
}


def expected_columns(table: str) -> dict[str, str]:
    return {name: kind for kind, names in COLUMNS[table].items() for name in names.split()}


def test_creating_the_source_needs_no_secret_and_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCES__THINKIFIC__API_KEY", raising=False)
    assert list(thinkific().resources) == list(SIZES)


def test_all_rows_are_loaded_and_join(thinkific_api: ThinkificApi, any_warehouse: SourceWarehouse) -> None:
    loaded = any_warehouse.load(thinkific())
    assert {table: loaded[table] for table in SIZES} == SIZES
    assert {table: thinkific_total(table) for table in SIZES} == SIZES
    for child in ("enrollments", "course_reviews"):
        joined = f"SELECT count(*) FROM {child} AS c JOIN users u ON u.id = user_id JOIN courses o ON o.id = course_id"
        assert any_warehouse.value(joined) == SIZES[child]
    assert any_warehouse.value("SELECT count(*) FROM users__roles WHERE value = 'affiliate'") == 12
    assert any_warehouse.value("SELECT count(*) FROM users WHERE first_name = '小明'") > 0


def test_tables_have_the_documented_columns_and_types(
    thinkific_api: ThinkificApi, any_warehouse: SourceWarehouse
) -> None:
    any_warehouse.load(thinkific())
    assert {table: any_warehouse.columns(table) for table in COLUMNS} == {
        table: expected_columns(table) for table in COLUMNS
    }
    assert any_warehouse.undescribed(*SIZES) == set()


def test_a_progress_sent_as_text_becomes_a_number(thinkific_api: ThinkificApi, warehouse: SourceWarehouse) -> None:
    thinkific_api.create_site(courses=1, users=1, enrollments=1, course_reviews=0)
    thinkific_api.change("edit", "enrollments", percentage_completed="0.75")
    warehouse.load(thinkific())
    assert warehouse.value("SELECT percentage_completed FROM enrollments") == 0.75
    assert warehouse.columns("enrollments") == expected_columns("enrollments")


def test_an_empty_site_creates_empty_tables_with_typed_columns(
    thinkific_api: ThinkificApi, any_warehouse: SourceWarehouse
) -> None:
    thinkific_api.create_site(courses=1, users=0, enrollments=0, course_reviews=0)
    any_warehouse.load(thinkific())
    for table in ("users", "enrollments", "course_reviews"):
        assert any_warehouse.columns(table) == expected_columns(table)
        assert any_warehouse.value(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize(("rows", "pages"), [(0, 1), (1, 1), (100, 1), (101, 1), (251, 2), (10_000, 40)])
def test_a_list_of_any_length_is_read_with_the_fewest_pages(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse, rows: int, pages: int
) -> None:
    thinkific_api.sandbox.settings(thinkific_requests=1_000)
    thinkific_api.create_site(courses=1, users=rows, enrollments=rows, course_reviews=rows)
    loaded = warehouse.load(thinkific())
    requests = thinkific_api.sandbox.counts()["by_path"]
    for table in ("users", "enrollments", "course_reviews"):
        assert loaded[table] == rows
        assert warehouse.value(f"SELECT count(DISTINCT id) FROM {table}") == rows
        assert requests[f"/thinkific/{table}"] == pages


@pytest.mark.parametrize("courses", [0, 1, 100, 101, 251])
def test_reviews_of_every_course_are_loaded(
    thinkific_api: ThinkificApi, warehouse: SourceWarehouse, courses: int
) -> None:
    thinkific_api.sandbox.settings(thinkific_requests=1_000)
    thinkific_api.create_site(courses=courses, users=1, enrollments=courses, course_reviews=courses)
    loaded = warehouse.extract(thinkific())
    assert (loaded.get("courses", 0), loaded.get("course_reviews", 0)) == (courses, courses)


def test_selecting_reviews_alone_loads_no_courses(thinkific_api: ThinkificApi, warehouse: SourceWarehouse) -> None:
    loaded = warehouse.load(thinkific().with_resources("course_reviews"))
    assert loaded == {"course_reviews": 150}


def test_a_total_excludes_rows_newer_than_the_load(thinkific_api: ThinkificApi) -> None:
    began = datetime.now(UTC)
    user = thinkific_api.change("new", "users")
    thinkific_api.change("new", "enrollments", user_id=user["id"])
    assert thinkific_total("enrollments") == 2_401
    assert thinkific_total("enrollments", created_before=began) == 2_400
