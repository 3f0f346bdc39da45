"""Answers on their way into the file: saved whatever waits, merged in memory, and counted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_pipeline.dataset import Checkpoints, Dataset, PartitionFile, UnreadableFileError
from luma_pipeline.dataset.local_storage import LocalStorage
from luma_pipeline.dataset.storage import OpenedFile
from luma_pipeline.engine.best_rows import BestRows
from luma_pipeline.engine.candidates import Candidates, Tasks
from luma_pipeline.engine.generations import GenerationsReport, ResolvePolicy, resolve_generations
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.luma import (
    GATEWAY,
    AuthenticationError,
    LumaClient,
    Outcome,
    ProviderConfig,
    State,
    TaskResult,
    to_table,
)
from luma_pipeline.luma.schema import TIMESTAMP
from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import TOKEN, Answer, Generation, ProviderServer

AT = datetime(2024, 12, 24, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
FAILED = (Phase(0, State.FAILED),)
DAY = "date=2024-12-24"


@pytest.fixture
def provider() -> Iterator[ProviderServer]:
    with ProviderServer() as running:
        yield running


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(url=str(tmp_path))


def file_of(dataset: Dataset) -> PartitionFile:
    return dataset.partition("luma_generations", DAY)


def checkpoints_of(dataset: Dataset) -> Checkpoints:
    return dataset.checkpoints("luma_generations", DAY)


def saved(dataset: Dataset) -> list[str]:
    """The tasks whose answers are in checkpoints."""
    checkpoints = checkpoints_of(dataset)
    tables = [checkpoints.load(shard.path) for shard in checkpoints.shards(LONG_AGO)]
    return sorted(task_id for table in tables for task_id in table["task_id"].to_pylist())


def resolve(
    dataset: Dataset,
    client: Any,
    task_ids: list[str],
    on_answer: Callable[[TaskResult, datetime], None] | None = None,
    **policy: Any,
) -> GenerationsReport:
    give_up = GiveUpPolicy(3600.0 * 24 * 365 * 100, datetime.now(UTC))
    table = pa.table({"task_id": pa.array(task_ids), "submitted_at": pa.array([AT] * len(task_ids), TIMESTAMP)})
    resolve_policy = ResolvePolicy(**{"give_up": give_up, "checkpoint_seconds": 3600.0, **policy})
    return resolve_generations(table, file_of(dataset), checkpoints_of(dataset), client, resolve_policy, on_answer)


def ask(dataset: Dataset, provider: ProviderServer, task_ids: list[str], **more: Any) -> GenerationsReport:
    with LumaClient(ProviderConfig(TOKEN, provider.base_url, max_concurrency=1)) as client:
        return resolve(dataset, client, task_ids, **more)


def waited(event: threading.Event) -> None:
    """Wait as a copier does that has enough to do."""
    event.wait(60)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Interrupted(BaseException):
    """What no part of ours catches."""


# What a kill costs.


def test_answers_are_taken_and_saved_while_the_copier_lets_them_wait(
    dataset: Dataset, provider: ProviderServer
) -> None:
    ids = [f"task-{number:02}" for number in range(40)]
    provider.add(*(Generation(task_id, phases=FAILED) for task_id in ids))
    copier = threading.Event()
    reports: list[GenerationsReport] = []

    def run() -> None:
        reports.append(ask(dataset, provider, ids, on_answer=lambda *_: waited(copier), save_seconds=0.8))

    running = threading.Thread(target=run)
    running.start()
    try:
        assert until(lambda: saved(dataset) == ids)
    finally:
        copier.set()
        running.join()
    assert reports[0].states == {"failed": 40}
    assert saved(dataset) == []


def test_answers_are_saved_while_the_provider_is_silent(dataset: Dataset) -> None:
    silent = threading.Event()

    class Silent:
        spec = GATEWAY

        def fetch_batches(self, task_ids: Iterator[str]) -> Iterator[list[TaskResult]]:
            for task_id in task_ids:
                yield [TaskResult(task_id, Outcome.NOT_FOUND, AT)]
                if task_id == "b":
                    silent.wait(60)

    running = threading.Thread(target=resolve, args=(dataset, Silent(), ["a", "b", "c"]), kwargs={"save_seconds": 0.8})
    running.start()
    try:
        assert until(lambda: saved(dataset) == ["a", "b"])
    finally:
        silent.set()
        running.join()
    assert file_of(dataset).row_count() == 3


def test_what_stops_a_run_waits_for_no_copier_and_keeps_the_answers(dataset: Dataset, provider: ProviderServer) -> None:
    provider.add(Generation("a"), Generation("b"))
    provider.script("c", [Answer(401)])
    copier = threading.Event()
    started = time.monotonic()
    try:
        with pytest.raises(AuthenticationError):
            ask(dataset, provider, ["a", "b", "c"], on_answer=lambda *_: waited(copier))
        assert time.monotonic() - started < 20
    finally:
        copier.set()
    assert saved(dataset) == ["a", "b"]


@pytest.mark.parametrize("error", [Interrupted(), ValueError("the bucket is gone")], ids=["interrupt", "error"])
def test_what_the_copier_raises_stops_the_run_and_keeps_the_answers(
    dataset: Dataset, provider: ProviderServer, error: BaseException
) -> None:
    ids = [f"task-{number:03}" for number in range(300)]
    provider.add(*(Generation(task_id, phases=FAILED) for task_id in ids))

    def on_answer(result: TaskResult, _: datetime) -> None:
        if result.task_id == ids[5]:
            raise error

    with pytest.raises(type(error)):
        ask(dataset, provider, ids, on_answer=on_answer)
    assert len(saved(dataset)) >= 6
    assert file_of(dataset).version() == ""


def test_asking_waits_for_copying(dataset: Dataset, provider: ProviderServer) -> None:
    ids = [f"task-{number:03}" for number in range(1_000)]
    provider.add(*(Generation(task_id, phases=FAILED) for task_id in ids))
    copier = threading.Event()
    handed_on: list[str] = []

    def on_answer(result: TaskResult, _: datetime) -> None:
        copier.wait(60)
        handed_on.append(result.task_id)

    running = threading.Thread(target=ask, args=(dataset, provider, ids), kwargs={"on_answer": on_answer})
    running.start()
    try:
        assert until(lambda: provider.total >= 64)
        time.sleep(1.0)
        assert provider.total < 300
    finally:
        copier.set()
        running.join()
    assert handed_on == ids


# What checkpoints hold.


@pytest.mark.parametrize(
    ("answer", "outcome", "is_asked_again"),
    [
        (Answer.of_json({}), "invalid_response", True),
        (Answer(200, {"Content-Type": "text/html"}, b"<html>portal</html>"), "invalid_response", True),
        (Answer.of_json({"detail": "busy"}, 400), "request_failed", True),
        (None, "not_found", False),
    ],
)
def test_what_is_no_answer_in_the_checkpoint_of_a_killed_run_is_asked_again(
    dataset: Dataset, provider: ProviderServer, answer: Answer | None, outcome: str, is_asked_again: bool
) -> None:
    provider.add(Generation("b"))
    if answer is not None:
        provider.script("a", [answer] * 20)
    provider.script("b", [Answer(401), None])
    config = ProviderConfig(TOKEN, provider.base_url, max_concurrency=1, max_retry_seconds=0)
    with LumaClient(config) as client:
        with pytest.raises(AuthenticationError):
            resolve(dataset, client, ["a", "b"])
        (shard,) = checkpoints_of(dataset).shards(LONG_AGO)
        assert checkpoints_of(dataset).load(shard.path)["outcome"].to_pylist() == [outcome]
    provider.script("a", [None])
    provider.add(Generation("a"))
    provider.clear_log()
    ask(dataset, provider, ["a", "b"])
    asked = [task_id for request in provider.requests for task_id in request.task_ids]
    assert asked == (["a", "b"] if is_asked_again else ["b"])


# Rows in memory.


def answering(outcome: Outcome = Outcome.NOT_FOUND, **result: Any) -> Any:
    """A client that answers at once."""

    class Client:
        spec = GATEWAY

        def fetch_batches(self, task_ids: Iterator[str]) -> Iterator[list[TaskResult]]:
            for task_id in task_ids:
                yield [TaskResult(task_id, outcome, AT, **result)]

    return Client()


def test_answers_that_fit_into_memory_are_not_written_twice(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    original = Checkpoints.save

    def counting(self: Checkpoints, table: pa.Table, refresh_since: datetime | None = None) -> str:
        written.append(original(self, table, refresh_since))
        return written[-1]

    monkeypatch.setattr(Checkpoints, "save", counting)
    report = resolve(dataset, answering(), [f"task-{number:04}" for number in range(4_000)], save_seconds=600.0)
    assert report.outcomes == {"not_found": 4_000}
    assert written == []


def test_the_state_of_a_partition_is_read_once(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"task-{number:04}" for number in range(100)]
    resolve(dataset, answering(), ids)
    opened: Counter[str] = Counter()
    original = LocalStorage.open

    def counting(self: LocalStorage, path: str, *, whole: bool = False) -> OpenedFile:
        opened[Path(path).name] += 1
        return original(self, path, whole=whole)

    monkeypatch.setattr(LocalStorage, "open", counting)
    assert resolve(dataset, answering(), ids).asked == 100
    assert opened == {"part-0.parquet": 1}


# What is counted.


def test_tasks_that_were_answered_with_another_tasks_body_are_named_until_they_are_not(dataset: Dataset) -> None:
    ids = [f"task-{number:02}" for number in range(12)]
    mismatched = answering(Outcome.INVALID_RESPONSE, error_code="task_id_mismatch", error_message="it has id B")
    report = resolve(dataset, mismatched, ids)
    assert (report.mismatched, report.mismatched_examples) == (12, ids[:10])
    # Rows that are kept count as well.
    report = resolve(dataset, answering(), ids, limit=3)
    assert (report.mismatched, report.mismatched_examples) == (9, ids[3:])
    assert resolve(dataset, answering(), ids).mismatched == 0


def test_a_partition_that_cannot_be_read_fails_before_anything_is_asked(
    dataset: Dataset, provider: ProviderServer
) -> None:
    path = Path(file_of(dataset).path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1 half")
    with pytest.raises(UnreadableFileError, match=f"{path}.*Move it away"):
        ask(dataset, provider, ["a"])
    assert provider.total == 0


# The choice.

ROW = st.tuples(
    st.integers(0, 3),
    st.sampled_from([(Outcome.RESOLVED, "completed"), (Outcome.RESOLVED, "processing"), (Outcome.NOT_FOUND, None)]),
    st.integers(0, 3),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(ROW, max_size=5), max_size=4))
def test_of_all_rows_the_final_one_is_taken_and_else_the_newest(parts: list[list[tuple[int, Any, int]]]) -> None:
    tasks = Tasks(pa.array(["0", "1", "2"]), pa.array([AT] * 3, TIMESTAMP))
    give_up = GiveUpPolicy(1e9, AT)
    best = BestRows(tasks)
    expected: dict[int, tuple[bool, int]] = {}
    for rows in parts:
        results = [
            TaskResult(str(task), outcome, AT + timedelta(hours=hour), generation={"state": state} if state else None)
            for task, (outcome, state), hour in rows
        ]
        table = to_table(results)
        index = np.array([task if task < 3 else -1 for task, _, _ in rows], dtype=np.int64)
        best.add(Candidates.of(table, index, partial(table.slice, 0), give_up))
        for task, (_, state), hour in rows:
            expected[task] = max(expected.get(task, (False, -1)), (state == "completed", hour))
    expected.pop(3, None)
    assert best.missing().tolist() == [task for task in range(3) if task not in expected]
    if len(expected) == 3:
        (found,) = best.tables()
        chosen = zip(found["state"].to_pylist(), found["polled_at"].to_pylist(), strict=True)
        assert [(state == "completed", (at - AT) // timedelta(hours=1)) for state, at in chosen] == [
            expected[task] for task in range(3)
        ]
