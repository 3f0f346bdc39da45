"""The engine: whether videos are what the provider's answers say of them, by size and duration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import PartitionFile, StaleVersionError
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
from luma_pipeline.engine.earlier_videos import is_in_bucket
from luma_pipeline.luma import ProviderSpec
from luma_pipeline.luma.links import ArtifactLinks
from luma_pipeline.media import Artifact
from luma_pipeline.media.artifacts import MediaKind

__all__ = ["Said", "VideoAnswers", "answer_columns", "differing_of_file", "differing_rows", "said_of", "shown"]

Said = npt.NDArray[np.float32]
"""What answers say: width, height and seconds in the last axis, NaN for what they do not say."""

_WIDTH, _HEIGHT, _DURATION = "width", "height", "duration"
_LEAST_TOLERANCE_SECONDS = 0.5
_TOLERANCE = 0.05
_COMPARED = ("task_id", "artifact", "status", "width", "height", "duration_seconds")


def answer_columns(artifacts: Sequence[Artifact], spec: ProviderSpec) -> list[str]:
    """The columns of luma_generations that say how large and how long these artifacts are."""
    found = (name for artifact in artifacts for names in _columns(artifact, spec).values() for name in names)
    return list(dict.fromkeys(found))


def said_of(generations: pa.Table, artifacts: Sequence[Artifact], spec: ProviderSpec) -> Said:
    """What rows of luma_generations with `answer_columns` say, in the shape (rows, artifacts, 3).

    A size counts where the answer gives it for the video. `request.aspect_ratio` is what was asked for: a video that
    is made from a picture has the picture's shape.
    """
    said = np.full((len(generations), len(artifacts), 3), np.nan, dtype=np.float32)
    for number, artifact in enumerate(artifacts):
        for what, names in enumerate(_columns(artifact, spec).values()):
            if names:
                value = pc.coalesce(*(generations[name].cast(pa.float64()) for name in names))
                said[:, number, what] = _numbers(value)
    said[~(said > 0)] = np.nan
    return said


def differing_rows(rows: pa.Table, said: Said) -> pa.Table:
    """The rows of a manifest whose file is in the bucket and is not what its answer says, with a column `said`.

    `said` has the shape (rows, 3). Width and height differ by any pixel; the duration by more than half a second, and
    more than a twentieth. What the file or the answer does not say differs from nothing.
    """
    found = np.stack([_numbers(rows[name]) for name in _COMPARED[3:]], axis=1)
    tolerance = np.zeros_like(said, dtype=np.float64)
    tolerance[:, 2] = np.maximum(_LEAST_TOLERANCE_SECONDS, _TOLERANCE * said[:, 2])
    is_other = (np.abs(found - said) > tolerance).any(axis=1)
    is_there = is_in_bucket(rows["status"]).to_numpy()
    numbers = np.flatnonzero(is_other & is_there)
    texts = pa.array([_text(*said[number].tolist()) for number in numbers], pa.string())
    return rows.select(_COMPARED).take(pa.array(numbers)).append_column("said", texts)


class VideoAnswers:
    """What the answers of a partition say, found by task and artifact. About 100 bytes a task."""

    def __init__(self, tables: Iterable[pa.Table], spec: ProviderSpec) -> None:
        self._artifacts = [artifact for artifact in Artifact if artifact.kind is MediaKind.VIDEO]
        ids, said = [pa.array([], pa.string())], [np.empty((0, len(self._artifacts), 3), dtype=np.float32)]
        for table in tables:
            ids += table["task_id"].chunks
            said.append(said_of(table, self._artifacts, spec))
        self._ids = pa.concat_arrays(ids)
        # Nothing is said of the last task and the last artifact: -1 is the number of what is not there.
        self._said = np.pad(np.concatenate(said), ((0, 1), (0, 1), (0, 0)), constant_values=np.nan)

    @classmethod
    def read(cls, generations: PartitionFile, spec: ProviderSpec) -> VideoAnswers:
        """Those of a file of luma_generations. Raises DatasetError."""
        videos = [artifact for artifact in Artifact if artifact.kind is MediaKind.VIDEO]
        while True:
            try:
                with generations.open() as reader:
                    return cls(reader.batches(["task_id", *answer_columns(videos, spec)], spec.schema), spec)
            except StaleVersionError:
                continue  # another run has replaced the file

    def of(self, rows: pa.Table) -> Said:
        """What they say of rows of a manifest, in the shape (rows, 3)."""
        names = pa.array([artifact.value for artifact in self._artifacts], pa.string())
        return self._said[_index(rows["task_id"], self._ids), _index(rows["artifact"], names)]


def differing_of_file(manifest: PartitionFile, generations: PartitionFile, spec: ProviderSpec) -> Iterator[pa.Table]:
    """The `differing_rows` of a manifest as it is, a row group at a time. Raises DatasetError."""
    answers = VideoAnswers.read(generations, spec)
    with manifest.open() as reader:
        for rows in reader.batches(_COMPARED, VIDEOS_SCHEMA):
            yield differing_rows(rows, answers.of(rows))


def shown(row: Mapping[str, Any]) -> dict[str, str]:
    """A differing row as a person reads it: task, artifact, what the answer says, and what the file says."""
    file = _text(*(float("nan") if row[name] is None else row[name] for name in _COMPARED[3:]))
    return {"task_id": row["task_id"], "artifact": row["artifact"], "answer": row["said"], "file": file}


def _columns(artifact: Artifact, spec: ProviderSpec) -> dict[str, list[str]]:
    """The columns that say width, height and duration of an artifact: those of the objects that hold its links.

    The raw video lasts as long as the video, and answers tell the duration of the raw one alone.
    """
    if artifact.kind is not MediaKind.VIDEO:
        return {_WIDTH: [], _HEIGHT: [], _DURATION: []}
    numbers = {
        field.path for field in spec.fields if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    }
    nowhere = ArtifactLinks(())
    own, raw = (spec.artifacts.get(each.value, nowhere).holders for each in (artifact, Artifact.VIDEO_RAW))
    return {
        what: list(dict.fromkeys("_".join((*holder, what)) for holder in holders if (*holder, what) in numbers))
        for what, holders in ((_WIDTH, own), (_HEIGHT, own), (_DURATION, (*own, *raw)))
    }


def _numbers(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float64]:
    """A column of numbers, NaN for null."""
    found: npt.NDArray[np.float64] = pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy()
    return found


def _index(column: pa.ChunkedArray, among: pa.Array) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = pc.fill_null(pc.index_in(column, value_set=among), -1).to_numpy()
    return found


def _text(width: float, height: float, seconds: float) -> str:
    """A size and a duration in words.

    >>> _text(1360, 752, 5.041667), _text(float("nan"), float("nan"), 2.0)
    ('1360x752, 5.04 s', '2 s')
    """
    sides = "x".join("?" if np.isnan(side) else f"{side:.0f}" for side in (width, height))
    parts = [sides if sides != "?x?" else "", "" if np.isnan(seconds) else f"{round(seconds, 2):g} s"]
    return ", ".join(part for part in parts if part)
