"""A recorded repository goes through the whole stack into Postgres."""

import shutil

import pytest

from tests.support.paths import RECORDED, ROOT
from tests.support.stack import Stack, wait_for


@pytest.mark.skipif(not RECORDED.exists(), reason="CONTRACTS_DIR has no neighbour recorded/")
def test_a_real_repository_arrives_completely(changed_stack: Stack) -> None:
    stack = changed_stack
    archive = ROOT / "data" / "archives" / RECORDED.name
    shutil.copy(RECORDED, archive)
    try:
        stack.apply(GITHUB_REPOSITORIES="tlswg/tls13-spec", SANDBOX_GITHUB_ARCHIVES=f"data/archives/{RECORDED.name}")
        wait_for(lambda: stack.locations()["engineering"] == "loaded", 60, "engineering to load")
        run = stack.materialize(stack.assets(), "tlswg/tls13-spec")
        assert run["status"] == "SUCCESS", stack.failures(run["runId"])
    finally:
        archive.unlink()

    where = "WHERE repository_owner = 'tlswg'"
    assert stack.rows(f"SELECT count(*) FROM raw_github.issues {where}") == [["446"]]
    assert stack.rows(f"SELECT count(*) FROM raw_github.pull_requests {where}") == [["998"]]
    [[comments]] = stack.rows(
        "SELECT sum(n) FROM (SELECT count(*) n FROM raw_github.issues__comments c JOIN raw_github.issues i "
        "ON i._dlt_id = c._dlt_parent_id WHERE i.repository_owner = 'tlswg' UNION ALL "
        "SELECT count(*) FROM raw_github.pull_requests__comments c JOIN raw_github.pull_requests i "
        "ON i._dlt_id = c._dlt_parent_id WHERE i.repository_owner = 'tlswg') AS both_tables"
    )
    assert comments == "2363"
