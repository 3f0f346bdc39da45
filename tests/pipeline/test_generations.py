"""The rows of a partition, whatever other runs do to it meanwhile and whatever earlier ones have left."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from luma_pipeline.dataset import Checkpoints, Dataset, DatasetError, PartitionFile, Shard, Written
from luma_pipeline.engine import answers
from luma_pipeline.engine.generations import (
    EmptiedError,
    GenerationsReport,
    ResolvePolicy,
    resolve_generations,
    tasks_to_ask,
)
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.luma import (
    GATEWAY,
    GENERATIONS_SCHEMA,
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
from luma_pipeline.sandbox.s3 import ObjectStore

OPEN, FAILED = (Phase(0, State.PROCESSING),), (Phase(0, State.FAILED),)
AT = datetime(2024, 12, 24, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_roots = itertools.count(1)

OnAnswer = Callable[[TaskResult, datetime], None]


class Watched(LumaClient):
    """A client that tells when an answer has been taken, before the next is."""

    on_taken: OnAnswer | None = None

    def fetch_batches(self, task_ids: Iterable[str]) -> Iterator[list[TaskResult]]:
        for result in chain.from_iterable(super().fetch_batches(task_ids)):
            yield [result]
            if self.on_taken is not None:
                self.on_taken(result, AT)


@dataclass
class Place:
    """A partition, and the provider that is asked for its tasks."""

    dataset: Dataset
    provider: ProviderServer

    @property
    def file(self) -> PartitionFile:
        return self.dataset.partition("luma_generations", "date=2024-12-24")

    @property
    def checkpoints(self) -> Checkpoints:
        return self.dataset.checkpoints("luma_generations", "date=2024-12-24")

    @property
    def shards(self) -> list[Shard]:
        return self.checkpoints.shards(LONG_AGO)

    def know(self, *task_ids: str, **generation: Any) -> None:
        self.provider.add(*(Generation(task_id, **generation) for task_id in task_ids))

    def run(
        self,
        task_ids: Sequence[str],
        on_answer: OnAnswer | None = None,
        *,
        file: PartitionFile | None = None,
        batch: int | None = None,
        **policy: Any,
    ) -> GenerationsReport:
        """Ask one task after the other, in their order. `on_answer` is called when the run has taken an answer."""
        url = self.provider.base_url
        watched = Watched(ProviderConfig(token=TOKEN, base_url=url, max_concurrency=1, batch_size=batch))
        watched.on_taken = on_answer
        with watched as client:
            return resolve_generations(
                tasks_of(task_ids), file or self.file, self.checkpoints, client, self.resolve_policy(**policy)
            )

    def resolve_policy(self, **policy: Any) -> ResolvePolicy:
        give_up = GiveUpPolicy(3600.0 * 24 * 365 * 100, datetime.now(UTC))
        return ResolvePolicy(**{"give_up": give_up, "checkpoint_seconds": 3600.0, **policy})

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.file.read().to_pylist()
        assert all(row["id"] in (None, row["task_id"]) for row in rows), "a row has the answer of its task"
        return rows

    def states(self) -> dict[str, str]:
        rows = self.rows()
        states = {row["task_id"]: row["state"] or row["error_code"] or row["outcome"] for row in rows}
        assert len(states) == len(rows)
        return states

    def asked(self) -> list[str]:
        """The tasks of the provider's requests since the last call."""
        found = [task_id for request in self.provider.requests for task_id in request.task_ids]
        self.provider.clear_log()
        return found

    def refuse(self, task_id: str) -> None:
        """Refuse the token when the task is asked for, once."""
        self.provider.script(task_id, [Answer(401), None])


def tasks_of(task_ids: Sequence[str]) -> pa.Table:
    return pa.table(
        {"task_id": pa.array(task_ids, pa.string()), "submitted_at": pa.array([AT] * len(task_ids), TIMESTAMP)}
    )


def at(task_id: str, step: Callable[[], object]) -> OnAnswer:
    """Do something while a run is asking: when a task's answer is there."""

    def on_answer(outcome: TaskResult, _: datetime) -> None:
        if outcome.task_id == task_id:
            step()

    return on_answer


@pytest.fixture
def provider() -> Iterator[ProviderServer]:
    with ProviderServer() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, provider: ProviderServer) -> Place:
    return Place(Dataset(url=str(tmp_path / "data")), provider)


