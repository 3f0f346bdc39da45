"""luma_videos: the artifacts of a partition's finished tasks, copied and listed in a manifest.

Memory stays flat however many videos a partition has: of earlier rows only what decides is held, new rows are
compressed and go to a temporary file when they are many, the generations are walked a row group at a time, and no more
copies are begun than the copier takes. The bound: 350 bytes a video.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import ROW_GROUP_ROWS, Forgotten, PartitionFile, PartitionReader, StaleVersionError, Written
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA, Identities, ResultRows
from luma_pipeline.dataset.rows import Positions
from luma_pipeline.engine.earlier_videos import (
    Action,
    ChooseLook,
    CopyDecision,
    EarlierVideos,
    Flags,
    ManifestPolicy,
    is_in_bucket,
    is_of_bucket,
)
from luma_pipeline.engine.verdict import Judge
from luma_pipeline.engine.video_answers import Said, VideoAnswers, answer_columns, differing_rows, said_of, shown
from luma_pipeline.luma import ProviderSpec, State, TaskResult
from luma_pipeline.luma.links import (
    LinkLookup,
    choose_link,
    link_columns,
    links_of_generation,
    links_of_row,
)
from luma_pipeline.media import (
    Artifact,
    CopyRequest,
    CopyResult,
    CopyStatus,
    ErrorCode,
    KnownObject,
    MediaCopier,
)

__all__ = ["DIGEST_COLUMNS", "VIDEOS_SCHEMA", "ManifestPolicy", "PartitionVideos", "VideosReport", "row_of"]

_log = logging.getLogger(__name__)

_NO_FETCH = "about:blank"
"""The link of what may be found and is not fetched: it is refused before anybody is asked, also for a better one."""
DIGEST_COLUMNS = ("task_id", "artifact", "key", "sha256", "error_code")
"""What the digest of a manifest is computed over."""
_LISTED_COLUMNS = ("key", "size_bytes", "etag")
_OWNED_COLUMNS = ("task_id", "bucket", "key")
_FIRST_FAILURES = 20
_FIRST_DIFFERING = 10
_FAILURE_COLUMNS = ("task_id", "artifact", "status", "error_code", "error_message")
_PREVIEW_ROWS = 10
_PREVIEW_COLUMNS = ("task_id", "artifact", "status", "key", "size_bytes")


@dataclass
class VideosReport:
    """The numbers of one partition. Times are seconds.

    `differing` counts all rows whose video is not what the provider's answer says; the first of them are shown.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    bytes_downloaded: int = 0
    bytes_stored: int = 0
    attempts: int = 0
    seconds: float = 0.0
    open_artifacts: int = 0
    first_failures: list[dict[str, str]] = field(default_factory=list)
    is_verified: bool = False
    """All objects were looked at, which is to be noted."""
    differing: int = 0
    first_differing: list[dict[str, str]] = field(default_factory=list)
    written: Written | None = None
    copy_seconds: array[float] = field(default_factory=lambda: array("d"), repr=False)
    preview: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """The first rows."""

    @property
    def has_changed(self) -> bool:
        """Whether the manifest was written or something was fetched."""
        return self.attempts > 0 or (self.written is not None and self.written.is_new)

    def copy_quantile(self, quantile: float) -> float | None:
        """A quantile (0..1) of the seconds that copying one artifact took; None without copies."""
        return float(np.quantile(np.frombuffer(self.copy_seconds), quantile)) if self.copy_seconds else None

    def count_rows(self, table: pa.Table, is_kept: Flags) -> None:
        """Take in rows of tasks that are completed. What was copied by an earlier run is present in this one."""
        was_there = pc.and_(pa.array(is_kept), is_in_bucket(table["status"]))
        statuses = pc.if_else(was_there, CopyStatus.ALREADY_PRESENT.value, table["status"])
        for entry in pc.value_counts(statuses).to_pylist():
            self.statuses[entry["values"]] += entry["counts"]
        failures = table.filter(pc.invert(is_in_bucket(table["status"]))).select(_FAILURE_COLUMNS)
        for row in failures.slice(0, _FIRST_FAILURES - len(self.first_failures)).to_pylist():
            self.first_failures.append({name: value or "" for name, value in row.items()})
        first = table.select(_PREVIEW_COLUMNS).slice(0, _PREVIEW_ROWS - len(self.preview))
        self.preview += first.to_pylist()

    def count_differing(self, table: pa.Table, said: Said) -> None:
        """Take in rows of tasks that are completed, beside what their answers say, in the shape (rows, 3)."""
        found = differing_rows(table, said)
        self.differing += len(found)
        left = _FIRST_DIFFERING - len(self.first_differing)
        self.first_differing += [shown(row) for row in found.slice(0, left).to_pylist()]


