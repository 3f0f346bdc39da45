"""luma_videos: the artifacts of a partition's finished tasks, copied and listed in a manifest.

Memory stays flat however many videos a partition has: what the last run left and what this one brings are compressed
pages found by task and artifact, the generations are walked a row group at a time, and no more copies are begun than
the copier takes. The bound: 450 bytes a video.
"""

from __future__ import annotations

import random
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import ROW_GROUP_ROWS, PartitionFile, Written
from luma_pipeline.dataset.manifest import (
    DIGEST_TYPE,
    VIDEOS_SCHEMA,
    Digests,
    Identities,
    ManifestRows,
    Places,
    digests_of,
)
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.luma import State, TaskResult
from luma_pipeline.luma.links import (
    ChosenLink,
    LinkLookup,
    choose_link,
    link_columns,
    links_of_generation,
    links_of_row,
)
from luma_pipeline.luma.schema import TIMESTAMP
from luma_pipeline.media import (
    Artifact,
    CopyRequest,
    CopyResult,
    CopyStatus,
    ErrorCode,
    KnownObject,
    LinkSource,
    MediaCopier,
)

__all__ = ["VIDEOS_SCHEMA", "ManifestPolicy", "PartitionVideos", "VideosReport"]

_Flags = npt.NDArray[np.bool_]

_THERE = pa.array([CopyStatus.COPIED.value, CopyStatus.ALREADY_PRESENT.value])
_HOPELESS = frozenset(
    {
        # The answer is final and has none, and so has the provider when it is asked once more.
        ErrorCode.NO_LINK,
        # Another try asks the media host and the provider once more each, for what both have said already.
        ErrorCode.LINK_EXPIRED,
        # What came is the file, and where no length is promised another try fetches up to the limit again.
        ErrorCode.TOO_LARGE,
        # Another try fetches the whole file to find the same object in its place.
        ErrorCode.KEY_TAKEN,
    }
)
"""Why an old video is left alone. All the rest is tried again: faults on the way pass, `not_media`, `wrong_type` and
`encoded_body` are how error pages look, and what a setting or a name server forbids (`forbidden_host`,
`forbidden_address`, `bad_scheme`) costs next to nothing to refuse anew."""
_NOWHERE = "about:blank"
"""The link of what is looked for and not fetched: it is refused before anybody is asked, also for a better one."""
_DIGEST_COLUMNS = ("task_id", "artifact", "key", "sha256", "error_code")
_FIRST_FAILURES = 20
_FAILURE_COLUMNS = ("task_id", "artifact", "status", "error_code", "error_message")


@dataclass(frozen=True)
class ManifestPolicy:
    """Which artifacts are copied, over which of their links, and until when failures are tried again.

    `unwatermarked` asks the provider for a task's link without watermark. `most_checked` is how many of a partition's
    objects the report names to be looked up by a check; None: all of them. `bucket` is the copier's: what the manifest
    has in others is not known to be there; None takes any. `overwrite` is the copier's as well.
    """

    artifacts: tuple[Artifact, ...]
    link_preference: tuple[LinkSource, ...]
    give_up: GiveUpPolicy
    unwatermarked: Callable[[str], str | None] | None = None
    most_checked: int | None = 0
    bucket: str | None = None
    overwrite: bool = False


@dataclass
class VideosReport:
    """The numbers of one partition. Times are seconds."""

    statuses: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    bytes_downloaded: int = 0
    bytes_stored: int = 0
    attempts: int = 0
    seconds: float = 0.0
    open_artifacts: int = 0
    first_failures: list[dict[str, str]] = field(default_factory=list)
    to_check: list[tuple[str, int]] = field(default_factory=list, repr=False)
    """Keys and sizes in bytes, by the manifest, of objects picked at random."""
    written: Written | None = None
    copy_seconds: array[float] = field(default_factory=lambda: array("d"), repr=False)

    def copy_quantile(self, quantile: float) -> float | None:
        """A quantile (0..1) of the seconds that copying one artifact took; None without copies."""
        return float(np.quantile(np.frombuffer(self.copy_seconds), quantile)) if self.copy_seconds else None


class _Begun(NamedTuple):
    """What is to be known of a copy when it ends. A look only finds what has come into the bucket by another way."""

    is_old: bool
    is_look: bool