@pytest.fixture(params=["local", "s3"])
def anywhere(request: pytest.FixtureRequest, place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A partition on each kind of storage."""
    if request.param == "local":
        return place
    store: ObjectStore = request.getfixturevalue("store")
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"lake-{next(_roots)}"
    store.create_bucket(bucket)
    return Place(Dataset(url=f"s3://{bucket}/luma"), place.provider)


# Runs that overlap.


def test_a_file_that_another_run_has_replaced_is_read_anew(anywhere: Place) -> None:
    anywhere.know("a", "b", "late", "n")
    anywhere.know("x", phases=OPEN)
    anywhere.run(["a", "b", "x"])

    def with_a_late_row() -> None:
        anywhere.run(["a", "late", "b", "x"])

    anywhere.run(["a", "b", "x", "n"], at("x", with_a_late_row))
    assert list(anywhere.states()) == ["a", "b", "x", "n"]
    anywhere.asked()
    anywhere.run(["a", "late", "b", "x", "n"])
    assert anywhere.asked() == ["late", "x"]
    assert list(anywhere.states().items()) == [
        ("a", "completed"),
        ("late", "completed"),
        ("b", "completed"),
        ("x", "processing"),
        ("n", "completed"),
    ]


class Disturbed(PartitionFile):
    """A partition's file to which something happens: before whole rows are read, or when all have been written."""

    def __init__(self, file: PartitionFile, step: Callable[[], object]) -> None:
        self.__dict__.update(vars(file))
        self._step: Callable[[], object] | None = step

    def replace(
        self,
        schema: pa.Schema,
        tables: Iterable[pa.Table],
        digest_columns: Sequence[str] = (),
        over: str | None = None,
    ) -> Written:
        def disturbed() -> Iterator[pa.Table]:
            yield from tables
            self._disturb()

        return super().replace(schema, disturbed(), digest_columns, over)

    def _disturb(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            step()


def test_a_file_that_is_replaced_while_its_rows_are_written_is_read_anew(anywhere: Place) -> None:
    anywhere.know("a", "b", "late")
    anywhere.know("x", phases=OPEN)
    anywhere.run(["a", "b", "x"])

    def with_a_late_row() -> None:
        anywhere.know("x")
        anywhere.run(["a", "late", "b", "x"])

    report = anywhere.run(["a", "b", "x"], file=Disturbed(anywhere.file, with_a_late_row))
    assert list(anywhere.states().items()) == [("a", "completed"), ("b", "completed"), ("x", "completed")]
    assert (report.states, report.dropped) == ({"completed": 3}, 1)


def test_a_file_that_appears_while_another_is_written_has_its_final_rows_kept(anywhere: Place) -> None:
    anywhere.know("x", "y", phases=OPEN)

    def finished_meanwhile() -> None:
        anywhere.know("x")
        anywhere.run(["x", "y"])

    report = anywhere.run(["x", "y"], file=Disturbed(anywhere.file, finished_meanwhile))
    assert anywhere.states() == {"x": "completed", "y": "processing"}
    assert (report.states, report.open_tasks, len(report.preview)) == ({"completed": 1, "processing": 1}, 1, 2)


def test_a_final_row_that_another_run_has_gained_is_kept(anywhere: Place) -> None:
    anywhere.know("x", "y", phases=OPEN)
    anywhere.provider.script("z", [Answer.of_json({"detail": "busy"}, 400), None])
    anywhere.know("z")

    def finished_meanwhile() -> None:
        anywhere.know("x")
        anywhere.run(["x", "y", "z"])

    anywhere.run(["x", "y", "z"], at("z", finished_meanwhile))
    assert anywhere.states() == {"x": "completed", "y": "processing", "z": "completed"}


def test_a_row_that_another_run_has_dropped_meanwhile_is_asked_for_anew(anywhere: Place) -> None:
    anywhere.know("x", "y")
    anywhere.run(["x"])
    anywhere.asked()
    report = anywhere.run(["x", "y"], at("y", lambda: anywhere.run(["y"])))
    assert (report.kept, report.asked) == (1, 2)
    assert anywhere.asked() == ["y", "y", "x"]
    assert anywhere.states() == {"x": "completed", "y": "completed"}


def test_a_run_ends_well_when_another_has_taken_up_its_checkpoints_and_removed_them(
    anywhere: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers.BUDGET, "limit", 0)
    monkeypatch.setattr(answers, "SPILLED_ROWS", 500)
    ids = [f"task-{number:05}" for number in range(2_100)]
    anywhere.know(*ids, phases=FAILED)
    others: list[GenerationsReport] = []

    def another_run() -> None:
        assert len(anywhere.shards) == 3
        others.append(anywhere.run(ids, batch=100))
        assert anywhere.shards == []

    report = anywhere.run(ids, at(ids[1_600], another_run), batch=100)
    assert (others[0].resumed, others[0].asked, report.asked) == (1_500, 600, 2_100)
    assert anywhere.states() == dict.fromkeys(ids, "failed")
    assert anywhere.shards == []


def test_checkpoints_of_tasks_that_a_run_does_not_know_of_are_left_to_others(place: Place) -> None:
    place.know("a", "late")
    place.refuse("z")
    with pytest.raises(AuthenticationError):
        place.run(["a", "late", "z"])
    place.run(["a"])
    assert len(place.shards) == 1
    place.asked()
    place.run(["a", "late"])
    assert place.asked() == []
    assert place.states() == {"a": "completed", "late": "completed"}


def test_runs_at_the_same_time_end_with_one_row_for_each_task(anywhere: Place) -> None:
    ids = [f"task-{number:03}" for number in range(60)]
    anywhere.know(*ids[::2])
    anywhere.know(*ids[1::2], phases=OPEN)
    anywhere.run(ids[::3])

    def run(number: int) -> None:
        anywhere.run([task_id for task_id in ids if task_id != ids[number]], refresh=number == 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(8)))
    left = anywhere.states()
    assert len(left) == 59
    assert list(left.values()).count("completed") >= 29
    anywhere.run(ids)
    assert list(anywhere.states().items()) == list(zip(ids, ["completed", "processing"] * 30, strict=True))
    assert anywhere.shards == []


def test_rows_that_are_there_several_times_become_one_with_the_next_run(place: Place) -> None:
    place.know("a", "x", "n")
    answers = [
        TaskResult("a", Outcome.RESOLVED, AT, generation={"id": "a", "state": "completed"}),
        TaskResult("x", Outcome.RESOLVED, AT, generation={"id": "x", "state": "failed"}),
        TaskResult("x", Outcome.RESOLVED, AT + timedelta(hours=1), generation={"id": "x", "state": "processing"}),
        TaskResult("n", Outcome.NOT_FOUND, AT),
        TaskResult("n", Outcome.REQUEST_FAILED, AT + timedelta(hours=1)),
    ]
    place.file.replace(GENERATIONS_SCHEMA, [to_table(answers)])
    place.run(["a", "b", "x", "n"], limit=0)
    assert place.asked() == []
    assert place.states() == {"a": "completed", "b": "not_asked", "x": "failed", "n": "not_found"}


# Open answers and final rows.


@pytest.mark.parametrize(
    "answer",
    [{"id": "a"}, {"id": "a", "state": None}, {"id": "a", "state": "processing"}, {"id": "a", "state": "dreaming"}],
    ids=str,
)
def test_a_refresh_takes_no_open_answer_for_a_final_row(place: Place, answer: dict[str, Any]) -> None:
    place.know("a")
    place.run(["a"])
    before = place.rows()
    place.provider.script("a", [Answer.of_json(answer)])
    assert place.run(["a"], refresh=True).asked == 1
    assert place.rows() == before


def test_a_request_that_failed_is_news_of_an_open_task_but_no_answer(place: Place) -> None:
    place.know("a", phases=OPEN)
    place.run(["a"])
    place.provider.script("a", [Answer.of_json({"detail": "busy"}, 400)])
    place.run(["a"])
    (row,) = place.rows()
    assert (row["outcome"], row["http_status"]) == ("request_failed", 400)
    place.refuse("b")
    with pytest.raises(AuthenticationError):
        place.run(["a", "b"])
    place.know("a")
    place.provider.script("a", [None])
    place.asked()
    place.run(["a", "b"])
    assert place.asked() == ["a", "b"]
    assert place.states()["a"] == "completed"


# What broken runs have left.


def test_a_checkpoint_that_cannot_be_read_is_left_out_and_told_of(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.know("a", "b", "c")
    for task_id in ("b", "c"):
        place.refuse(task_id)
        with pytest.raises(AuthenticationError):
            place.run(["a", "b", "c"])
    first, _ = (Path(shard.path) for shard in place.shards)
    first.write_bytes(first.read_bytes()[:-100])
    place.asked()
    report = place.run(["a", "b", "c"])
    assert (report.unreadable_checkpoints, report.resumed) == (1, 1)
    assert place.asked() == ["a", "c"]
    assert str(first) in caplog.text
    assert place.states() == dict.fromkeys("abc", "completed")


def test_answers_of_before_a_refresh_do_not_come_back(place: Place) -> None:
    place.know("a", "b", prompt="old")
    place.refuse("c")
    with pytest.raises(AuthenticationError):
        place.run(["a", "b", "c"])
    place.know("a", prompt="new")
    # Tasks that this run does not know of keep the checkpoint there.
    place.run(["a"], refresh=True)
    assert place.shards
    place.run(["a"])
    assert [row["request_prompt"] for row in place.rows()] == ["new"]


def test_an_open_answer_in_a_checkpoint_that_the_file_has_too_does_not_keep_its_task_from_being_asked(
    place: Place,
) -> None:
    place.know("a", "b", phases=OPEN)
    place.refuse("c")
    with pytest.raises(AuthenticationError):
        place.run(["a", "b", "c"])
    place.asked()
    assert place.run(["a"]).resumed == 1
    assert place.shards
    assert place.run(["a"]).resumed == 0
    assert place.asked() == ["a"]


@pytest.mark.parametrize("is_between", [False, True], ids=["at once", "after another run"])
def test_a_refresh_that_was_broken_off_is_taken_up_by_the_next(place: Place, is_between: bool) -> None:
    ids = ["a", "b", "c"]
    place.know(*ids)
    place.run(ids)
    place.refuse("c")
    with pytest.raises(AuthenticationError):
        place.run(ids, refresh=True)
    place.asked()
    if is_between:
        place.run(ids)
        assert place.asked() == []
    place.refuse("c")
    with pytest.raises(AuthenticationError):
        place.run(ids, refresh=True)
    assert place.run(ids, refresh=True).asked == 1
    assert place.asked() == ["c", "c"]
    assert place.shards == []
    assert place.run(ids, refresh=True).asked == 3


def test_a_refresh_asks_again_for_what_another_broken_run_was_answered(place: Place) -> None:
    place.know("a", "b")
    place.refuse("b")
    with pytest.raises(AuthenticationError):
        place.run(["a", "b"])
    assert place.run(["a", "b"], refresh=True).asked == 2
    assert place.shards == []


def test_a_refresh_makes_an_end_of_a_broken_one_even_where_it_cannot_be_read(place: Place) -> None:
    place.know("a", "b")
    place.refuse("b")
    with pytest.raises(AuthenticationError):
        place.run(["a", "b"], refresh=True)
    (shard,) = place.shards
    Path(shard.path).write_bytes(b"")
    assert place.run(["a", "b"], refresh=True, limit=1).asked == 1
    assert place.shards == [shard], "a part of a refresh is none"
    place.run(["a", "b"], refresh=True)
    assert place.run(["a", "b"], refresh=True).asked == 2


def test_a_partition_that_cannot_be_written_costs_no_answer(place: Place) -> None:
    place.know("a", "b")
    blocked = Path(place.file.path).parent
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    with pytest.raises(DatasetError):
        place.run(["a", "b"])
    blocked.unlink()
    place.asked()
    assert place.run(["a", "b"]).resumed == 2
    assert place.asked() == []


def test_answers_are_saved_on_time_however_many_come(place: Place) -> None:
    ids = [f"task-{number:04}" for number in range(1_000)]
    place.know(*ids, phases=FAILED)
    saved: list[int] = []

    def on_answer(outcome: TaskResult, _: datetime) -> None:
        if outcome.task_id in (ids[0], ids[600]):
            time.sleep(0.6)
        elif outcome.task_id == ids[-1]:
            saved.extend(len(place.checkpoints.load(shard.path)) for shard in place.shards)

    # Neither half of the answers takes as long as that by itself.
    place.run(ids, on_answer, batch=100, save_seconds=1.0)
    assert sum(saved) > 0
    assert place.shards == []


# Tasks that have left the source.


def test_rows_of_tasks_that_have_left_the_source_are_counted(place: Place) -> None:
    place.know("a", "b", "c")
    assert place.run(["a", "b", "c"]).dropped == 0
    assert place.run(["b"]).dropped == 2
    assert place.states() == {"b": "completed"}
    assert place.run(["b"]).dropped == 0


def test_a_partition_does_not_become_empty_unless_a_run_says_so(anywhere: Place) -> None:
    assert anywhere.run([]).written is not None
    assert anywhere.run([]).written is not None
    anywhere.know("a", "b")
    anywhere.run(["a", "b"])
    before = anywhere.rows()
    with pytest.raises(EmptiedError, match=r"2 rows .* nothing was replaced.*`allow_empty: true`"):
        anywhere.run([])
    assert anywhere.rows() == before
    assert anywhere.run([], allow_empty=True).dropped == 2
    assert anywhere.rows() == []


# Dry runs.


def test_a_dry_run_counts_what_a_run_would_ask_for(place: Place) -> None:
    ids = ["a", "b", "c"]
    place.know(*ids)
    place.run(ids)
    place.refuse("c")
    with pytest.raises(AuthenticationError):
        place.run(ids, refresh=True)
    for policy, count in (({}, 0), ({"refresh": True}, 1), ({"refresh": True, "checkpoint_seconds": 0.0}, 3)):
        assert (
            tasks_to_ask(tasks_of(ids), place.file, place.checkpoints, GATEWAY, place.resolve_policy(**policy)) == count
        )
