"""The forget room: everything of some tasks removed, and a tombstone kept, so that no later run brings them back.

The order makes a kill at any moment harmless. The tombstones come first: from then on every run leaves the tasks out.
Then the objects go, then the pages of the gallery, then the rows. So the rows, which name partition and keys, are there
until all else is gone, and a run that comes back finds from them what is left. The records come last.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa

from luma_pipeline.dataset import (
    Dataset,
    DatasetError,
    Forgotten,
    Shard,
    StaleVersionError,
    UnreadableFileError,
    Written,
    digest_of,
)
from luma_pipeline.engine.datasets import DATASETS, GENERATIONS, TASKS, VIDEOS
from luma_pipeline.engine.removal import remove_rows
from luma_pipeline.engine.threads import finish, for_each, start
from luma_pipeline.engine.verdict import Judge
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.forget.objects import ObjectRemoval, TaskObjects, Version
from luma_pipeline.forget.records import Counts, Journal, Record, recorded, write_records
from luma_pipeline.forget.request import ForgetRequest
from luma_pipeline.forget.survey import CHECKPOINTS, REPORTS, Survey, Surveyor, is_named, mentions
from luma_pipeline.gallery import Gallery, GallerySettings
from luma_pipeline.luma import GATEWAY, ProviderSpec
from luma_pipeline.media import TransferConfig
from luma_pipeline.media.keys import safe_segment

__all__ = ["ForgetReport", "ForgetSettings", "Unreached", "forget_tasks", "restore_tasks"]

_MOST_ROUNDS = 3
_PARTITIONS_AT_ONCE = 2
"""Each holds a row group, about 50 MB."""
_COUNT_OF = {
    TASKS: "task_rows",
    GENERATIONS: "generation_rows",
    VIDEOS: "video_rows",
    CHECKPOINTS: "checkpoint_rows",
    REPORTS: "report_rows",
}

Tell = Callable[[str], None]


@dataclass(frozen=True)
class ForgetSettings:
    """Where tasks are forgotten.

    data_url: Root of the Parquet datasets.
    videos: The bucket of the videos; earlier ones are found in the manifest.
    gallery: How pages look that are written again.
    mark_of: The mark of a partition by its folder, under which its verdict is kept; None where the folder is no
        partition of today's settings.
    spec: How the provider's answers are read.
    """

    data_url: str
    videos: TransferConfig
    gallery: GallerySettings = field(default_factory=GallerySettings)
    mark_of: Callable[[str], str | None] = lambda folder: folder.partition("=")[2]
    spec: ProviderSpec = GATEWAY


@dataclass(frozen=True)
class Unreached:
    """Something that is still there. `what` is an object's place and version, a bucket, a file or the gallery."""

    what: str
    reason: str


@dataclass
class ForgetReport:
    """What was done, or with a dry run would be done.

    tasks: The tasks of the request.
    also: Tasks that were forgotten earlier, and had rows again.
    tombstones: How many tombstones are new.
    unknown: The digests of tasks of the request of which nothing was found, now or earlier.
    counts: What was removed, over all tasks; of a dry run what was found.
    pages: How many partitions have new pages in the gallery.
    written: The partition files that were written again, by folder and dataset.
    unreached: What is still there.
    records: How many rows were added to the records.
    """

    tasks: int = 0
    also: int = 0
    tombstones: int = 0
    unknown: Sequence[bytes] = ()
    counts: Counts = field(default_factory=Counts)
    pages: int = 0
    written: dict[str, dict[str, Written]] = field(default_factory=dict)
    unreached: list[Unreached] = field(default_factory=list)
    records: int = 0


