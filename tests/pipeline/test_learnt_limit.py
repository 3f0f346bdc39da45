"""The provider's limit is known to the next run: by real runs against a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luma_pipeline.sandbox.provider import TOKEN, RateLimit
from tests.world import World

DAYS = ("2024-12-23", "2024-12-24", "2024-12-25")
TASKS = 120


@pytest.fixture
def limited(world: World) -> World:
    """Days of 120 tasks, under a limit of 60 requests a second."""
    for day in DAYS:
        world.submit(*((f"{day}-{number}", f"{day}T10:00:00Z") for number in range(TASKS)))
    world.provider.latency_seconds = 0.03
    return world


def run(world: World, day: str, **settings: Any) -> int:
    """Run a day from the asking alone; returns how many requests were refused."""
    world.provider.clear_log()
    world.provider.rate_limit = RateLimit(60, burst=6)
    assert world.run(day, only=["luma_tasks", "luma_generations"], **settings).success
    return world.provider.count_status(429)


def kept(world: World) -> list[Path]:
    return list((world.directory / "data" / "_limits").iterdir())


def test_a_run_begins_where_the_last_one_ended(limited: World) -> None:
    first = run(limited, DAYS[0])
    assert first > 0
    (file,) = kept(limited)
    assert TOKEN not in file.name + file.read_text()
    learnt = json.loads(file.read_text())
    assert 40 < learnt["requests_per_second"] < 90
    assert run(limited, DAYS[1]) <= first
    # Who has nothing to ask reads nothing and writes nothing.
    before = file.stat().st_mtime_ns
    run(limited, DAYS[1])
    assert file.stat().st_mtime_ns == before


def test_a_limit_that_cannot_be_read_fails_no_run(limited: World) -> None:
    run(limited, DAYS[0])
    (file,) = kept(limited)
    file.write_text("{}")
    run(limited, DAYS[1])
    assert json.loads(file.read_text())["requests_per_second"] > 0
    file.write_text(json.dumps({**json.loads(file.read_text()), "requests_per_second": 0}))
    run(limited, DAYS[2])
    assert json.loads(file.read_text())["requests_per_second"] > 0


def test_a_set_rate_learns_nothing(limited: World) -> None:
    run(limited, DAYS[0], requests_per_second=50.0)
    assert not (limited.directory / "data" / "_limits").exists()
