"""Runs that share the provider's limit through a database: what a run says of it, and what it keeps to itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luma_pipeline.component.faults import SettingsError
from tests.world import World, failure

SHARED: dict[str, Any] = {"requests_per_second": 200.0}
DAY = "2024-12-24"


@pytest.fixture
def day(world: World) -> World:
    world.submit(*((f"task-{number}", f"{DAY} 12:00:00") for number in range(3)))
    return world


def log_of(world: World, run_id: str) -> list[str]:
    return [record.event_log_entry.user_message for record in world.instance.get_records_for_run(run_id).records]


def tag(world: World, run_id: str) -> str | None:
    run = world.instance.get_run_by_id(run_id)
    assert run is not None
    return run.tags.get("luma/shared_limit")


def test_a_run_shares_the_limit_through_the_instance(day: World) -> None:
    result = day.run(DAY, shared_limit="instance", **SHARED)
    assert result.success
    assert tag(day, result.run_id) == "kept"
    assert (Path(day.instance.root_directory) / "storage" / "luma_pipeline_limits.db").exists()
    assert len(day.rows("luma_generations")) == 3


def test_a_run_without_a_shared_limit_says_nothing_of_it(day: World) -> None:
    result = day.run(DAY, **SHARED)
    assert tag(day, result.run_id) is None


def test_a_database_that_cannot_be_reached_is_told_and_the_run_goes_on(
    day: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "postgresql+psycopg://me:pass-word@127.0.0.1:9/limits"
    result = day.run(DAY, shared_limit=url, **SHARED)
    assert result.success
    assert str(tag(day, result.run_id)).startswith("lost for")
    told = [message for message in log_of(day, result.run_id) if "the shared limit is lost" in message]
    assert len(told) == 1
    assert len(day.rows("luma_generations")) == 3
    everything = "".join(
        str(record.event_log_entry) for record in day.instance.get_records_for_run(result.run_id).records
    )
    snapshot = day.instance.get_run_by_id(result.run_id)
    assert "pass-word" not in everything + str(snapshot)


def test_a_url_out_of_a_variable_is_no_text_of_the_configuration(day: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import dagster as dg

    monkeypatch.setenv("LUMA_SHARED_LIMIT", f"sqlite:///{day.directory}/pass-word.db")
    result = day.run(DAY, shared_limit=dg.EnvVar("LUMA_SHARED_LIMIT"), **SHARED)
    assert tag(day, result.run_id) == "kept"
    assert (day.directory / "pass-word.db").exists()
    assert not [message for message in log_of(day, result.run_id) if "pass-word" in message]


def test_a_url_that_cannot_be_used_fails_the_run_with_what_to_write(
    day: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    monkeypatch.setenv("LUMA_SHARED_LIMIT", "redis://:pass-word@host")
    result = day.run(DAY, shared_limit=dg.EnvVar("LUMA_SHARED_LIMIT"), **SHARED)
    assert "LUMA_SHARED_LIMIT" in failure(result)
    assert "or write instance" in failure(result)
    assert "pass-word" not in failure(result)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"shared_limit": "instance"}, "must be set only beside provider.requests_per_second"),
        ({"shared_limit": "redis://:pass-word@host", **SHARED}, "cannot be used as a database URL"),
    ],
)
def test_settings_that_cannot_be_are_told_when_they_load(world: World, settings: dict[str, Any], told: str) -> None:
    with pytest.raises((SettingsError, ValueError), match=told) as error:
        world.component(**settings).definitions()
    assert "pass-word" not in str(error.value).partition("input_value")[0]
