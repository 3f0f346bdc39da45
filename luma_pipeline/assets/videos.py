"""luma_videos: the artifacts of a partition's finished tasks, copied and listed in a manifest."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.assets.run_config import GiveUp
from luma_pipeline.luma import Outcome, State
from luma_pipeline.luma.schema import TIMESTAMP
from luma_pipeline.media import (
    Artifact,
    CopyRequest,
    CopyResult,
    CopyStatus,
    KnownObject,
    LinkSource,
    MediaCopier,
    preferred_link,
)
from luma_pipeline.resources.dataset import PartitionFile, Written

__all__ = ["VIDEOS_SCHEMA", "ManifestPolicy", "PartitionVideos", "VideosReport"]

VIDEOS_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("artifact", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("source_url", pa.string()),
        pa.field("bucket", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("content_type", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("copied_at", TIMESTAMP),
        pa.field("error_code", pa.string()),
        pa.field("error_message", pa.string()),
    ]
)
"""One row per task and artifact."""

_THERE = frozenset({CopyStatus.COPIED.value, CopyStatus.ALREADY_PRESENT.value})
_DIGEST_COLUMNS = ("task_id", "artifact", "key", "sha256", "error_code")
_FIRST_FAILURES = 20


@dataclass(frozen=True)
class ManifestPolicy:
    """Which artifacts are copied, over which of their links, and until when failures are tried again.

    `unwatermarked` asks the provider for a task's link without watermark. `most_checked` is how many of a partition's
    objects the report names to be looked up by a check; None: all of them.
    """

    artifacts: tuple[Artifact, ...]
    link_preference: tuple[LinkSource, ...]
    give_up: GiveUp
    unwatermarked: Callable[[str], str | None] | None = None
    most_checked: int | None = 0


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
    first_failures: list[dict[str, Any]] = field(default_factory=list)
    to_check: list[tuple[str, int]] = field(default_factory=list, repr=False)
    """Keys and sizes in bytes, by the manifest, of objects picked at random."""
    written: Written | None = None
    copy_seconds: list[float] = field(default_factory=list, repr=False)

    def copy_quantile(self, quantile: float) -> float | None:
        """A quantile (0..1) of the seconds that copying one artifact took; None without copies."""
        return float(np.quantile(self.copy_seconds, quantile)) if self.copy_seconds else None


class Links(NamedTuple):
    """Where the artifacts of one generation can be fetched. The links may be signed."""

    video: Mapping[LinkSource, str | None]
    others: Mapping[Artifact, str | None]


class PartitionVideos:
    """The copies of one partition: begun as answers come, finished and written when all answers are there.

    `offer_answer` may be called from another thread than `finish`.
    """

    def __init__(self, copier: MediaCopier, file: PartitionFile, policy: ManifestPolicy) -> None:
        self._copier = copier
        self._file = file
        self._policy = policy
        self._started = time.monotonic()
        self._before = _manifest_rows(file)
        self._futures: dict[tuple[str, Artifact], Future[CopyResult]] = {}
        self._lock = threading.Lock()

    def offer_answer(self, outcome: Outcome, _submitted_at: datetime) -> None:
        """Begin to copy what a new answer brings, while the others are still being asked for."""
        if outcome.state == State.COMPLETED and outcome.generation is not None:
            for artifact in self._policy.artifacts:
                self._submit(outcome.task_id, artifact, _links_of_answer(outcome.generation))

    def finish(self, generations: PartitionFile) -> VideosReport:
        """Copy what is not begun yet, wait for all of it, and replace the manifest.

        Raises:
            BucketError: The bucket cannot be used any more.
        """
        wanted: dict[tuple[str, Artifact], dict[str, Any] | None] = {}
        waiting: list[tuple[str, Artifact, Links]] = []
        given_up_tasks: set[str] = set()
        for row in _completed_rows(generations):
            is_old = self._policy.give_up.on(row["submitted_at"])
            if is_old:
                given_up_tasks.add(row["task_id"])
            for artifact in self._policy.artifacts:
                identity = (row["task_id"], artifact)
                before = self._before.get((row["task_id"], artifact.value))
                given_up = before is not None and before["status"] not in _THERE and is_old
                wanted[identity] = before if given_up else None
                if identity not in self._futures and not given_up:
                    waiting.append((*identity, _links_of_row(row)))
        if waiting:
            self._copier.load_known((task_id, artifact) for task_id, artifact, _ in waiting)
            for task_id, artifact, links in waiting:
                self._submit(task_id, artifact, links)
        report = VideosReport()
        rows: list[dict[str, Any]] = []
        for identity, kept in wanted.items():
            if kept is not None:
                rows.append(kept)
                report.statuses[kept["status"]] += 1
                continue
            result = self._futures[identity].result()
            rows.append(_row(result))
            _count(report, result)
            report.open_artifacts += result.status.value not in _THERE and result.task_id not in given_up_tasks
        rows += self._no_longer_wanted(wanted)
        report.rows = len(rows)
        there = [(row["key"], row["size_bytes"]) for row in rows if row["status"] in _THERE]
        most = self._policy.most_checked
        report.to_check = there if most is None or len(there) <= most else random.sample(there, most)
        table = pa.Table.from_pylist(rows, VIDEOS_SCHEMA)
        report.bytes_stored = pc.sum(table["size_bytes"]).as_py() or 0
        report.written = self._file.replace(VIDEOS_SCHEMA, [table], _DIGEST_COLUMNS)
        report.seconds = time.monotonic() - self._started
        return report

    def _submit(self, task_id: str, artifact: Artifact, links: Links) -> None:
        identity = (task_id, artifact)
        link, is_better_asked = _chosen(links, artifact, self._policy.link_preference)
        ask = self._policy.unwatermarked
        better = (lambda: ask(task_id)) if is_better_asked and ask is not None else None
        known = _known(self._before.get((task_id, artifact.value)))
        with self._lock:
            if identity not in self._futures:
                self._futures[identity] = self._copier.submit(CopyRequest(task_id, artifact, link, known, better))

    def _no_longer_wanted(self, wanted: Mapping[tuple[str, Artifact], object]) -> Iterable[dict[str, Any]]:
        """Rows of objects that are in the bucket and that this run did not ask about: another choice of artifacts."""
        for (task_id, artifact), row in self._before.items():
            if (task_id, Artifact(artifact)) not in wanted and row["status"] in _THERE:
                yield row


def artifacts_to_copy(generations: PartitionFile, manifest: PartitionFile, policy: ManifestPolicy) -> int:
    """How many artifacts the manifest does not have yet."""
    before = _manifest_rows(manifest)
    return sum(
        1
        for row in _completed_rows(generations)
        for artifact in policy.artifacts
        if before.get((row["task_id"], artifact.value), {}).get("status") not in _THERE
    )


def _manifest_rows(file: PartitionFile) -> dict[tuple[str, str], dict[str, Any]]:
    if not file.exists():
        return {}
    return {(row["task_id"], row["artifact"]): row for table in file.batches() for row in table.to_pylist()}


_LINK_COLUMNS = (
    "task_id",
    "submitted_at",
    "state",
    "video_url",
    "video_download_url",
    "video_raw_url",
    "thumbnail_url",
    "last_frame_url",
)


def _completed_rows(generations: PartitionFile) -> Iterable[dict[str, Any]]:
    if not generations.exists():
        return
    for table in generations.batches(_LINK_COLUMNS):
        yield from table.filter(pc.equal(table["state"], State.COMPLETED.value)).to_pylist()


def _links_of_row(row: Mapping[str, Any]) -> Links:
    return Links(
        {LinkSource.DOWNLOAD_URL: row["video_download_url"], LinkSource.URL: row["video_url"]},
        {
            Artifact.VIDEO_RAW: row["video_raw_url"],
            Artifact.THUMBNAIL: row["thumbnail_url"],
            Artifact.LAST_FRAME: row["last_frame_url"],
        },
    )


def _links_of_answer(generation: Mapping[str, Any]) -> Links:
    def link(name: str, key: str = "url") -> str | None:
        holder = generation.get(name)
        value = holder.get(key) if isinstance(holder, Mapping) else None
        return value if isinstance(value, str) else None

    return Links(
        {LinkSource.DOWNLOAD_URL: link("video", "download_url"), LinkSource.URL: link("video")},
        {artifact: link(artifact.value) for artifact in Artifact if artifact is not Artifact.VIDEO},
    )


def link_of_answer(generation: Mapping[str, Any], artifact: Artifact, preference: Sequence[LinkSource]) -> str | None:
    """The link of one artifact in a provider's answer."""
    return _preferred(_links_of_answer(generation), artifact, preference)


