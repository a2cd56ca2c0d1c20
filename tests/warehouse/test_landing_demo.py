"""A demo claims an empty warehouse, goes on in its own, and leaves every other one alone."""

from pathlib import Path

import pytest

from orchestration.demo import DemoError, claim_warehouse
from orchestration.landing.emulator import marker
from orchestration.settings import DatabaseSettings
from orchestration.warehouse.connection import connect

pytestmark = pytest.mark.warehouse

ROWS = {
    "items": """
        insert into raw_dmm.items (source, service, floor, content_id, payload, payload_hash, fetched_at, run_id)
        values ('dmm', 'digital', 'videoa', 'a1', '{}', repeat('0', 64), now(), 'r')
    """,
    "users": "insert into raw_app.users (user_id, created_at, age_verified) values ('u', now(), true)",
    "decisions": """
        insert into raw_app.decisions (user_id, content_id, decision, decided_at) values ('u', 'a1', 'like', now())
    """,
    "exposures": """
        insert into raw_app.exposures (user_id, content_id, exposed_at, surface, policy, position, propensity)
        values ('u', 'a1', now(), 'feed', 'popular', 1, 0.5)
    """,
}


def land(warehouse: DatabaseSettings, kind: str) -> None:
    with connect(warehouse, "loader") as connection:
        connection.execute(ROWS[kind])


@pytest.mark.parametrize("kind", ROWS)
def test_a_warehouse_with_rows_of_unknown_origin_is_refused_and_not_marked(
    warehouse: DatabaseSettings, tmp_path: Path, kind: str
) -> None:
    land(warehouse, kind)
    with pytest.raises(DemoError, match=r"holds other data: .* MATCHING_HOME=\.matching-small make demo SIZE=small"):
        claim_warehouse(tmp_path, warehouse, "small")
    assert marker.marked_size(tmp_path) is None


def test_a_killed_demo_may_go_on_and_one_of_another_size_may_not(warehouse: DatabaseSettings, tmp_path: Path) -> None:
    claim_warehouse(tmp_path, warehouse, "medium")
    claim_warehouse(tmp_path, warehouse, "small")  # nothing had landed
    assert marker.marked_size(tmp_path) == "small"
    land(warehouse, "items")
    claim_warehouse(tmp_path, warehouse, "small")
    with pytest.raises(DemoError, match="holds other data"):
        claim_warehouse(tmp_path, warehouse, "medium")
    assert marker.marked_size(tmp_path) == "small"
