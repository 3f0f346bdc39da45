"""The verdict on a partition: put before its file, taken back with it, and counted from all of its rows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from luma_pipeline.dataset import Dataset, GenerationsVerdict, StaleVersionError, Verdict, VideosVerdict
from luma_pipeline.engine.candidates import Tasks
from luma_pipeline.engine.partition import GENERATIONS, TASKS, VIDEOS
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.report import GenerationsReport
from luma_pipeline.engine.verdict import Judge, judge_generations, judge_videos
from luma_pipeline.luma import GATEWAY, Outcome, TaskResult, to_table
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import Generation, Oddity
from tests.world import World

DAY = "2024-12-24"
FOLDER = f"date={DAY}"
NOW = datetime(2024, 12, 24, 12, tzinfo=UTC)


def write(dataset: Dataset, judge: Judge, state: str, over: str | None = None) -> None:
    """Write a partition of one task in this state."""
    answer = {"id": "a", "state": state}
    table = to_table([TaskResult("a", Outcome.RESOLVED, NOW, generation=answer)], [NOW])
    report = GenerationsReport()
    rows = report.counted([table], Tasks.of(table), GiveUpPolicy(0.0, NOW, never=True))
    dataset.partition(GENERATIONS, FOLDER).replace(GATEWAY.schema, judge.on_generations(rows, report), (), over)


def test_a_verdict_is_put_before_its_file_and_taken_back_if_that_is_not_written(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))
    failed, well = GenerationsVerdict(tasks=1, failed=1), GenerationsVerdict(tasks=1)

    def stored() -> GenerationsVerdict | None:
        return dataset.verdicts().listed().by_mark.get(DAY, Verdict()).generations

    judge = Judge(dataset.verdicts(), DAY, GATEWAY)
    with pytest.raises(StaleVersionError):
        write(dataset, judge, "failed", over="another version")
    assert (stored(), dataset.partition(GENERATIONS, FOLDER).exists()) == (failed, False)
    judge.take_back()
    assert stored() is None

    write(dataset, judge, "failed")
    judge.settle()
    judge.take_back()  # of what comes after
    assert stored() == failed
    judge = Judge(dataset.verdicts(), DAY, GATEWAY)
    with pytest.raises(StaleVersionError):
        write(dataset, judge, "completed", over="another version")
    assert stored() == well
    judge.take_back()
    assert stored() == failed


def test_a_run_that_cannot_write_its_file_leaves_the_verdict_on_the_file_that_is_there(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"), phases=(Phase(0, "failed"),))
    assert world.run(DAY).success
    file = world.directory / "data" / VIDEOS / FOLDER / "part-0.parquet"
    file.write_bytes(b"PAR1 this is no Parquet file")
    world.provider.add(Generation("a").published(world.cdn))
    assert not world.run(DAY, config={"refresh": True}).success
    generations = Dataset(url=str(world.directory / "data")).verdicts().of(DAY).now.generations
    rows = world.rows(GENERATIONS)
    assert generations == GenerationsVerdict(tasks=1, failed=[row["state"] for row in rows].count("failed"))


def drifted(world: World, **options: Any) -> int:
    assert world.run(DAY, config=options or None).success
    part = Dataset(url=str(world.directory / "data")).verdicts().of(DAY).now.generations
    assert part is not None
    return part.drifted


def test_drift_of_rows_that_are_kept_is_counted_until_they_are_asked_for_again(world: World) -> None:
    world.submit(("odd", f"{DAY}T01:00:00Z"), oddities=(Oddity.EXTRA_FIELDS,))
    first = drifted(world)
    assert first > 0
    world.submit(("good", f"{DAY}T02:00:00Z"))
    assert drifted(world) == first
    world.submit(("odd too", f"{DAY}T03:00:00Z"), oddities=(Oddity.EXTRA_FIELDS,))
    assert drifted(world) == 2 * first
    for name in ("odd", "odd too"):
        world.provider.add(Generation(name).published(world.cdn))
    assert drifted(world, refresh=True) == 0


def test_a_verdict_that_is_read_from_the_files_is_the_one_that_was_counted_as_they_were_written(world: World) -> None:
    world.submit(("good", f"{DAY}T01:00:00Z"))
    world.submit(("odd", f"{DAY}T02:00:00Z"), oddities=(Oddity.EXTRA_FIELDS, Oddity.NOT_AN_OBJECT))
    world.submit(("failed", f"{DAY}T03:00:00Z"), phases=(Phase(0, "failed"),))
    world.submit(("lost", f"{DAY}T04:00:00Z"), known=False)
    assert world.run(DAY).success
    dataset = Dataset(url=str(world.directory / "data"))
    files = {name: dataset.partition(name, FOLDER) for name in (TASKS, GENERATIONS, VIDEOS)}
    found = Verdict(
        judge_generations(files[GENERATIONS], files[TASKS], GATEWAY),
        judge_videos(files[VIDEOS], files[GENERATIONS], GATEWAY),
    )
    assert found == dataset.verdicts().of(DAY).now
    assert found.videos is not None
    assert found.videos != VideosVerdict()