def _chosen(links: Links, artifact: Artifact, preference: Sequence[LinkSource]) -> tuple[str | None, bool]:
    """The link in the answer, and whether the provider is to be asked for one that is preferred to it."""
    if artifact is not Artifact.VIDEO or LinkSource.UNWATERMARKED not in preference:
        return _preferred(links, artifact, preference), False
    place = list(preference).index(LinkSource.UNWATERMARKED)
    before = preferred_link(dict(links.video), preference[:place])
    return (before, False) if before else (preferred_link(dict(links.video), preference[place:]), True)


def _preferred(links: Links, artifact: Artifact, preference: Sequence[LinkSource]) -> str | None:
    if artifact is Artifact.VIDEO:
        return preferred_link(dict(links.video), preference)
    return links.others.get(artifact)


def _known(row: Mapping[str, Any] | None) -> KnownObject | None:
    if row is None or row["status"] not in _THERE:
        return None
    return KnownObject(row["key"], row["size_bytes"], row["sha256"], row["etag"], row["content_type"], row["copied_at"])


def _row(result: CopyResult) -> dict[str, Any]:
    row = {name: getattr(result, name) for name in VIDEOS_SCHEMA.names}
    row["artifact"], row["status"] = result.artifact.value, result.status.value
    return row


def _count(report: VideosReport, result: CopyResult) -> None:
    report.statuses[result.status.value] += 1
    report.bytes_downloaded += result.bytes_downloaded
    report.attempts += result.attempts
    if result.status is CopyStatus.COPIED:
        report.copy_seconds.append(result.seconds)
    if result.status.value not in _THERE and len(report.first_failures) < _FIRST_FAILURES:
        report.first_failures.append(
            {
                "task_id": result.task_id,
                "artifact": result.artifact.value,
                "status": result.status.value,
                "error_code": result.error_code or "",
                "error_message": result.error_message or "",
            }
        )


def artifacts_from(names: Sequence[str]) -> tuple[Artifact, ...]:
    """The artifacts named; raises ValueError for a name that is none."""
    try:
        return tuple(dict.fromkeys(Artifact(name) for name in names))
    except ValueError:
        there = ", ".join(artifact.value for artifact in Artifact)
        raise ValueError(f"artifacts must be some of {there}, not {', '.join(names)}") from None