class _Begun(NamedTuple):
    """What is to be known of a copy when it ends. One that is not fetched only finds what is in the bucket.

    `confirms` is the object that the manifest knows and the copy looks at.
    """

    number: int
    is_old: bool
    is_fetched: bool
    confirms: KnownObject | None


class _Group(NamedTuple):
    """Some completed tasks: what was decided of their artifacts, and what the answers say of these."""

    decision: CopyDecision
    said: Said


class PartitionVideos:
    """The copies of one partition: begun as answers come, finished and written when all answers are there.

    To be used in a `with` block, by one thread at a time. `submit` of the copier lets it wait while enough copies are
    queued: that makes asking wait for copying, so that links are still alive when their turn comes. Copies still under
    way when a method raises are waited for where the copier is closed.
    """

    def __init__(
        self,
        copier: MediaCopier,
        file: PartitionFile,
        policy: ManifestPolicy,
        choose_look: ChooseLook | None = None,
        forgotten: Forgotten = Forgotten(),  # noqa: B008 - frozen
    ) -> None:
        self._forgotten = forgotten
        self._copier = copier
        self._file = file
        self._policy = policy
        self._started = time.monotonic()
        self._earlier = EarlierVideos(file, policy, choose_look)
        self._begun = Identities()
        self._rows_of_begun = array("q")  # for each copy that has begun the number of its row, -1 for none
        self._results = ResultRows()
        self._done: SimpleQueue[tuple[_Begun, Future[CopyResult]]] = SimpleQueue()
        self._under_way = 0
        self._is_one_lost = False
        self._report = VideosReport()

    def __enter__(self) -> PartitionVideos:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._earlier.close()
        self._results.close()

    def copy_answer(self, result: TaskResult, submitted_at: datetime) -> None:
        """Begin to copy what a new answer brings, while the others are still being asked for.

        Raises what a copy has raised by now, as `finish` does.
        """
        if result.state != State.COMPLETED or result.generation is None:
            return
        is_old = self._policy.give_up.on(submitted_at)
        for artifact in self._policy.artifacts:
            earlier = self._earlier.identities.find_one(result.task_id, artifact.value)
            if self._earlier.is_known(earlier) and not self._policy.overwrite:
                continue
            request = self._request(result.task_id, artifact, links_of_generation(result.generation), earlier)
            self._begin(request, is_old=is_old)

    def finish(
        self, generations: PartitionFile, judge: Judge | None = None, *, is_just_read: bool = False
    ) -> VideosReport:
        """Copy what is not begun yet, wait for all of it, and replace the manifest if a row has changed.

        `judge` puts the verdict on it. Where one of the objects that are looked at is lost, all others are looked at.
        `is_just_read`: what `generations` has read last is as the file is now.

        Raises:
            BucketError: The bucket cannot be used any more.
        """
        groups = self._copy_rest(generations, is_just_read=is_just_read)
        if self._is_one_lost and not self._earlier.look.is_whole:
            _log.warning("an object that %s knows is not in the bucket: all of them are looked at", self._file.path)
            self._earlier.look_at_all()
            groups = self._copy_rest(generations)
        report = self._report
        report.open_artifacts += sum(group.decision.open_others for group in groups)
        report.written = self._earlier.written() if self._is_unchanged(groups) else None
        rows = self._rows(groups, generations)
        if judge is not None and (report.written is None or self._earlier.look.is_whole):
            rows = judge.on_videos(rows, report)
        if report.written is None:
            report.written = self._file.replace(VIDEOS_SCHEMA, rows, DIGEST_COLUMNS)
        else:
            deque(rows, maxlen=0)
        report.is_verified = self._earlier.look.is_noted
        report.rows = report.written.rows
        report.seconds = time.monotonic() - self._started
        return report

    def purge(self, forgotten: Forgotten) -> None:
        """Remove the objects of tasks that were forgotten while their copies were under way: after `finish`."""
        begun = self._begun.task_ids()
        keys: dict[str, list[str]] = {each: [] for each in begun.filter(pa.array(forgotten.among(begun))).to_pylist()}
        known = self._earlier.take(np.flatnonzero(forgotten.among(self._earlier.identities.task_ids())), _OWNED_COLUMNS)
        for row in known.filter(is_of_bucket(known, self._policy.bucket)).to_pylist():
            keys.setdefault(row["task_id"], []).extend([row["key"]] if row["key"] else [])
        left = self._copier.purge(keys)
        if keys:
            _log.info("%d tasks of %s were forgotten meanwhile: their objects are removed", len(keys), self._file.path)
        if left:
            _log.warning(
                "%d versions of objects of tasks that were forgotten meanwhile are still there (%s): run luma_forget "
                "for these tasks once more",
                len(left),
                left[0].reason,
            )

    # -- copying ----------------------------------------------------------------------------------------------------

    def _copy_rest(self, generations: PartitionFile, *, is_just_read: bool = False) -> list[_Group]:
        """Copy what is not begun and wait for all of it; returns what was decided, in the order of the generations."""
        groups = self._begin_rest(generations, is_just_read=is_just_read)
        while self._under_way:
            self._take(*self._done.get())
        return groups

    def _begin_rest(self, generations: PartitionFile, *, is_just_read: bool) -> list[_Group]:
        spec, artifacts = self._policy.spec, self._policy.artifacts
        columns = dict.fromkeys([*link_columns(artifacts, spec.artifacts), *answer_columns(artifacts, spec)])
        while True:
            self._earlier.identities.forget()
            self._begun.forget()
            reader = generations.reopen() if is_just_read else generations.open()
            groups = _completed(reader, spec, list(columns), self._forgotten)
            is_just_read = False
            try:
                return [_Group(self._copy_group(group), said_of(group, artifacts, spec)) for group in groups]
            except StaleVersionError as error:
                _log.info("%s; it is read again", error)

    def _copy_group(self, group: pa.Table) -> CopyDecision:
        """Begin what is not begun of some completed tasks."""
        artifacts, task_ids = self._policy.artifacts, group["task_id"].to_pylist()
        decision = self._earlier.decide(group, self._begun)
        if self._earlier.look.is_whole:
            self._leave_out_seen(decision)
        unknown = np.argwhere((decision.actions == Action.COPY) | (decision.actions == Action.FIND)).tolist()
        if unknown and not self._policy.overwrite:
            self._copier.look_for((task_ids[row], artifacts[column]) for row, column in unknown)
        for row, column in np.argwhere(decision.actions != Action.NONE).tolist():
            task_id, artifact, action = task_ids[row], artifacts[column], decision.actions[row, column]
            is_fetched = action != Action.FIND
            if is_fetched:
                earlier = int(decision.earlier[row, column])
                request = self._request(task_id, artifact, links_of_row(group, row), earlier)
            else:
                request = CopyRequest(task_id, artifact, _NO_FETCH)
            is_old = self._policy.give_up.on(group["submitted_at"][row].as_py())
            decision.begun[row, column] = self._begin(
                request, is_old=is_old, is_fetched=is_fetched, is_confirmed=action == Action.CONFIRM
            )
        return decision

    def _leave_out_seen(self, decision: CopyDecision) -> None:
        """Leave objects as they are that a listing of the bucket has just as the manifest has them."""
        to_confirm = np.nonzero(decision.actions == Action.CONFIRM)
        known = self._earlier.take(decision.earlier[to_confirm], _LISTED_COLUMNS)
        seen = self._copier.seen(list(zip(*(known[name].to_pylist() for name in _LISTED_COLUMNS), strict=True)))
        decision.actions[to_confirm] = np.where(seen, Action.NONE, Action.CONFIRM)

    def _request(self, task_id: str, artifact: Artifact, look_up: LinkLookup, earlier: int) -> CopyRequest:
        policy = self._policy
        link, is_better_asked = choose_link(look_up, artifact, policy.link_preference, policy.spec.artifacts)
        ask = policy.unwatermarked
        better = (lambda: ask(task_id)) if is_better_asked and ask is not None else None
        return CopyRequest(task_id, artifact, link, self._earlier.known(earlier), better)

    def _begin(self, request: CopyRequest, *, is_old: bool, is_fetched: bool = True, is_confirmed: bool = False) -> int:
        """Begin a copy; returns its number."""
        while not self._done.empty():
            self._take(*self._done.get())
        future = self._copier.submit(request)
        self._under_way += 1
        number = self._begun.append(request.task_id, request.artifact.value)
        self._rows_of_begun.append(-1)
        begun, done = _Begun(number, is_old, is_fetched, request.known if is_confirmed else None), self._done
        future.add_done_callback(lambda future: done.put((begun, future)))
        return number

    def _take(self, begun: _Begun, future: Future[CopyResult]) -> None:
        """Take in a copy that has ended; raises what it raised."""
        self._under_way -= 1
        result = future.result()
        report = self._report
        report.bytes_downloaded += result.bytes_downloaded
        report.attempts += result.attempts
        is_there = result.status in (CopyStatus.COPIED, CopyStatus.ALREADY_PRESENT)
        if result.status is CopyStatus.COPIED:
            report.copy_seconds.append(result.seconds)
        report.open_artifacts += not is_there and not begun.is_old
        if begun.confirms is not None and result.status is CopyStatus.ALREADY_PRESENT and result.is_of(begun.confirms):
            return
        is_found = result.status is CopyStatus.ALREADY_PRESENT or result.error_code == ErrorCode.STORE_ERROR
        self._is_one_lost = self._is_one_lost or (begun.confirms is not None and not is_found)
        if begun.is_fetched:
            self._rows_of_begun[begun.number] = self._results.append(row_of(result))
        elif is_there:
            self._rows_of_begun[begun.number] = self._results.append({**row_of(result), "source_url": None})

    # -- the manifest -----------------------------------------------------------------------------------------------

    def _rows(self, groups: Sequence[_Group], generations: PartitionFile) -> Iterator[pa.Table]:
        """The rows in the order of the generations, then those that are kept of others, in their order before."""
        for group in groups:
            table, is_kept = self._rows_of(group.decision)
            self._report.count_rows(table, is_kept)
            self._report.count_differing(table, group.said.reshape(-1, group.said.shape[-1]))
            yield self._counted(table)
        kept = self._earlier.to_keep(group.decision for group in groups)
        answers = VideoAnswers.read(generations, self._policy.spec) if len(kept) else None
        for start in range(0, len(kept), ROW_GROUP_ROWS):
            table = self._earlier.take(kept[start : start + ROW_GROUP_ROWS])
            if answers is not None:
                self._report.count_differing(table, answers.of(table))
            yield self._counted(table)

    def _is_unchanged(self, groups: Sequence[_Group]) -> bool:
        """Whether the manifest has all rows already, in their order."""
        decisions = [group.decision for group in groups]
        if any((self._new_rows(decision) >= 0).any() for decision in decisions):
            return False
        numbers = [*(decision.earlier.ravel() for decision in decisions), self._earlier.to_keep(decisions)]
        return np.array_equal(np.concatenate(numbers), np.arange(len(self._earlier)))

    def _new_rows(self, decision: CopyDecision) -> Positions:
        """For each artifact the number of the row that this run brought, -1 for none."""
        return np.append(np.asarray(self._rows_of_begun, dtype=np.int64), -1)[decision.begun.ravel()]

    def _rows_of(self, decision: CopyDecision) -> tuple[pa.Table, Flags]:
        """What this run brought for each artifact, or the row that it had before; and which were there before."""
        rows = self._new_rows(decision)
        earlier = decision.earlier.ravel()
        is_kept = rows < 0
        if (earlier[is_kept] < 0).any():
            raise AssertionError("an artifact was neither copied nor given up")
        both = pa.concat_tables([self._results.take(rows[~is_kept]), self._earlier.take(earlier[is_kept])])
        back = np.empty(len(rows), dtype=np.int64)
        back[np.concatenate([np.flatnonzero(~is_kept), np.flatnonzero(is_kept)])] = np.arange(len(rows))
        return both.take(pa.array(back)), is_kept

    def _counted(self, table: pa.Table) -> pa.Table:
        ours = table.filter(is_of_bucket(table, self._policy.bucket))
        self._report.bytes_stored += pc.sum(ours["size_bytes"]).as_py() or 0
        return table


