"""The forget room: where the datasets have rows of forgotten tasks, and under which keys their objects lie."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from luma_pipeline.dataset import (
    Dataset,
    DatasetError,
    Forgotten,
    PartitionFile,
    Shard,
    StaleVersionError,
    UnreadableFileError,
)
from luma_pipeline.engine.datasets import DATASETS, GENERATIONS, VIDEOS
from luma_pipeline.engine.threads import for_each
from luma_pipeline.media import Artifact
from luma_pipeline.media.keys import KeyTemplate, safe_segment, template_of

__all__ = ["CHECKPOINTS", "REPORTS", "Survey", "Surveyor", "is_named", "mentions"]

REPORTS = "luma_audit"
"""A dataset of reports that name tasks; there may be none."""
CHECKPOINTS = "checkpoints"

_AT_ONCE = 8
_MOST_TRIES = 8
_OLDEST = datetime(1970, 1, 1, tzinfo=UTC)
_MANIFEST_COLUMNS = ("task_id", "artifact", "bucket", "key")
_ARTIFACTS = {artifact.value: artifact for artifact in Artifact}


@dataclass
class Survey:
    """What the datasets have of forgotten tasks.

    rows: For each task how many rows each dataset has.
    keys: For each task the buckets and keys that the manifest names.
    templates: For each bucket the templates of keys, with their prefixes, that the manifest shows to have been in use.
    folders: The partitions that have rows, with the tasks that the rows are of.
    reports: The partitions of the reports that have rows.
    shards: The checkpoints that have rows, by their partition's folder.
    problems: What could not be read, and why.
    """

    rows: dict[str, Counter[str]] = field(default_factory=dict)
    keys: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    templates: dict[str, set[str]] = field(default_factory=dict)
    folders: dict[str, set[str]] = field(default_factory=dict)
    reports: set[str] = field(default_factory=set)
    shards: dict[str, list[Shard]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


class Surveyor:
    """Reads the columns of IDs and keys of all files, and at the second look those of the files that have changed."""

    def __init__(self, dataset: Dataset, template: KeyTemplate, stopping: threading.Event) -> None:
        self._dataset = dataset
        self._template = template
        self._stopping = stopping
        self._lock = threading.Lock()
        self._versions: dict[tuple[str, str], str] = {}
        self._shapes: set[tuple[str, str, str, str]] = set()
        self._templates: dict[str, set[str]] = {}
        self._keys: dict[str, set[tuple[str, str]]] = {}

    def look(self, forgotten: Forgotten) -> Survey:
        """What there is now. Raises DatasetError where the datasets cannot be listed."""
        survey = Survey(keys=self._keys, templates=self._templates)
        work: list[tuple[str, str]] = [
            (name, folder) for name in (*DATASETS, REPORTS) for folder in sorted(self._dataset.folders(name))
        ]
        self._for_each(partial(self._look_at_file, survey, forgotten), work)
        self._for_each(
            partial(self._look_at_shards, survey, forgotten), sorted(self._dataset.checkpointed(GENERATIONS))
        )
        return survey

    def _for_each(self, work: Callable[..., None], items: Sequence[Any]) -> None:
        for_each(work, items, at_once=_AT_ONCE, stopping=self._stopping, name="luma-forget")

    def _look_at_file(self, survey: Survey, forgotten: Forgotten, place: tuple[str, str]) -> None:
        name, folder = place
        file = self._dataset.partition(name, folder)
        for _ in range(_MOST_TRIES):
            try:
                return self._read_file(survey, forgotten, place, file)
            except StaleVersionError:
                continue
            except DatasetError as error:
                with self._lock:
                    survey.problems[file.path] = str(error)
                return None
        return None

    def _read_file(self, survey: Survey, forgotten: Forgotten, place: tuple[str, str], file: PartitionFile) -> None:
        name, folder = place
        if name == REPORTS:
            self._read_report(survey, forgotten, folder, file)
            return
        if place in self._versions and file.version() == self._versions[place]:
            return
        found = []
        with file.open() as reader:
            for table in reader.batches(_MANIFEST_COLUMNS if name == VIDEOS else ("task_id",)):
                if "task_id" not in table.schema.names:
                    raise UnreadableFileError(f"{file.path} has no column task_id")
                found.append(forgotten.only(table))
                if name == VIDEOS:
                    self._learn(table)
        rows = Counter(task_id for table in found for task_id in table["task_id"].to_pylist())
        with self._lock:
            self._versions[place] = reader.version
            if rows:
                survey.folders.setdefault(folder, set()).update(rows)
            for task_id, count in rows.items():
                survey.rows.setdefault(task_id, Counter())[name] += count
            for table in found if name == VIDEOS else ():
                for task_id, _, bucket, key in _manifest_rows(table):
                    survey.keys.setdefault(task_id, set()).add((bucket, key))

    def _read_report(self, survey: Survey, forgotten: Forgotten, folder: str, file: PartitionFile) -> None:
        with file.open() as reader:
            tables = [table.filter(pa.array(mentions(table, forgotten, self._template))) for table in reader.batches()]
        with self._lock:
            for table in tables:
                if len(table):
                    survey.reports.add(folder)
                for task_id in forgotten.only(table)["task_id"].to_pylist():
                    survey.rows.setdefault(task_id, Counter())[REPORTS] += 1

    def _learn(self, table: pa.Table) -> None:
        """Take in the templates that keys of the manifest, of any task, were made by."""
        for task_id, artifact, bucket, key in _manifest_rows(table):
            before, found, after = key.rpartition(task_id)
            if not found:
                before, found, after = key.rpartition(safe_segment(task_id))
            if not found or artifact not in _ARTIFACTS:
                continue
            # Few shapes: what is around the ID is the same for most keys.
            shape = (bucket, artifact, before, after)
            if shape in self._shapes:
                continue
            template = template_of(key, task_id, _ARTIFACTS[artifact])
            with self._lock:
                self._shapes.add(shape)
                if template is not None:
                    self._templates.setdefault(bucket, set()).add(template)

    def _look_at_shards(self, survey: Survey, forgotten: Forgotten, folder: str) -> None:
        checkpoints = self._dataset.checkpoints(GENERATIONS, folder)
        for shard in checkpoints.shards(_OLDEST):
            try:
                ids = forgotten.only(checkpoints.load(shard.path, ["task_id"]))["task_id"].to_pylist()
            except StaleVersionError:
                continue
            except UnreadableFileError:
                # A crash of a machine has cut it: no run can read it, and it may hold anything.
                ids = []
            else:
                if not ids:
                    continue
            with self._lock:
                survey.shards.setdefault(folder, []).append(shard)
                for task_id in ids:
                    survey.rows.setdefault(task_id, Counter())[CHECKPOINTS] += 1


def _manifest_rows(table: pa.Table) -> Iterator[tuple[str, str, str, str]]:
    """Task, artifact, bucket and key of the rows that name a key."""
    columns = (table[name].to_pylist() for name in _MANIFEST_COLUMNS)
    return (row for row in zip(*columns, strict=True) if row[3])


def mentions(table: pa.Table, forgotten: Forgotten, template: KeyTemplate) -> npt.NDArray[np.bool_]:
    """For each row of a report whether it is of a forgotten task, or names one or its key in any text."""
    is_gone = forgotten.among(table["task_id"])
    for name in table.schema.names:
        if pa.types.is_string(table.schema.field(name).type):
            texts = table[name].to_pylist()
            is_gone |= np.fromiter(
                (is_named(text, forgotten, template) for text in texts), dtype=bool, count=len(texts)
            )
    return is_gone


def is_named(text: str | None, forgotten: Forgotten, template: KeyTemplate) -> bool:
    """Whether a text names a forgotten task, by its ID or by a key of its objects."""
    words = [word.strip("'\"(),;:") for word in (text or "").split()]
    segments = [template.segment_of(word) or word for word in words]
    ids = [segment for segment in segments if "~" not in segment]
    hashed = [segment.rpartition("~")[2] for segment in segments if "~" in segment]
    return bool(forgotten.among(pa.array(ids, pa.string())).any()) or any(map(forgotten.has_hex, hashed))