def forget_tasks(
    settings: ForgetSettings, request: ForgetRequest, *, tell: Tell = lambda _: None, run_id: str = ""
) -> ForgetReport:
    """Forget the tasks of a request, and what is left of tasks that were forgotten before.

    `tell` is called in this thread with what is done, as a sentence; a dry run tells each key. What cannot be reached
    is in the report, with the rest done. An interrupt ends the call in seconds, and the next call goes on.

    Raises:
        DatasetError: The root of the datasets cannot be read or written, or tombstones are damaged.
    """
    said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    dataset = Dataset(url=settings.data_url)
    work = _Forget(settings, request, dataset, run_id, said.put)

    def do() -> ForgetReport:
        try:
            return work.do()
        finally:
            said.put(None)

    done = start(do, "luma-forget")
    try:
        while (text := said.get()) is not None:
            tell(text)
        report = done.result()
    except BaseException:
        work.stopping.set()
        finish(dataset.stop, "luma-stop")
        raise
    dataset.close()
    return report


def restore_tasks(data_url: str, request: ForgetRequest) -> int:
    """Take the tombstones of tasks away; returns how many there were. Nothing else is changed. Raises DatasetError.

    The next run over their partitions asks for them again, and has what the provider still has.
    """
    dataset = Dataset(url=data_url)
    try:
        return dataset.tombstones().remove(request.tasks)
    finally:
        dataset.close()


