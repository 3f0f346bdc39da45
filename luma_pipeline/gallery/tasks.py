"""The gallery's room: a partition's tasks with their files, out of luma_generations and luma_videos.

Memory: of luma_videos some 300 bytes a row, of luma_generations one row group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import Forgotten, PartitionFile
from luma_pipeline.luma import Outcome, State
from luma_pipeline.media import Artifact, CopyStatus

__all__ = ["GalleryFile", "GalleryTask", "TaskStatus", "read_tasks"]

_TASK_COLUMNS = (
    "task_id",
    "submitted_at",
    "outcome",
    "error_code",
    "error_message",
    "state",
    "failure_reason",
    "request_prompt",
    "created_at",
    "video_width",
    "video_height",
    "video_raw_duration",
)
_FILE_COLUMNS = (
    "task_id",
    "artifact",
    "status",
    "bucket",
    "key",
    "size_bytes",
    "content_type",
    "sha256",
    "error_code",
    "error_message",
    "width",
    "height",
    "duration_seconds",
)
_IN_BUCKET = {CopyStatus.COPIED.value, CopyStatus.ALREADY_PRESENT.value}


class TaskStatus(StrEnum):
    """What a viewer wants to know of a task first."""

    READY = "ready"
    """A video is in the bucket."""
    MISSING = "missing"
    """The task is completed, and no video is in the bucket."""
    OPEN = "open"
    """The provider still works on it, or uses a word that is on no page."""
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The provider gave no answer that tells the state."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class GalleryFile:
    """One artifact of a task. `key` is None where nothing is in the bucket. Pixels, seconds, bytes."""

    artifact: Artifact
    status: str
    bucket: str
    key: str | None
    size_bytes: int | None
    content_type: str
    sha256: str | None
    error: str
    width: int | None
    height: int | None
    duration_seconds: float | None


@dataclass(frozen=True, slots=True)
class GalleryTask:
    """One task. `state` is the provider's word or the outcome; `error` says what went wrong, if something did."""

    task_id: str
    status: TaskStatus
    state: str
    prompt: str
    error: str
    created_at: datetime | None
    width: int | None
    height: int | None
    duration_seconds: float | None
    files: tuple[GalleryFile, ...]

    @property
    def video(self) -> GalleryFile | None:
        """The video to show: the one that the account sees, else the raw one."""
        return self._first(Artifact.VIDEO, Artifact.VIDEO_RAW)

    @property
    def picture(self) -> GalleryFile | None:
        """The picture that stands for the video."""
        return self._first(Artifact.THUMBNAIL, Artifact.LAST_FRAME)

    def _first(self, *artifacts: Artifact) -> GalleryFile | None:
        there = {file.artifact: file for file in self.files if file.key is not None}
        return next((there[artifact] for artifact in artifacts if artifact in there), None)


def read_tasks(
    generations: PartitionFile,
    videos: PartitionFile,
    forgotten: Forgotten = Forgotten(),  # noqa: B008 - frozen
) -> Iterator[GalleryTask]:
    """The tasks of a partition in the order of luma_generations, without those that are `forgotten`.

    Raises:
        StaleVersionError: Another run has replaced a file meanwhile: read again.
        UnreadableFileError: A file is damaged.
    """
    with videos.open() as reader:
        files = _Files(list(reader.batches(_FILE_COLUMNS)))
    with generations.open() as reader:
        for batch in reader.batches(_TASK_COLUMNS):
            shown = forgotten.without(batch)
            of_tasks = files.of(shown["task_id"])
            for row, found in zip(shown.to_pylist(), of_tasks, strict=True):
                yield _task(row, found)


class _Files:
    """The rows of luma_videos, to be found by task."""

    def __init__(self, tables: list[pa.Table]) -> None:
        self._of_artifact: dict[Artifact, pa.Table] = {}
        if not tables:
            return
        table = pa.concat_tables(tables, promote_options="default")
        for artifact in Artifact:
            rows = table.filter(pc.equal(table["artifact"], artifact.value))
            if len(rows):
                self._of_artifact[artifact] = rows

    def of(self, task_ids: pa.ChunkedArray) -> list[list[GalleryFile]]:
        """The files of each task, in the order of the artifacts."""
        found: list[list[GalleryFile]] = [[] for _ in range(len(task_ids))]
        for artifact, rows in self._of_artifact.items():
            places = pc.index_in(task_ids, value_set=rows["task_id"].combine_chunks())
            picked = rows.take(places.drop_null()).to_pylist()
            numbers = pc.indices_nonzero(places.is_valid()).to_pylist()
            for number, row in zip(numbers, picked, strict=True):
                found[number].append(_file(artifact, row))
        return found


def _file(artifact: Artifact, row: Mapping[str, Any]) -> GalleryFile:
    is_there = row["status"] in _IN_BUCKET
    return GalleryFile(
        artifact=artifact,
        status=row["status"],
        bucket=row["bucket"] or "",
        key=row["key"] or None,
        size_bytes=row["size_bytes"],
        content_type=row["content_type"] or "",
        sha256=row["sha256"],
        error="" if is_there else _sentence(row["error_code"], row["error_message"]) or row["status"],
        width=row.get("width"),
        height=row.get("height"),
        duration_seconds=row.get("duration_seconds"),
    )


def _task(row: Mapping[str, Any], files: list[GalleryFile]) -> GalleryTask:
    is_resolved = row["outcome"] == Outcome.RESOLVED.value
    state = (row["state"] or "") if is_resolved else row["outcome"]
    videos = [file for file in files if file.artifact in {Artifact.VIDEO, Artifact.VIDEO_RAW}]
    status = _status(is_resolved, state, videos)
    own = videos[0] if videos else None
    has_size = own is not None and own.width is not None and own.height is not None
    seconds = own.duration_seconds if own is not None else None
    return GalleryTask(
        task_id=row["task_id"],
        status=status,
        state=state or "unknown",
        prompt=row.get("request_prompt") or "",
        error=_error(row, status, files),
        created_at=row.get("created_at") or row["submitted_at"],
        width=own.width if own is not None and has_size else row.get("video_width"),
        height=own.height if own is not None and has_size else row.get("video_height"),
        duration_seconds=seconds if seconds is not None else row.get("video_raw_duration"),
        files=tuple(files),
    )


def _status(is_resolved: bool, state: str, videos: list[GalleryFile]) -> TaskStatus:
    if not is_resolved:
        return TaskStatus.UNKNOWN
    if state == State.FAILED.value:
        return TaskStatus.FAILED
    if state != State.COMPLETED.value:
        return TaskStatus.OPEN
    return TaskStatus.READY if any(video.key and not video.error for video in videos) else TaskStatus.MISSING


def _error(row: Mapping[str, Any], status: TaskStatus, files: list[GalleryFile]) -> str:
    if status is TaskStatus.FAILED:
        return row.get("failure_reason") or _sentence(row["error_code"], row["error_message"]) or "no reason given"
    if status is TaskStatus.UNKNOWN:
        return _sentence(row["error_code"], row["error_message"])
    return "; ".join(f"{file.artifact}: {file.error}" for file in files if file.error)


def _sentence(code: str | None, message: str | None) -> str:
    return message or (code or "").replace("_", " ")