class PartitionVideos:
    """The copies of one partition: begun as answers come, finished and written when all answers are there.

    To be used by one thread at a time. `submit` of the copier lets it wait while enough copies are queued: that makes
    asking wait for copying, so that links are still alive when their turn comes. Copies still under way when a method
    raises are waited for where the copier is closed.
    """

    def __init__(self, copier: MediaCopier, file: PartitionFile, policy: ManifestPolicy) -> None:
        self._copier = copier
        self._file = file
        self._policy = policy
        self._started = time.monotonic()
        self._before = _Before(file, policy)
        self._offered = Identities()
        self._results = ManifestRows()
        self._done: SimpleQueue[tuple[_Begun, Future[CopyResult]]] = SimpleQueue()
        self._under_way = 0
        self._report = VideosReport()

    def offer_answer(self, outcome: TaskResult, submitted_at: datetime) -> None:
        """Begin to copy what a new answer brings, while the others are still being asked for.

        Raises what a copy has raised by now, as `finish` does.
        """
        if outcome.state != State.COMPLETED or outcome.generation is None:
            return
        is_old = self._policy.give_up.on(submitted_at)
        for artifact in self._policy.artifacts:
            self._offered.add(outcome.task_id, artifact.value)
            place = int(self._before.find(digests_of([outcome.task_id], artifact.value))[0])
            request = self._request(outcome.task_id, artifact, links_of_generation(outcome.generation), place)
            self._begin(request, is_old=is_old)

    def finish(self, generations: PartitionFile) -> VideosReport:
        """Copy what is not begun yet, wait for all of it, and replace the manifest.

        Raises:
            BucketError: The bucket cannot be used any more.
        """
        order = [self._copy_rest(group) for group in _completed(generations, link_columns(self._policy.artifacts))]
        while self._under_way:
            self._take(*self._done.get())
        report = self._report
        report.written = self._file.replace(VIDEOS_SCHEMA, self._rows(order), _DIGEST_COLUMNS)
        report.rows = report.written.rows
        report.seconds = time.monotonic() - self._started
        return report

    # -- copying ----------------------------------------------------------------------------------------------------

    def _copy_rest(self, group: pa.Table) -> _Wanted:
        """Begin what is not begun of some completed tasks; returns their part of the manifest."""
        artifacts, before = self._policy.artifacts, self._before
        task_ids = group["task_id"].to_pylist()
        is_old = _old(group, self._policy.give_up)
        wanted = _Wanted.of(task_ids, artifacts, before)
        begun = (self._offered.find(wanted.digests.ravel()) >= 0).reshape(wanted.places.shape)
        given_up = before.given_up(wanted.places, is_old[:, np.newaxis]) & ~begun
        self._report.open_artifacts += before.open_others(task_ids, is_old, artifacts)
        # Nothing is looked for where everything is copied anew.
        left = np.argwhere(~begun & ~given_up if self._policy.overwrite else ~begun).tolist()
        if left and not self._policy.overwrite:
            self._copier.load_known((task_ids[row], artifacts[column]) for row, column in left)
        for row, column in left:
            task_id, artifact, place = task_ids[row], artifacts[column], int(wanted.places[row, column])
            if given_up[row, column]:
                self._begin(CopyRequest(task_id, artifact, _NOWHERE), is_old=True, is_look=True)
            else:
                request = self._request(task_id, artifact, links_of_row(group, row), place)
                self._begin(request, is_old=bool(is_old[row]))
        return wanted

    def _request(self, task_id: str, artifact: Artifact, look_up: LinkLookup, place: int) -> CopyRequest:
        link, is_better_asked = choose_link(look_up, artifact, self._policy.link_preference)
        ask = self._policy.unwatermarked
        better = (lambda: ask(task_id)) if is_better_asked and ask is not None else None
        return CopyRequest(task_id, artifact, link, self._before.known(place), better)

    def _begin(self, request: CopyRequest, *, is_old: bool, is_look: bool = False) -> None:
        while not self._done.empty():
            self._take(*self._done.get())
        future = self._copier.submit(request)
        self._under_way += 1
        begun, done = _Begun(is_old, is_look), self._done
        future.add_done_callback(lambda future: done.put((begun, future)))

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
        if not begun.is_look:
            self._results.append(_row(result))
        elif is_there:
            self._results.append({**_row(result), "source_url": None})

    # -- the manifest -----------------------------------------------------------------------------------------------

    def _rows(self, order: Sequence[_Wanted]) -> Iterator[pa.Table]:
        """The rows in the order of the generations, then those that are kept of others, in their order before."""
        to_check = _Sample(self._policy.most_checked)
        asked_about = np.zeros(len(self._before), dtype=bool)
        for wanted in order:
            places = wanted.places.ravel()
            asked_about[places[places >= 0]] = True
            table = self._rows_of(wanted.digests.ravel(), places)
            _count_asked(self._report, table)
            yield self._counted(table, to_check)
        kept = self._before.to_keep(asked_about)
        for start in range(0, len(kept), ROW_GROUP_ROWS):
            yield self._counted(self._before.rows.take(kept[start : start + ROW_GROUP_ROWS]), to_check)
        self._report.to_check = to_check.picked

    def _rows_of(self, digests: Digests, before: Places) -> pa.Table:
        """What this run brought for each, or the row it had for those that were given up."""
        places = self._results.find(digests)
        is_kept = places < 0
        if (before[is_kept] < 0).any():
            raise AssertionError("an artifact was neither copied nor given up")
        both = pa.concat_tables([self._results.take(places[~is_kept]), self._before.rows.take(before[is_kept])])
        back = np.empty(len(digests), dtype=np.int64)
        back[np.concatenate([np.flatnonzero(~is_kept), np.flatnonzero(is_kept)])] = np.arange(len(digests))
        return both.take(pa.array(back))

    def _counted(self, table: pa.Table, to_check: _Sample) -> pa.Table:
        ours = table.filter(_of_bucket(table, self._policy.bucket))
        self._report.bytes_stored += pc.sum(ours["size_bytes"]).as_py() or 0
        to_check.add(ours.filter(pc.is_in(ours["status"], value_set=_THERE)))
        return table


