"""Each invariant of the soak, broken by hand, one after the other: the look at it has to see that, and nothing else.

python -m tests.faults.soak --prove
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import requests

from luma_pipeline.sandbox.server import Answer
from tests.faults import invariants
from tests.faults.readers import Folder, Judgement, judge_once
from tests.faults.rounds import Round
from tests.faults.scenario import Kill, Rates, Scenario, scenario
from tests.faults.stage import VIDEOS_BUCKET, Stage, running_stage
from tests.waiting import wait_until

_SEED = 8


@dataclass(frozen=True)
class Proof:
    """What was broken, the words that a violation of it begins with, and what was seen."""

    broken: str
    word: str
    seen: tuple[str, ...]

    @property
    def is_seen(self) -> bool:
        return any(self.word in violation for violation in self.seen)


Break = Callable[[Round], AbstractContextManager[None]]


def quiet_scenario() -> Scenario:
    """A small round without faults and kills, over a local root and PostgreSQL."""
    return replace(
        scenario(_SEED),
        root="local",
        source="postgresql",
        days=1,
        tasks=14,
        large_videos=0,
        batch_size=None,
        artifacts=("video",),
        latency_seconds=0.0,
        requests_per_second=None,
        rates=Rates(),
        attempts=(),
    )


def prove(stage: Stage, directory: Path) -> list[Proof]:
    """Break each invariant by hand."""
    round_ = Round(stage, quiet_scenario(), directory)
    proofs = []
    with round_.set_up():
        round_.settle()
        proofs += [Proof(name, word, tuple(run(round_))) for name, word, run in _RUNS_BEFORE]
        assert round_.quiet_run() == "SUCCESS"
        assert round_.look() == []
        for name, word, break_ in _STATES:
            with break_(round_):
                proofs.append(Proof(name, word, tuple(round_.look())))
        assert round_.look() == [], "something was not undone"
        proofs += [Proof(name, word, tuple(run(round_))) for name, word, run in _RUNS]
        proofs += _readers(round_)
        round_._stop_readers()
    round_.clean()
    return proofs


def main(directory: Path) -> int:
    with running_stage(directory / "stage") as stage:
        proofs = prove(stage, directory / "round")
    for proof in proofs:
        said = next((violation for violation in proof.seen if proof.word in violation), "NOT SEEN")
        sys.stdout.write(f"{proof.broken}: {said[:160]}\n")
    return 0 if all(proof.is_seen for proof in proofs) else 1


# -- states -----------------------------------------------------------------------------------------------------------


def _file(round_: Round, dataset: str) -> Path:
    return Path(round_.root) / dataset / f"date={round_.days[0]}" / "part-0.parquet"


@contextmanager
def _rewritten(path: Path, change: Callable[[pa.Table], pa.Table]) -> Iterator[None]:
    """A Parquet file with other rows, until the block ends."""
    before = path.read_bytes()
    table = pq.ParquetFile(path).read()
    pq.write_table(change(table), path)
    try:
        yield
    finally:
        path.write_bytes(before)


@contextmanager
def _added(path: Path, content: bytes) -> Iterator[None]:
    """Bytes at the end of a file, which may be a new one."""
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((before or b"") + content)
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_bytes(before)


@contextmanager
def _cut(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    yield
    path.write_bytes(before)


def _rows(dataset: str, change: Callable[[pa.Table], pa.Table]) -> Break:
    return lambda round_: _rewritten(_file(round_, dataset), change)


def _with(column: str, value: str) -> Callable[[pa.Table], pa.Table]:
    """The table with another value in the first row of a column."""

    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(column)
        values = pa.array([value, *table[column].to_pylist()[1:]], table.schema.field(index).type)
        return table.set_column(index, table.schema.field(index), values)

    return change


def _first_object(round_: Round) -> tuple[str, invariants.StoredObject]:
    return min(round_.outside.objects().items())


@contextmanager
def _object(round_: Round, key: str, body: bytes | None, metadata: dict[str, str] | None = None) -> Iterator[None]:
    """Another object under a key, or none, until the block ends."""
    client = round_.outside.client
    before = round_.outside.objects().get(key)
    if body is None:
        client.delete_object(Bucket=VIDEOS_BUCKET, Key=key)
    else:
        client.put_object(Bucket=VIDEOS_BUCKET, Key=key, Body=body, Metadata=metadata or {})
    try:
        yield
    finally:
        if before is None:
            client.delete_object(Bucket=VIDEOS_BUCKET, Key=key)
        else:
            client.put_object(Bucket=VIDEOS_BUCKET, Key=key, Body=before.body, Metadata=dict(before.metadata))


def _changed_object(round_: Round) -> AbstractContextManager[None]:
    key, found = _first_object(round_)
    return _object(round_, key, found.body[:-1] + bytes([found.body[-1] ^ 1]))


def _lost_object(round_: Round) -> AbstractContextManager[None]:
    return _object(round_, _first_object(round_)[0], None)


def _object_without_a_row(round_: Round) -> AbstractContextManager[None]:
    return _object(round_, f"{round_.prefix}/nobody/video.mp4", b"nobody's")


def _secret_on_an_object(round_: Round) -> AbstractContextManager[None]:
    key, found = _first_object(round_)
    metadata = {**found.metadata, "link": f"http://host/video.mp4?{round_.stage.secrets.signature}0a"}
    return _object(round_, key, found.body, metadata)


@contextmanager
def _upload(round_: Round) -> Iterator[None]:
    client, key = round_.outside.client, f"{round_.prefix}/half/video.mp4"
    upload = client.create_multipart_upload(Bucket=VIDEOS_BUCKET, Key=key)["UploadId"]
    yield
    client.abort_multipart_upload(Bucket=VIDEOS_BUCKET, Key=key, UploadId=upload)


def _secret_in_a_log(round_: Round) -> AbstractContextManager[None]:
    return _added(round_.directory / "logs" / "run-1.log", f"Bearer {round_.stage.secrets.token}".encode())


def _secret_in_a_compute_log(round_: Round) -> AbstractContextManager[None]:
    log = next((round_.home / "storage").rglob("*.err"))
    return _added(log, round_.stage.secrets.secret_access_key.encode())


@contextmanager
def _secret_in_an_event(round_: Round) -> Iterator[None]:
    kept = {path: path.read_bytes() for path in round_.home.rglob("*") if path.is_file()}
    with dg.DagsterInstance.from_config(str(round_.home)) as instance:
        run = instance.get_runs(limit=1)[0]
        instance.report_engine_event(f"connecting as soak:{round_.stage.secrets.password}", run)
    yield
    for path in round_.home.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    for path, content in kept.items():
        path.write_bytes(content)


def _secret_in_a_column(round_: Round) -> AbstractContextManager[None]:
    link = f"http://host/video.mp4?{round_.stage.secrets.signature}0a"
    return _rewritten(_file(round_, "luma_videos"), _with("source_url", link))


def _secret_in_file_metadata(round_: Round) -> AbstractContextManager[None]:
    def change(table: pa.Table) -> pa.Table:
        metadata = {**(table.schema.metadata or {}), b"written with": round_.stage.secrets.token.encode()}
        return table.replace_schema_metadata(metadata)

    return _rewritten(_file(round_, "luma_tasks"), change)


_STATES: tuple[tuple[str, str, Break], ...] = (
    ("a task without its row", "rows: luma_generations", _rows("luma_generations", lambda table: table.slice(1))),
    (
        "a task with two rows",
        "rows: luma_tasks",
        _rows("luma_tasks", lambda table: pa.concat_tables([table, table.slice(0, 1)])),
    ),
    ("a row of nobody's task", "rows: luma_tasks", _rows("luma_tasks", _with("task_id", "nobody"))),
    ("an artifact without its row", "rows: luma_videos", _rows("luma_videos", lambda table: table.slice(1))),
    ("a file that is cut", "unreadable: ", lambda round_: _cut(_file(round_, "luma_videos"))),
    ("a row with another state", "outcome: ", _rows("luma_generations", _with("state", "upscaling"))),
    ("a row with another outcome", "outcome: ", _rows("luma_generations", _with("outcome", "request_failed"))),
    ("an object that is changed", "digest: ", _changed_object),
    ("a manifest with another digest", "digest: ", _rows("luma_videos", _with("sha256", "0" * 64))),
    ("a video that is not copied", "digest: ", _rows("luma_videos", _with("status", "failed"))),
    ("an object that is gone", "manifest and bucket: ", _lost_object),
    ("an object without a row", "manifest and bucket: ", _object_without_a_row),
    (
        "a temporary file in the data root",
        "stray: ",
        lambda round_: _added(Path(round_.root) / "luma_tasks" / ".part-0.parquet.0a.tmp", b"PAR1"),
    ),
    (
        "a checkpoint that nobody took up",
        "stray: ",
        lambda round_: _added(Path(round_.root) / "_checkpoints" / "luma_generations" / "run.txt", b"rows"),
    ),
    (
        "a temporary file beside the data root",
        "stray: ",
        lambda round_: _added(round_.directory / "tmp" / "tmp0a", b"rows"),
    ),
    ("an upload that nobody ended", "orphan: ", _upload),
    ("the token in a log", "secret: the token is in logs", _secret_in_a_log),
    ("the S3 key in a compute log", "secret: the S3 secret key is in Dagster's home", _secret_in_a_compute_log),
    ("the password in an event", "secret: the database password is in Dagster's home", _secret_in_an_event),
    ("a signed query in a column", "secret: the signed query is in column source_url", _secret_in_a_column),
    ("the token in a file's metadata", "secret: the token is in the metadata of luma_tasks", _secret_in_file_metadata),
    ("a signed query on an object", "secret: the signed query is in the metadata of round", _secret_on_an_object),
)


# -- runs -------------------------------------------------------------------------------------------------------------


def _final_task_asked_again(round_: Round) -> list[str]:
    """Somebody asks for a final task while a run is at work."""
    with _violations_of(round_) as found:
        final = next(task_id for task_id, each in round_.expected.items() if each.state == "failed")
        quiet_run = round_.quiet_run

        def meddling(**settings: Any) -> str:
            headers = {"Authorization": f"Bearer {round_.stage.secrets.token}"}
            requests.get(f"{round_.provider.base_url}/luma/generations/{final}", headers=headers, timeout=10)
            return quiet_run(**settings)

        round_.quiet_run = meddling  # type: ignore[method-assign]
        round_._run_again()
        round_.quiet_run = quiet_run  # type: ignore[method-assign]
    return found


def _answers_of_a_stopped_run_lost(round_: Round) -> list[str]:
    """The checkpoints of a stopped run are gone, so that its answers are asked for again."""
    provider = round_.provider
    failed = {task_id for task_id, each in round_.expected.items() if each.state == "failed"}
    stalled = next(task_id for task_id, each in round_.expected.items() if each.state == "completed")
    provider.script(stalled, [Answer(503, delay_seconds=120.0)])
    kill = Kill(signal.SIGTERM, "random moment", 1, 60.0)
    round_._forget_requests()
    run = round_.start(round_.stage.store.endpoint_url, kill=kill)
    answered = lambda: {task_id for each in provider.answered for task_id in each.task_ids}  # noqa: E731
    wait_until(answered, lambda ids: failed <= ids, timeout=60)
    time.sleep(3)
    assert run.trigger is not None
    run.trigger.fire("random moment")
    round_._see_to_the_end(run, 60.0)
    kept = round_._answered_before_the_kill([run])
    for path in Path(round_.root).glob("_checkpoints/*/*/*.parquet"):
        path.unlink()
    provider.script(stalled, [None])
    with _violations_of(round_) as found:
        round_._recover(kept)
    return found


def _file_written_again(round_: Round) -> list[str]:
    before = round_.outside.versions()
    path = _file(round_, "luma_tasks")
    path.write_bytes(path.read_bytes())
    return list(invariants.written_again(before, round_.outside.versions(), set()))


def _run_that_fails(round_: Round) -> list[str]:
    path = _file(round_, "luma_generations")
    before = path.read_bytes()
    path.write_bytes(b"PAR1 no Parquet")
    with _violations_of(round_) as found:
        round_._recover(set())
    path.write_bytes(before)
    return found


def _run_that_does_not_stop(round_: Round) -> list[str]:
    """A process that is halted does not hear of SIGTERM."""
    with _violations_of(round_) as found:
        run = round_.start(round_.stage.store.endpoint_url, kill=Kill(signal.SIGTERM, "random moment", 1, 0.1))
        os.kill(run.process.pid, signal.SIGSTOP)
        round_.seconds_to_stop = 1.0
        round_._see_to_the_end(run, 60.0)
        round_.seconds_to_stop = Round.seconds_to_stop
    return found


def _run_that_dies_by_itself(round_: Round) -> list[str]:
    with _violations_of(round_) as found:
        run = round_.start(round_.stage.store.endpoint_url)
        os.kill(run.process.pid, signal.SIGKILL)
        round_._see_to_the_end(run, 60.0)
        round_._note(run)
    return found


@contextmanager
def _violations_of(round_: Round) -> Iterator[list[str]]:
    """What a round notes while the block runs, and forgets after it."""
    found: list[str] = []
    before, round_.result.violations = round_.result.violations, found
    yield found
    round_.result.violations = before


_RUNS_BEFORE: tuple[tuple[str, str, Callable[[Round], list[str]]], ...] = (
    ("answers of a stopped run that are lost", "asked again: ", _answers_of_a_stopped_run_lost),
)
_RUNS: tuple[tuple[str, str, Callable[[Round], list[str]]], ...] = (
    ("a final task that is asked for again", "asked again: ", _final_task_asked_again),
    ("a file that is written again", "written again: ", _file_written_again),
    ("a run that cannot recover", "recovery: ", _run_that_fails),
    ("a run that does not stop", "stop: ", _run_that_does_not_stop),
    ("a run that dies by itself", "status: ", _run_that_dies_by_itself),
)


# -- readers ----------------------------------------------------------------------------------------------------------


def _readers(round_: Round) -> list[Proof]:
    """What a reader may not see, seen by both."""
    path = _file(round_, "luma_generations")
    whole = path.read_bytes()
    table = pq.ParquetFile(path).read()

    def as_file(rows: pa.Table) -> bytes:
        sink = io.BytesIO()
        pq.write_table(rows, sink)
        return sink.getvalue()

    half, twice = as_file(table.slice(0, len(table) // 2)), as_file(pa.concat_tables([table, table.slice(0, 1)]))
    seen = {
        ("half of a file", "could not read"): whole[: len(whole) // 2],
        ("half of the rows", "the source had"): half,
        ("a row twice", "of them distinct"): twice,
        ("final rows that have become fewer", "after Seen"): as_file(_with("state", "processing")(table)),
    }
    proofs = []
    for reader in ("pyarrow", "DuckDB"):
        for (name, word), content in seen.items():
            judgement = Judgement(reader, round_.directory / "allowed.json")
            for body in (whole, content):
                path.write_bytes(body)
                _read_once(judgement, round_)
            proofs.append(Proof(f"{reader}: {name}", word, tuple(judgement.violations)))
        other = path.parent.with_name(f"date={round_.days[0].replace('2024', '2031')}")
        judgement = Judgement(reader, round_.directory / "allowed.json")
        path.write_bytes(whole)
        _read_once(judgement, round_)
        path.parent.rename(other)
        _read_once(judgement, round_)
        other.rename(path.parent)
        proofs.append(Proof(f"{reader}: a partition that is gone", "gone", tuple(judgement.violations)))
    return proofs


def _read_once(judgement: Judgement, round_: Round) -> None:
    with duckdb.connect(config={"threads": 1}) as connection:
        judge_once(judgement, Folder(round_.root), "luma_generations", connection)
