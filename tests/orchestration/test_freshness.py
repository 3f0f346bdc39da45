"""Freshness: assets look stale when the schedule has left them alone for too long, and not between its ticks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.freshness_evaluator import TimeWindowFreshnessPolicyEvaluator
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import freeze_time

from luma_pipeline.orchestration.freshness import GRACE, freshness_policy, largest_gap
from tests.settings import component_with

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
GAPS = [
    ("*/10 * * * *", "UTC", timedelta(minutes=10)),
    ("0 6 * * *", "UTC", DAY),
    ("@daily", "UTC", DAY),
    ("0 6 * * *", "Europe/Berlin", DAY + HOUR),  # the day on which summer time ends
    ("0 6 * * 1-5", "UTC", 3 * DAY),
    ("*/5 9-17 * * 1-5", "UTC", 2 * DAY + timedelta(hours=15, minutes=5)),
    ("0 1,2,22,23 * * *", "UTC", 20 * HOUR),
    ("0 0 1 * *", "UTC", 31 * DAY),
    ("0 0 29 2 *", "UTC", 1461 * DAY),
]


@pytest.mark.parametrize(("cron", "zone", "gap"), GAPS)
def test_the_longest_time_between_ticks_is_found(cron: str, zone: str, gap: timedelta) -> None:
    assert largest_gap(cron, zone) == gap


def policies(**settings: Any) -> set[dg.FreshnessPolicy | None]:
    graph = component_with(**{"schedule_enabled": True, **settings}).definitions().resolve_asset_graph()
    return {graph.get(dg.AssetKey(f"luma_{name}")).freshness_policy for name in ("tasks", "generations", "videos")}


SETTINGS: list[tuple[dict[str, Any], timedelta | None]] = [
    ({}, timedelta(minutes=10) + GRACE),
    ({"schedule_cron": "0 6 * * *"}, DAY + GRACE),
    ({"schedule_cron": "0 6 * * *", "schedule_enabled": False}, None),
    ({"schedule_cron": "0 6 * * *", "freshness_hours": 2.0}, 2 * HOUR),
    ({"schedule_enabled": False, "freshness_hours": 2.0}, 2 * HOUR),
    ({"freshness_hours": 0.0}, None),
]


@pytest.mark.parametrize(("settings", "window"), SETTINGS)
def test_the_assets_may_be_as_old_as_the_schedule_lets_them_get(
    settings: dict[str, Any], window: timedelta | None
) -> None:
    expected = dg.FreshnessPolicy.time_window(fail_window=window) if window else None
    assert policies(**settings) == {expected}


def test_a_time_that_dagster_cannot_watch_is_told() -> None:
    with pytest.raises(ValueError, match="at least a minute"):
        freshness_policy("* * * * *", "UTC", running=True, hours=0.01)


def test_a_daily_asset_is_fresh_until_the_next_days_run_is_late(tmp_path: Path) -> None:
    """As the daemon judges it, which takes the latest materialization, of whatever partition."""
    graph = component_with(schedule_enabled=True, schedule_cron="0 6 * * *").definitions().resolve_asset_graph()

    node = graph.get(dg.AssetKey("luma_videos"))
    begun = datetime(2026, 11, 20, 6, 0, tzinfo=UTC)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:

        def state(at: datetime) -> str:
            context = LoadingContextForTest(instance)
            with freeze_time(at):
                return asyncio.run(TimeWindowFreshnessPolicyEvaluator().evaluate_freshness(context, node)).value

        assert state(begun) == "UNKNOWN"
        with freeze_time(begun):
            instance.report_runless_asset_event(dg.AssetMaterialization("luma_videos", partition="2026-11-20"))
        assert state(begun + HOUR) == state(begun + DAY) == "PASS"
        assert state(begun + DAY + timedelta(minutes=50)) == "PASS"
        assert state(begun + DAY + GRACE) == "FAIL"