class _Before:
    """The manifest as an earlier run left it, with the judgements that a run makes of its rows."""

    def __init__(self, file: PartitionFile, policy: ManifestPolicy) -> None:
        self.rows = ManifestRows()
        self._policy = policy
        hopeless = [code.value for code in _HOPELESS if not (policy.overwrite and code is ErrorCode.KEY_TAKEN)]
        flags = [np.zeros((4, 0), dtype=bool)]
        for table in file.batches() if file.exists() else ():
            self.rows.extend(table)
            is_there = pc.is_in(table["status"], value_set=_THERE)
            is_ours = _of_bucket(table, policy.bucket)
            is_hopeless = pc.and_(pc.is_in(table["error_code"], value_set=pa.array(hopeless)), pc.is_null(table["key"]))
            is_other = pc.invert(pc.is_in(table["artifact"], value_set=_names(policy.artifacts)))
            flags.append(np.stack([_flags(column) for column in (is_there, is_ours, is_hopeless, is_other)]))
        self._is_there, self._is_ours, self._is_hopeless, self._is_other = np.concatenate(flags, axis=1)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, wanted: Digests) -> Places:
        """The place of each row, -1 where there is none."""
        return self.rows.find(wanted)

    def present(self, places: Places) -> _Flags:
        """Whether the rows at `places` say that the object is in the bucket."""
        return _at(self._is_there & self._is_ours, places)

    def given_up(self, places: Places, is_old: _Flags) -> _Flags:
        """Whether the rows at `places` are of copies that are not tried again. They have no object."""
        return _at(self._is_hopeless & self._is_ours, places) & is_old

    def known(self, place: int) -> KnownObject | None:
        """The object that a row says is in the bucket, also where the last copy of it failed."""
        if place < 0 or not self._is_ours[place]:
            return None
        row = self.rows.row(place, _KNOWN_COLUMNS)
        # An object in an archive can have no digest: it was found there, and cannot be read.
        return None if row["key"] is None or row["size_bytes"] is None else KnownObject(**row)

    def open_others(self, task_ids: Sequence[str], is_old: _Flags, artifacts: Sequence[Artifact]) -> int:
        """How many copies of artifacts other than these are still to be tried again."""
        if not self._is_other.any():
            return 0
        others = (artifact for artifact in Artifact if artifact not in artifacts)
        places = (self.find(digests_of(task_ids, artifact.value)) for artifact in others)
        return sum(int((_at(~self._is_there, of_artifact) & ~is_old).sum()) for of_artifact in places)

    def to_keep(self, asked_about: _Flags) -> Places:
        """Rows that stay as they are: of artifacts that were not asked about, and of objects whose task is gone."""
        return np.flatnonzero(~asked_about & (self._is_other | self._is_there))


class _Wanted(NamedTuple):
    """Some tasks' part of the manifest, a row for each task and a column for each artifact: what it is found by, and
    its place in the manifest before, or -1."""

    digests: Digests
    places: Places

    @classmethod
    def of(cls, task_ids: Sequence[str], artifacts: Sequence[Artifact], before: _Before) -> _Wanted:
        by_artifact = [digests_of(task_ids, artifact.value) for artifact in artifacts]
        digests = np.array(by_artifact, DIGEST_TYPE).reshape(len(artifacts), len(task_ids)).T
        return cls(digests, before.find(digests.ravel()).reshape(digests.shape))


