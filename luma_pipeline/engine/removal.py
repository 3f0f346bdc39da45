"""The engine: the rows of forgotten tasks, found in a partition's files and taken out of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import pyarrow as pa

from luma_pipeline.dataset import Dataset, Forgotten, PartitionFile, PartitionReader, StaleVersionError, Written
from luma_pipeline.engine.datasets import DATASETS, GENERATIONS, TASKS, VIDEOS
from luma_pipeline.engine.generations import DIGEST_COLUMNS as GENERATIONS_DIGEST
from luma_pipeline.engine.verdict import Judge, judge_generations, videos_verdict
from luma_pipeline.engine.video_answers import differing_of_file
from luma_pipeline.engine.videos import DIGEST_COLUMNS as VIDEOS_DIGEST
from luma_pipeline.luma import ProviderSpec

__all__ = ["remove_rows"]

_log = logging.getLogger(__name__)
_MOST_TRIES = 8

T = TypeVar("T")


def remove_rows(
    dataset: Dataset,
    folder: str,
    forgotten: Forgotten,
    spec: ProviderSpec,
    judge: Judge | None,
    names: Sequence[str] = DATASETS,
) -> Mapping[str, Written]:
    """Take the rows of forgotten tasks out of the files of one partition; what was written, by the dataset's name.

    `names` are the datasets. A file that has none of the rows is left as it is. The others keep their columns, their
    metadata and their row groups. `judge` puts the verdict on the rest first; None: the partition has none. So a kill
    leaves no file without its verdict, and whoever comes back finds the rows that are left.

    Raises DatasetError.
    """
    return _Removal(dataset, folder, forgotten, spec, judge).do(names)


class _Removal:
    def __init__(
        self, dataset: Dataset, folder: str, forgotten: Forgotten, spec: ProviderSpec, judge: Judge | None
    ) -> None:
        self._files = {name: dataset.partition(name, folder) for name in DATASETS}
        self._forgotten = forgotten
        self._spec = spec
        self._judge = judge

    def do(self, names: Sequence[str]) -> Mapping[str, Written]:
        steps = {TASKS: self._tasks, GENERATIONS: self._generations, VIDEOS: self._videos}
        written = {}
        for name in names:
            found = self._tried(self._files[name], steps[name])
            if found is not None:
                written[name] = found
        return written

    def _tried(self, file: PartitionFile, step: Callable[[PartitionFile, PartitionReader], Written]) -> Written | None:
        """Do a step if the file has forgotten rows; once more if another run replaces it meanwhile."""
        for attempt in range(1, _MOST_TRIES + 1):
            try:
                with file.open() as reader:
                    if not any(self._forgotten.among(ids["task_id"]).any() for ids in reader.batches(["task_id"])):
                        return None
                    written = step(file, reader)
            except StaleVersionError as error:
                self._take_back()
                if attempt == _MOST_TRIES:
                    raise
                _log.info("%s; it is read again", error)
            except BaseException:
                self._take_back()
                raise
            else:
                if self._judge is not None:
                    self._judge.settle()
                return written
        raise AssertionError("unreachable")

    def _take_back(self) -> None:
        if self._judge is not None:
            self._judge.take_back()

    def _tasks(self, file: PartitionFile, reader: PartitionReader) -> Written:
        # In one piece, as a run writes it: then the digest is the one that a run compares with.
        return file.rewrite(reader, [self._forgotten.without(reader.read())], reader.schema.names)

    def _generations(self, file: PartitionFile, reader: PartitionReader) -> Written:
        if self._judge is not None:
            before = self._judge.stored.generations
            has_drift = before is None or before.drifted > 0
            rest = judge_generations(file, self._files[TASKS], self._spec, self._forgotten, counts_drift=has_drift)
            self._judge.put(generations=rest)
        return file.rewrite(reader, self._kept(reader.batches()), GENERATIONS_DIGEST)

    def _videos(self, file: PartitionFile, reader: PartitionReader) -> Written:
        if self._judge is not None:
            before = self._judge.stored.videos
            statuses: Counter[str] = Counter()
            for table in self._kept(reader.batches(["task_id", "status"])):
                statuses.update(table["status"].to_pylist())
            differing = 0
            if before is None or before.differing:
                found = differing_of_file(file, self._files[GENERATIONS], self._spec)
                differing = sum(len(table) for table in self._kept(found))
            rest = videos_verdict(statuses, differing)
            # Whose objects are lost is not known: they are looked at when the partition is run again.
            self._judge.put(videos=rest if before is None else replace(rest, lost=min(before.lost, rest.in_bucket)))
        return file.rewrite(reader, self._kept(reader.batches()), VIDEOS_DIGEST)

    def _kept(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            kept = self._forgotten.without(table)
            if len(kept):
                yield kept
            del table  # not held while the next is made
