"""Every asset of the sandbox overlay, in pods: the same rows as in compose, by the same tests."""

from collections.abc import Callable

import pytest

from tests.stack.test_stack import (  # noqa: F401  (on the fixture `stack` below)
    loaded,
    one_click,
    test_all_partitions_of_all_assets_arrive_in_the_warehouse,
    test_all_rows_of_the_other_sources_arrive,
    test_every_check_has_passed,
    test_every_source_with_a_stand_in_is_materialized,
    test_marts_follow_from_the_loaded_tables,
    test_no_staging_dataset_is_left,
    test_one_click_loads_all_locations_with_few_runs,
    test_the_shop_has_the_same_rows_on_both_sides,
)
from tests.support.cluster import Cluster


@pytest.fixture(scope="module")
def stack(cluster: Cluster, times: Callable[[str], None]) -> Cluster:
    return cluster


def test_a_second_load_changes_nothing(stack: Cluster, loaded: list[str], times: Callable[[str], None]) -> None:  # noqa: F811
    times("every asset of all locations")
    everything = "SELECT count(*), md5(string_agg(c::text, '' ORDER BY id)) FROM raw_hubspot.contacts c"
    before = stack.rows(everything)
    run = stack.materialize([["hubspot", "contacts"]], None, "revenue")

    assert run["status"] == "SUCCESS", stack.failures(run["runId"])
    assert stack.rows(everything) == before
