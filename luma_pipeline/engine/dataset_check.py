"""The engine: what is wrong in the whole dataset now, by the verdicts on its partitions and by a look at the store.

It asks nothing of the provider and of the source table. The caller's thread only waits, as in a run.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice

import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import (
    AuditSummary,
    Dataset,
    DatasetError,
    Forgotten,
    GenerationsVerdict,
    PartitionFile,
    Verdict,
    VideosVerdict,
)
from luma_pipeline.engine.earlier_videos import is_in_bucket, is_of_bucket
from luma_pipeline.engine.partition import GENERATIONS, TASKS, VIDEOS, key_of_mark, mark_of
from luma_pipeline.engine.report import TASK_ID_MISMATCH
from luma_pipeline.engine.resources import OpenResources
from luma_pipeline.engine.threads import finish, for_each, start
from luma_pipeline.engine.verdict import Judge, judge_generations, judge_videos
from luma_pipeline.engine.video_answers import differing_of_file, shown
from luma_pipeline.luma import GATEWAY, Drift, ProviderSpec
from luma_pipeline.luma.stored_answers import drift_in
from luma_pipeline.media import BucketError, MediaCopier, TransferConfig

__all__ = ["CheckPlan", "DatasetState", "LostObject", "StoreLook", "check_dataset", "listed_objects"]

_AT_ONCE = 8
_LOOK_UP_KEYS = 1000
"""Objects that are looked up together: the bound of the memory."""
_MOST_LOST = 20
_MOST_PARTITIONS = 3
_MOST_ROW_GROUPS = 3
_MOST_EXAMPLES = 10
_EXAMPLE_COLUMNS = ("task_id", "outcome", "error_code", "raw_response", "polled_at")
_COLUMNS = ("task_id", "status", "bucket", "key", "size_bytes")


@dataclass(frozen=True)
class CheckPlan:
    """What is checked.

    keys: The partitions of the dataset. Verdicts on others are left out.
    folder_of: The folder of a partition.
    looked_at: The partitions whose objects may be looked up in the store.
    objects: How many of their objects are looked up, picked at random; None: all.
    judges_missing: Whether partitions without a verdict are read and judged.
    is_read_only: Whether nothing is written: no verdict changes.
    spec: How the provider's answers are read.
    """

    keys: Sequence[str]
    folder_of: Callable[[str], str]
    looked_at: Sequence[str] = ()
    objects: int | None = 0
    judges_missing: bool = False
    is_read_only: bool = False
    spec: ProviderSpec = GATEWAY


@dataclass(frozen=True)
class LostObject:
    """An object that the manifest of a partition has, and the bucket has not, or has in another size (bytes)."""

    partition: str
    key: str
    size_bytes: int
    found_bytes: int | None


@dataclass
class StoreLook:
    """What a look at the store has found. `lost` are the first 20; `problem` says why the look was broken off."""

    looked_up: int = 0
    lost: list[LostObject] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class DatasetState:
    """The verdicts by partition key, in the order of the plan's keys.

    `not_judged` are the partitions of luma_generations and of luma_videos that have been written and have no verdict.
    `left_out` are verdicts on partitions that the plan does not have; `unknown` are names that are no verdicts.
    `drift`, `mismatched_tasks` and `differing_videos` are examples from the newest partitions that have any.
    `audit` is what the last audit found.
    """

    verdicts: Mapping[str, Verdict]
    not_judged: Mapping[str, Sequence[str]]
    left_out: int
    unknown: Sequence[str]
    store: StoreLook
    drift: Sequence[Drift] = ()
    mismatched_tasks: Sequence[str] = ()
    differing_videos: Sequence[Mapping[str, str]] = ()
    audit: AuditSummary | None = None


def check_dataset(url: str, videos: TransferConfig, plan: CheckPlan) -> DatasetState:
    """Read all verdicts under `url`, look at objects in the store, and keep the verdict on partitions that lost some.

    Costs one listing for the verdicts, a request for each object that is looked up, and the manifests of their
    partitions. Memory does not grow with the objects.

    Raises:
        DatasetError: The verdicts cannot be read or written.
    """
    opened = OpenResources()
    future = start(lambda: _Check(opened, url, videos, plan).do(), "luma-check")
    opened.keep_thread(future)
    try:
        state = future.result()
        opened.close()
    except BaseException:
        finish(opened.stop, "luma-stop")
        raise
    return state


class _Check:
    def __init__(self, opened: OpenResources, url: str, videos: TransferConfig, plan: CheckPlan) -> None:
        self._opened = opened
        self._dataset = opened.keep_dataset(Dataset(url=url))
        self._stored = self._dataset.verdicts()
        self._videos = videos
        self._plan = plan
        self._look = StoreLook()

    def do(self) -> DatasetState:
        listed = self._stored.listed()
        by_key = {key_of_mark(mark): verdict for mark, verdict in listed.by_mark.items()}
        verdicts = {key: by_key[key] for key in self._plan.keys if key in by_key}
        not_judged: dict[str, list[str]] = {GENERATIONS: [], VIDEOS: []}
        if not listed.is_complete:
            not_judged = self._find_not_judged(verdicts)
            if self._plan.judges_missing and not self._plan.is_read_only:
                self._judge(not_judged, verdicts)
                not_judged = {GENERATIONS: [], VIDEOS: []}
            if not any(not_judged.values()) and not self._plan.is_read_only:
                self._stored.set_complete()
        try:
            self._look_at_store(verdicts)
        except (BucketError, DatasetError) as error:
            self._look.problem = str(error)
        ordered = {key: verdicts[key] for key in self._plan.keys if key in verdicts}
        left_out = len(by_key.keys() - set(self._plan.keys))
        return DatasetState(
            ordered,
            not_judged,
            left_out,
            listed.unknown,
            self._look,
            self._drift(ordered),
            self._mismatched_tasks(ordered),
            self._differing_videos(ordered),
            self._dataset.audits().last(),
        )

    # -- examples ---------------------------------------------------------------------------------------------------

    def _drift(self, verdicts: Mapping[str, Verdict]) -> Sequence[Drift]:
        """The drift of some rows of the newest partition that has any."""
        with suppress(DatasetError):  # the verdict is known, and this is an example of it
            for table in islice(self._newest(verdicts, lambda part: part.drifted, 1), _MOST_ROW_GROUPS):
                if drift := drift_in(table, self._plan.spec):
                    return drift
        return ()

    def _mismatched_tasks(self, verdicts: Mapping[str, Verdict]) -> Sequence[str]:
        """Some tasks of the newest partitions that were answered with another task's body."""
        found: list[str] = []
        with suppress(DatasetError):
            for table in self._newest(verdicts, lambda part: part.mismatched, _MOST_PARTITIONS):
                mismatched = table["task_id"].filter(pc.equal(table["error_code"], TASK_ID_MISMATCH))
                found += mismatched[: _MOST_EXAMPLES - len(found)].to_pylist()
        return found

    def _differing_videos(self, verdicts: Mapping[str, Verdict]) -> Sequence[Mapping[str, str]]:
        """Some videos of the newest partition that has any which are not what their answers say."""
        keys = (
            key for key in reversed(list(verdicts)) if (part := verdicts[key].videos) is not None and part.differing
        )
        found: list[Mapping[str, str]] = []
        with suppress(DatasetError):
            for key in islice(keys, 1):
                files = [self._dataset.partition(name, self._plan.folder_of(key)) for name in (VIDEOS, GENERATIONS)]
                for table in differing_of_file(files[0], files[1], self._plan.spec):
                    rows = table.slice(0, _MOST_EXAMPLES - len(found)).to_pylist()
                    found += ({"partition": key, **shown(row)} for row in rows)
        return found

    def _newest(
        self, verdicts: Mapping[str, Verdict], count_of: Callable[[GenerationsVerdict], int], most: int
    ) -> Iterator[pa.Table]:
        """The rows of the newest partitions of luma_generations that have any of what is counted."""
        parts = ((key, verdicts[key].generations) for key in reversed(list(verdicts)))
        for key in islice((key for key, part in parts if part is not None and count_of(part)), most):
            yield from self._dataset.partition(GENERATIONS, self._plan.folder_of(key)).batches(_EXAMPLE_COLUMNS)

    # -- partitions without a verdict -------------------------------------------------------------------------------

    def _find_not_judged(self, verdicts: Mapping[str, Verdict]) -> dict[str, list[str]]:
        folders = {name: self._dataset.folders(name) for name in (GENERATIONS, VIDEOS)}
        if not any(folders.values()):
            return {GENERATIONS: [], VIDEOS: []}
        found: dict[str, list[str]] = {GENERATIONS: [], VIDEOS: []}
        for key in self._plan.keys:
            verdict = verdicts.get(key, Verdict())
            if verdict.generations is None or verdict.videos is None:
                folder = self._plan.folder_of(key)
                if verdict.generations is None and folder in folders[GENERATIONS]:
                    found[GENERATIONS].append(key)
                if verdict.videos is None and folder in folders[VIDEOS]:
                    found[VIDEOS].append(key)
        return found

    def _judge(self, not_judged: Mapping[str, Sequence[str]], verdicts: dict[str, Verdict]) -> None:
        def judge(key: str) -> None:
            folder = self._plan.folder_of(key)
            files = {name: self._dataset.partition(name, folder) for name in (TASKS, GENERATIONS, VIDEOS)}
            is_judged = {name: key not in missing for name, missing in sets.items()}
            generations = (
                None if is_judged[GENERATIONS] else judge_generations(files[GENERATIONS], files[TASKS], self._plan.spec)
            )
            videos = None if is_judged[VIDEOS] else judge_videos(files[VIDEOS], files[GENERATIONS], self._plan.spec)
            verdicts[key] = self._judge_of(key).put(generations, videos)

        sets = {name: frozenset(keys) for name, keys in not_judged.items()}
        missing = sorted(sets[GENERATIONS] | sets[VIDEOS])
        for_each(judge, missing, at_once=_AT_ONCE, stopping=self._opened.stopping, name="luma-check")

    def _judge_of(self, key: str) -> Judge:
        return Judge(self._stored, mark_of(key), self._plan.spec)

    # -- the store --------------------------------------------------------------------------------------------------

    def _look_at_store(self, verdicts: dict[str, Verdict]) -> None:
        counts = {
            key: verdict.videos.in_bucket
            for key in self._plan.looked_at
            if (verdict := verdicts.get(key, Verdict())).videos is not None and verdict.videos.in_bucket
        }
        if not counts or self._plan.objects == 0:
            return
        copier = self._opened.keep_copier(MediaCopier(self._videos))
        picked = _pick(counts, self._plan.objects)
        forgotten = self._dataset.tombstones().now()
        for key in counts if picked is None else picked:
            file = self._dataset.partition(VIDEOS, self._plan.folder_of(key))
            listed = listed_objects(file, None if picked is None else picked[key], self._videos.bucket, forgotten)
            lost = self._lost(key, listed, copier)
            is_whole = picked is None or len(picked[key]) >= counts[key]
            self._keep(key, lost, verdicts, is_whole=is_whole)

    def _lost(self, partition: str, objects: Iterator[tuple[str, int]], copier: MediaCopier) -> int:
        """How many of the objects are not in the bucket as the manifest says."""
        lost = 0
        while some := dict(islice(objects, _LOOK_UP_KEYS)):
            found = copier.stored_sizes(some)
            self._look.looked_up += len(some)
            for key, size in some.items():
                if found[key] != size:
                    lost += 1
                    if len(self._look.lost) < _MOST_LOST:
                        self._look.lost.append(LostObject(partition, key, size, found[key]))
        return lost

    def _keep(self, key: str, lost: int, verdicts: dict[str, Verdict], *, is_whole: bool) -> None:
        """Keep in the verdict how many objects a partition has lost: until all are seen there, or it is run again."""
        before = verdicts[key].videos or VideosVerdict()
        lost = lost if is_whole else max(lost, before.lost)
        if lost == before.lost:
            return
        if self._plan.is_read_only:
            verdicts[key] = replace(verdicts[key], videos=replace(before, lost=lost))
        else:
            verdicts[key] = self._judge_of(key).lose(lost, before)