class _Sample:
    """Keys and sizes of objects picked at random from tables as they pass, all of them if `most` is None."""

    def __init__(self, most: int | None) -> None:
        self.picked: list[tuple[str, int]] = []
        self._most = most
        self._seen = 0

    def add(self, table: pa.Table) -> None:
        """Let a table pass."""
        for row in range(len(table) if self._most != 0 else 0):
            self._seen += 1
            place = len(self.picked)
            if self._most is not None and place >= self._most:
                place = random.randrange(self._seen)  # noqa: S311  (no secret)
                if place >= self._most:
                    continue
            self.picked[place : place + 1] = [(table["key"][row].as_py(), table["size_bytes"][row].as_py())]


def artifacts_to_copy(
    generations: PartitionFile, manifest: PartitionFile, policy: ManifestPolicy, *, is_asked_again: bool = False
) -> int:
    """How many artifacts a run would copy, as far as the manifest knows what is in the bucket.

    `is_asked_again`: the run gets a new answer for every task, and with it links for what was given up.
    """
    before = _Before(manifest, policy)
    count = 0
    for group in _completed(generations):
        places = _Wanted.of(group["task_id"].to_pylist(), policy.artifacts, before).places
        is_left_alone = np.zeros(places.shape, dtype=bool)
        if not is_asked_again:
            is_left_alone |= before.given_up(places, _old(group, policy.give_up)[:, np.newaxis])
        if not policy.overwrite:
            is_left_alone |= before.present(places)
        count += int((~is_left_alone).sum())
    return count


_KNOWN_COLUMNS = ("key", "size_bytes", "sha256", "etag", "content_type", "copied_at")


def _at(flags: _Flags, places: Places) -> _Flags:
    """The flags at `places`, False for -1."""
    return np.append(flags, False)[places]


def _flags(column: pa.ChunkedArray | pa.Array) -> _Flags:
    flags: _Flags = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
    return flags


def _of_bucket(table: pa.Table, bucket: str | None) -> pa.ChunkedArray:
    return pc.is_valid(table["bucket"]) if bucket is None else pc.equal(table["bucket"], bucket)


def _names(artifacts: Iterable[Artifact]) -> pa.Array:
    return pa.array([artifact.value for artifact in artifacts], pa.string())


def _old(group: pa.Table, give_up: GiveUpPolicy) -> _Flags:
    if give_up.before is None:
        return np.zeros(len(group), dtype=bool)
    return _flags(pc.less(group["submitted_at"], pa.scalar(give_up.before, TIMESTAMP)))


def _completed(generations: PartitionFile, columns: Sequence[str] = ()) -> Iterator[pa.Table]:
    """The rows of completed tasks, a row group at a time."""
    if not generations.exists():
        return
    for table in generations.batches(("task_id", "submitted_at", "state", *columns)):
        completed = table.filter(pc.equal(table["state"], State.COMPLETED.value))
        if len(completed):
            yield completed.combine_chunks()


def _row(result: CopyResult) -> dict[str, Any]:
    row = {name: getattr(result, name) for name in VIDEOS_SCHEMA.names}
    row["artifact"], row["status"] = result.artifact.value, result.status.value
    return row


def _count_asked(report: VideosReport, table: pa.Table) -> None:
    for entry in pc.value_counts(table["status"]).to_pylist():
        report.statuses[entry["values"]] += entry["counts"]
    failures = table.filter(pc.invert(pc.is_in(table["status"], value_set=_THERE))).select(_FAILURE_COLUMNS)
    for row in failures.slice(0, _FIRST_FAILURES - len(report.first_failures)).to_pylist():
        report.first_failures.append({name: value or "" for name, value in row.items()})


def link_of_answer(generation: Mapping[str, Any], artifact: Artifact, preference: Sequence[LinkSource]) -> ChosenLink:
    """The link of one artifact in a provider's answer, and whether one is preferred that has to be asked for."""
    return choose_link(links_of_generation(generation), artifact, preference)


def artifacts_from(names: Sequence[str]) -> tuple[Artifact, ...]:
    """The artifacts named; raises ValueError for a name that is none."""
    try:
        return tuple(dict.fromkeys(Artifact(name) for name in names))
    except ValueError:
        there = ", ".join(artifact.value for artifact in Artifact)
        raise ValueError(f"artifacts must be some of {there}, not {', '.join(names)}") from None
