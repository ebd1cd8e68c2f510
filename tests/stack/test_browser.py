"""What a person does first: open the UI, find an asset, materialize a partition, see rows and columns."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.support.paths import ROOT
from tests.support.stack import LOCATIONS, Stack

SCREENSHOTS = ROOT / "artifacts" / "screenshots"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OFFLINE = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture
def page() -> Iterator[Page]:
    assert CHROMIUM, "make test-stack needs Chromium: apt-get install chromium"
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *OFFLINE])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(30_000)
        yield page
        browser.close()


def shoot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_a_person_materializes_a_partition_and_sees_its_rows(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.url}/assets")
    page.get_by_text("issues").first.wait_for()
    shoot(page, "1-catalog")

    page.goto(f"{stack.url}/assets/github/issues")
    expect(page.get_by_text("Issues of a GitHub repository")).to_be_visible()
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_text("Select a partition or create one").click()
    page.get_by_placeholder("Filter partitions").fill("handbook")
    page.get_by_role("menuitem").filter(has_text="sandbox/handbook").click()
    page.keyboard.press("Escape")
    shoot(page, "2-materialize")
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_text("View", exact=True).click()
    page.wait_for_url("**/runs/*")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=90_000)
    shoot(page, "3-run")

    page.goto(f"{stack.url}/assets/github/issues")
    expect(page.get_by_text("sandbox/handbook").first).to_be_visible()
    expect(page.get_by_text("repository_owner").first).to_be_visible()
    expect(page.get_by_text("primary_key").first).to_be_visible()
    shoot(page, "4-asset")

    page.goto(f"{stack.url}/assets/github/issues?view=events")
    expect(page.get_by_text("rows_loaded", exact=True).first).to_be_visible()
    expect(page.get_by_text("warehouse.raw_github.issues").first).to_be_visible()
    shoot(page, "5-rows")


def test_the_ui_shows_locations_upstream_assets_and_descriptions(stack: Stack, page: Page) -> None:
    page.goto(f"{stack.url}/locations")
    for location in LOCATIONS:
        expect(page.get_by_text(location, exact=True).first).to_be_visible()
    expect(page.get_by_text("Loaded", exact=True)).to_have_count(len(LOCATIONS))
    shoot(page, "6-locations")

    page.goto(f"{stack.url}/assets/thinkific/enrollments?view=lineage")
    expect(page.get_by_text("site", exact=True).first).to_be_visible()
    shoot(page, "7-lineage")

    descriptions = {
        "stripe/balance_transaction": "Every movement of money in a Stripe account",
        "hubspot/deals": "Deals in HubSpot, one row each",
        "sql_database/orders": "Orders of the shop, one row each",
    }
    for number, (asset, description) in enumerate(descriptions.items(), 8):
        page.goto(f"{stack.url}/assets/{asset}")
        expect(page.get_by_role("button", name="Materialize").first).to_be_visible()
        expect(page.get_by_text(description).first).to_be_visible()  # appears after the button
        shoot(page, f"{number}-{asset.replace('/', '-')}")


def test_the_lineage_runs_from_the_vendors_tables_to_the_last_mart(stack: Stack, page: Page) -> None:
    page.set_viewport_size({"width": 2200, "height": 1300})
    page.goto(f"{stack.url}/assets/reports/weekly_summary?view=lineage&lineageScope=upstream&lineageDepth=9")
    expect(page.get_by_text("orders", exact=True).first).to_be_visible()
    page.wait_for_timeout(3_000)  # until the graph has its layout
    shoot(page, "12-lineage-of-the-report")