def _pick(counts: Mapping[str, int], most: int | None) -> dict[str, list[int]] | None:
    """Which of the objects of each partition are looked up, as indices in rising order; None: all of them."""
    total = sum(counts.values())
    if most is None or most >= total:
        return None
    keys, ends = list(counts), list(accumulate(counts.values()))
    picked: dict[str, list[int]] = defaultdict(list)
    for number in sorted(random.sample(range(total), most)):
        at = bisect_right(ends, number)
        picked[keys[at]].append(number - (ends[at] - counts[keys[at]]))
    return picked


def listed_objects(
    file: PartitionFile,
    picked: Sequence[int] | None,
    bucket: str,
    forgotten: Forgotten = Forgotten(),  # noqa: B008 - frozen
) -> Iterator[tuple[str, int]]:
    """Keys and sizes of the objects of a manifest that should be in the bucket: those picked, or all.

    Rows of `forgotten` tasks are left out: their objects go first.
    """
    seen = 0
    for table in file.batches(_COLUMNS):
        there = table.filter(is_in_bucket(table["status"]))
        if picked is not None:
            within = [number - seen for number in picked if 0 <= number - seen < len(there)]
            seen += len(there)
            there = there.take(pa.array(within, pa.int64()))
        ours = forgotten.without(there.filter(is_of_bucket(there, bucket)))
        yield from zip(ours["key"].to_pylist(), ours["size_bytes"].to_pylist(), strict=True)