class _Forget:
    def __init__(
        self, settings: ForgetSettings, request: ForgetRequest, dataset: Dataset, run_id: str, tell: Tell
    ) -> None:
        self.stopping = threading.Event()
        self._settings = settings
        self._request = request
        self._dataset = dataset
        self._run_id = run_id
        self._tell = tell
        self._surveyor = Surveyor(dataset, settings.videos.template, self.stopping)
        self._journal = Journal(dataset)
        self._tasks = dict(request.tasks)
        self._found: dict[bytes, Counts] = {}
        self._known: dict[Version, str] = {}
        self._unreached: dict[bytes, dict[Version, str]] = {}
        self._problems: dict[str, str] = {}
        self._report = ForgetReport(tasks=len(request.tasks))

    def do(self) -> ForgetReport:
        forgotten = self._set_tombstones()
        for number in range(1, _MOST_ROUNDS + 1):
            if not self._round(forgotten, number) or self._request.dry_run or self.stopping.is_set():
                break
        if not self.stopping.is_set():
            self._finish()
        return self._report

    def _set_tombstones(self) -> Forgotten:
        tombstones = self._dataset.tombstones()
        digests = self._request.tasks
        if self._request.dry_run:
            before = tombstones.now()
            self._report.tombstones = sum(not before.has(task_id) for task_id in digests.values())
            return before.including(digests)
        self._dataset.check()
        self._report.tombstones = tombstones.add(digests)
        self._tell(f"{self._report.tombstones} tombstones are new: from now on every run leaves these tasks out")
        return tombstones.now()

    # -- a round ----------------------------------------------------------------------------------------------------

    def _round(self, forgotten: Forgotten, number: int) -> bool:
        """Find and remove what there is; whether there was anything. Later rounds find what runs have brought back."""
        survey = self._surveyor.look(forgotten)
        self._problems |= survey.problems
        for task_id in survey.rows:
            self._tasks.setdefault(digest_of(task_id), task_id)
        has_objects = self._remove_objects(survey)
        if number == 1:
            rows = sum(sum(counts.values()) for counts in survey.rows.values())
            self._tell(f"{rows} rows in {len(survey.folders)} partitions are of these tasks")
        if not self._request.dry_run and not self.stopping.is_set():
            folders = set(survey.folders) | (self._journal.folders() if number == 1 else set())
            self._renew_gallery(folders, forgotten)
            self._remove_rows(survey, forgotten)
            self._remove_examples(forgotten)
            self._remove_old_versions(folders, survey)
        return has_objects or bool(survey.rows or survey.shards)

    def _remove_objects(self, survey: Survey) -> bool:
        removal = ObjectRemoval(self._settings.videos, survey, self._known, self.stopping)
        rows = {digest_of(task_id): _row_counts(counts) for task_id, counts in survey.rows.items()}
        folders: dict[bytes, list[str]] = {}
        for folder, task_ids in survey.folders.items():
            for task_id in task_ids:
                folders.setdefault(digest_of(task_id), []).append(folder)
        found_any = False

        def note(found: Sequence[TaskObjects]) -> None:
            if not self._request.dry_run:
                counts = {digest_of(each.task_id): each.counts() for each in found}
                both = {digest: each.plus(rows.get(digest, Counts())) for digest, each in counts.items()}
                self._journal.write(both, folders)

        try:
            for some in removal.do(self._tasks.values(), note, dry_run=self._request.dry_run):
                self._take_in(some, rows)
                found_any = found_any or any(not each.is_empty for each in some)
        finally:
            removal.close()
        return found_any

    def _take_in(self, some: Sequence[TaskObjects], rows: Mapping[bytes, Counts]) -> None:
        for each in some:
            digest = digest_of(each.task_id)
            removed = each.counts().plus(rows.get(digest, Counts()))
            self._found[digest] = self._found.get(digest, Counts()).plus(removed)
            self._unreached[digest] = each.unreached
            self._known |= {version: reason for version, reason in each.unreached.items() if version[1]}
        if self._request.dry_run:
            keys = [_shown(version) for each in some for version in each.found]
            if keys:
                self._tell("would be removed:\n" + "\n".join(keys))

    def _renew_gallery(self, folders: Collection[str], forgotten: Forgotten) -> None:
        """Write the pages of the partitions again while the rows are there, and remove old versions of them."""
        if not folders:
            return
        renewed: list[str] = []
        try:
            with Gallery(self._settings.videos, self._settings.gallery) as gallery:
                for folder in sorted(folders):
                    if gallery.has_pages(folder):
                        files = [self._dataset.partition(name, folder) for name in (GENERATIONS, VIDEOS)]
                        gallery.write_partition(folder, files[0], files[1], forgotten)
                        renewed.append(folder)
                if renewed:
                    gallery.write_index()
                    left = gallery.remove_old_versions(renewed)
                    self._problems |= {f"{gallery.index_key}: {each.version.key}": each.reason for each in left}
        except LumaPipelineError as error:
            where = ", ".join(sorted(folders)[:20])
            self._problems["the gallery"] = f"{error}. Materialize luma_gallery of {where} when that is mended"
        self._report.pages += len(renewed)

    def _remove_rows(self, survey: Survey, forgotten: Forgotten) -> None:
        folders = {f"rows of {each}": partial(self._remove_from_partition, each, forgotten) for each in survey.folders}
        reports = {f"report {each}": partial(self._remove_from_report, each, forgotten) for each in survey.reports}
        shards = {
            f"checkpoints of {folder}": partial(self._remove_from_shards, folder, some, forgotten)
            for folder, some in survey.shards.items()
        }

        def do(step: tuple[str, Callable[[], None]]) -> None:
            what, remove = step
            try:
                remove()
            except DatasetError as error:
                self._problems[what] = str(error)
            else:
                self._problems.pop(what, None)

        for_each(
            do,
            {**folders, **reports, **shards}.items(),
            at_once=_PARTITIONS_AT_ONCE,
            stopping=self.stopping,
            name="luma-forget-rows",
        )

    def _remove_from_partition(self, folder: str, forgotten: Forgotten) -> None:
        settings = self._settings
        mark = settings.mark_of(folder)
        judge = None if mark is None else Judge(self._dataset.verdicts(), mark, settings.spec)
        written = remove_rows(self._dataset, folder, forgotten, settings.spec, judge)
        if written:
            self._report.written.setdefault(folder, {}).update(written)

    def _remove_from_report(self, folder: str, forgotten: Forgotten) -> None:
        file = self._dataset.partition(REPORTS, folder)
        with file.open() as reader:
            template = self._settings.videos.template
            tables = [table.filter(pa.array(~mentions(table, forgotten, template))) for table in reader.batches()]
            file.rewrite(reader, tables, ())

    def _remove_examples(self, forgotten: Forgotten) -> None:
        """Take the tasks out of the examples that the last audit keeps."""
        audits, template = self._dataset.audits(), self._settings.videos.template
        last = audits.last()
        if last is None:
            return
        kept = [
            example
            for example in last.examples
            if not any(is_named(text, forgotten, template) for text in example.values())
        ]
        if len(kept) < len(last.examples):
            audits.put_last(replace(last, examples=kept))

    def _remove_from_shards(self, folder: str, shards: Sequence[Shard], forgotten: Forgotten) -> None:
        """Write what is left of each checkpoint as another, then delete it: a run that uses it asks again."""
        checkpoints = self._dataset.checkpoints(GENERATIONS, folder)
        for shard in shards:
            try:
                kept = forgotten.without(checkpoints.load(shard.path))
                if len(kept):
                    checkpoints.save(kept, shard.refresh_since)
            except StaleVersionError:
                continue
            except UnreadableFileError:
                self._tell(f"{shard.path} is damaged, and no run can take it up: it is deleted")
            checkpoints.remove([shard.path])

    def _remove_old_versions(self, folders: Collection[str], survey: Survey) -> None:
        """Remove what a store with versions keeps of the files that were written again."""
        places = [(name, folder) for folder in sorted(folders) for name in DATASETS]
        places += [(REPORTS, folder) for folder in sorted(survey.reports)]
        places += [(f"_checkpoints/{GENERATIONS}", folder) for folder in sorted({*folders, *survey.shards})]
        for name, folder in places:
            problem = self._dataset.remove_old_versions(name, folder)
            if problem:
                self._problems["older versions of the datasets' files"] = problem
                return

    # -- the end ----------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        report, request = self._report, self._request
        report.also = len(self._tasks) - len(request.tasks)
        report.unreached = self._all_unreached()
        known = recorded(self._dataset, self._tasks)
        earlier = self._journal.earlier(self._tasks.keys() - known.keys())
        records = [self._record(digest, task_id, earlier) for digest, task_id in self._tasks.items()]
        for record in records:
            report.counts = report.counts.plus(record.counts)
        report.unknown = [
            record.digest
            for record in records
            if record.digest in request.tasks and record.digest not in known and not record.counts
            if not record.not_reached
        ]
        if request.dry_run:
            return
        report.records = write_records(
            self._dataset, records, reason=request.reason, requested_by=request.requested_by, run_id=self._run_id
        )
        self._journal.close(self._tasks.keys())

    def _record(self, digest: bytes, task_id: str, earlier: Mapping[bytes, Counts]) -> Record:
        unreached = self._unreached.get(digest, {})
        left = [version for version in unreached if version[1]]
        keys = len({(bucket, key) for bucket, key, _ in left})
        mine = self._found.get(digest, Counts())
        total = mine.at_least(earlier.get(digest, Counts()).less(len(left), keys))
        reasons = Counter(reason for reason in unreached.values())
        texts = [f"{count} times: {reason}" if count > 1 else reason for reason, count in reasons.items()]
        text = "; ".join([*texts, *self._problems.values()])
        for name in (task_id, safe_segment(task_id)):
            text = text.replace(name, "…")
        return Record(digest, total, text, is_news=bool(mine))

    def _all_unreached(self) -> list[Unreached]:
        found = {
            _shown(version): reason for versions in self._unreached.values() for version, reason in versions.items()
        }
        return [Unreached(what, reason) for what, reason in {**found, **self._problems}.items()]


def _row_counts(rows: Mapping[str, int]) -> Counts:
    return Counts(**{_COUNT_OF[name]: count for name, count in rows.items()})


def _shown(version: Version) -> str:
    bucket, key, version_id = version
    if not key:
        return f"bucket {bucket}"
    return f"s3://{bucket}/{key}" + ("" if version_id in (None, "null") else f" version {version_id}")