def artifacts_to_copy(
    generations: PartitionFile, manifest: PartitionFile, policy: ManifestPolicy, *, is_asked_again: bool = False
) -> int:
    """How many artifacts a run would copy, as far as the manifest knows what is in the bucket.

    `is_asked_again`: the run gets a new answer for every task, and with it links for what was given up.
    """
    with closing(EarlierVideos(manifest, policy)) as earlier:
        decisions = (
            earlier.decide(group, is_given_up_kept=not is_asked_again)
            for group in _completed(generations.open(), policy.spec)
        )
        return sum(int((decision.actions == Action.COPY).sum()) for decision in decisions)


def _completed(
    generations: PartitionReader,
    spec: ProviderSpec,
    columns: Sequence[str] = (),
    forgotten: Forgotten = Forgotten(),  # noqa: B008 - frozen
) -> Iterator[pa.Table]:
    """The rows of completed tasks that are not forgotten, a row group at a time. Closes the reader."""
    names = ["task_id", "submitted_at", "state", *columns]
    with generations as reader:
        for table in reader.batches(names, spec.schema):
            completed = forgotten.without(table.filter(pc.equal(table["state"], State.COMPLETED.value)))
            if len(completed):
                yield completed.combine_chunks()


def row_of(result: CopyResult) -> dict[str, Any]:
    """The row of the manifest that a copy ends as."""
    facts = result.facts
    row = {name: getattr(facts if hasattr(facts, name) else result, name) for name in VIDEOS_SCHEMA.names}
    row["artifact"], row["status"] = result.artifact.value, result.status.value
    return row


def artifacts_from(names: Sequence[str]) -> tuple[Artifact, ...]:
    """The artifacts named; raises ValueError for a name that is none."""
    try:
        return tuple(dict.fromkeys(Artifact(name) for name in names))
    except ValueError:
        there = ", ".join(artifact.value for artifact in Artifact)
        raise ValueError(f"artifacts must be some of {there}, not {', '.join(names)}") from None
