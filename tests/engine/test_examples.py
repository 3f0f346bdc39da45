"""The examples run as they stand, on the sandbox's servers; and so does what the package gives to a notebook."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from luma_pipeline import (
    ConfigurationError,
    EngineSettings,
    Policies,
    Progress,
    ProviderConfig,
    RunOptions,
    SourceTable,
    TransferConfig,
    plan_partition,
    run_partition,
)
from luma_pipeline.engine.partition import Partition
from luma_pipeline.engine.windows import Frequency
from luma_pipeline.orchestration.partitions import folder_of, partitions_definition
from luma_pipeline.sandbox.provider import TOKEN
from tests.world import World

EXAMPLES = Path(__file__).parents[2] / "examples"
DAY = datetime(2024, 12, 24, tzinfo=UTC)
NEXT = DAY + timedelta(days=1)


def submit(world: World, count: int = 3) -> None:
    world.submit(*((f"task-{number}", f"2024-12-24T0{number}:00:00Z") for number in range(count)))


def settings(world: World, **source: str) -> EngineSettings:
    return EngineSettings(
        SourceTable(url=world.source_url, **{"table": "generations", **source}),
        ProviderConfig(token=TOKEN, base_url=world.provider.base_url),
        TransferConfig(bucket=world.bucket, allow_private_addresses=True),
        str(world.directory / "data"),
        Policies(give_up_after_seconds=1e9),
    )


def python(world: World, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **world.environment(), **variables}
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_script_plans_runs_and_does_nothing_twice(world: World) -> None:
    submit(world)
    script = str(EXAMPLES / "script" / "run_partition.py")
    planned = python(world, script, "2024-12-24", "--plan")
    assert planned.stdout == "3 tasks to ask for, 0 artifacts to copy of tasks that are completed\n", planned.stderr
    assert (world.provider.total, world.object_keys()) == (0, set())
    done = python(world, script, "2024-12-24")
    assert "1 of 1 partitions done, 3 tasks asked" in done.stdout, done.stderr
    assert "states: {'completed': 3}, videos: {'copied': 3}" in done.stdout
    assert len(world.object_keys()) == world.provider.total == 3
    again = python(world, script, "2024-12-24")
    assert "videos: {'already_present': 3}" in again.stdout
    assert world.provider.total == 3
    wrong = python(world, script, "2024-12-24", LUMA_SOURCE_TABLE="nowhere")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("SourceTableError: there is no table 'nowhere'")


def test_ctrl_c_ends_the_script_and_its_process(world: World) -> None:
    world.submit(*((f"task-{number}", "2024-12-24T01:00:00Z") for number in range(60)))
    world.provider.latency_seconds = 1.0
    environment = {**os.environ, **world.environment()}
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "script" / "run_partition.py"), "2024-12-24"]
    # A shell's background job would ignore SIGINT, and so would what starts this test.
    signals = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **signals) as process:  # type: ignore[call-overload]
        while world.provider.total < 17:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, told = process.communicate(timeout=30)
    assert time.monotonic() - began < 5
    assert (process.returncode, told) == (
        130,
        "stopped; what was answered is kept, and the next call goes on from there\n",
    )
    world.provider.latency_seconds = 0.0
    world.provider.clear_log()
    report = run_partition(settings(world), DAY, NEXT)
    assert report.generations is not None
    assert report.generations.resumed >= 1
    assert report.generations.resumed + world.provider.total == 60


def test_the_notebook_runs_from_top_to_bottom(world: World) -> None:
    submit(world)
    done = python(world, str(EXAMPLES / "notebook" / "partition.py"), DAY="2024-12-24")
    assert done.returncode == 0, done.stderr
    assert "3 tasks to ask for, 0 artifacts to copy" in done.stdout
    assert "1 of 1 partitions done" in done.stdout
    assert done.stdout.count("completed") == 4  # the states, and a row each
    assert "task-2/video.mp4" in done.stdout


def test_a_plan_is_what_the_run_then_does(world: World) -> None:
    submit(world)
    shown: list[Progress] = []
    report = run_partition(settings(world), DAY, NEXT, options=RunOptions(limit=2), on_progress=shown.append)
    assert report.generations is not None
    assert (shown[-1].partitions_done, shown[-1].asked, shown[-1].copied) == (1, 2, 2)
    for options in (RunOptions(), RunOptions(refresh=True), RunOptions(overwrite=True), RunOptions(limit=0)):
        world.provider.clear_log()
        world.cdn.clear_log()
        plan = plan_partition(settings(world), DAY, NEXT, options=options)
        assert world.provider.total == world.cdn.total == 0
        assert plan.is_plan
        done = run_partition(settings(world), DAY, NEXT, options=options)
        assert world.provider.total == plan.to_ask
        assert done.generations is not None
        assert done.generations.asked == plan.to_ask


def test_a_plan_refuses_to_empty_a_partition_as_the_run_does(world: World) -> None:
    submit(world)
    run_partition(settings(world), DAY, NEXT)
    gone = settings(world, where="task_id = 'none'")
    for step in (plan_partition, run_partition):
        with pytest.raises(ConfigurationError, match=r"no task any more.*allow_empty"):
            step(gone, DAY, NEXT)
    assert plan_partition(gone, DAY, NEXT, options=RunOptions(allow_empty=True)).to_ask == 0


def test_a_setting_that_is_wrong_is_an_error_of_that_kind(world: World) -> None:
    submit(world)
    with pytest.raises(ConfigurationError, match="no table 'nowhere'"):
        run_partition(settings(world, table="nowhere"), DAY, NEXT)
    for end in (DAY, DAY + timedelta(hours=12), DAY + timedelta(days=2)):
        with pytest.raises(ValueError, match="is no partition"):
            run_partition(settings(world), DAY, end)
    with pytest.raises(ValueError, match="must have a time zone"):
        run_partition(settings(world), DAY.replace(tzinfo=None), NEXT.replace(tzinfo=None))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("frequency", Frequency)
def test_a_window_has_the_key_and_the_folder_that_dagster_gives_it(frequency: Frequency, zone: str) -> None:
    definition = partitions_definition(frequency, "2024-10-20", zone)
    # Both changes of the clock are among them.
    for instant in (datetime(2024, 10, 27, 1, 30), datetime(2024, 11, 3, 6, 30), datetime(2025, 3, 30, 1, 30)):  # noqa: DTZ001
        at = instant.replace(tzinfo=UTC)
        for hours in range(-3, 4):
            key = definition.get_partition_key_for_timestamp((at + timedelta(hours=hours)).timestamp())
            window = definition.time_window_for_partition_key(key)
            start, end = (edge.astimezone(ZoneInfo(zone)) for edge in (window.start, window.end))
            partition = Partition.of(start, end)
            assert (partition.key, partition.folder) == (key, folder_of(definition, key))
