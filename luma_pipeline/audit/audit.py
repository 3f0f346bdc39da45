"""The audit's room: one audit, from the manifests and the listing to the report.

The order makes what a run does meanwhile harmless. The manifests are read first, then the bucket is listed, then some
objects are read. What seems wrong is looked at again at the end, with the rows as they are then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import unquote

import numpy as np

from luma_pipeline.audit.bucket import AuditBucket
from luma_pipeline.audit.compare import LATER, differences
from luma_pipeline.audit.findings import AUDIT_SCHEMA, Finding, Findings, Kind, Repair, finding_of
from luma_pipeline.audit.lost import LostObjects
from luma_pipeline.audit.manifest import Flag, ManifestIndex, ManifestRow, read_rows
from luma_pipeline.audit.orphans import Orphans
from luma_pipeline.audit.reading import DueRows
from luma_pipeline.audit.repair import Repairer
from luma_pipeline.audit.second_look import SecondLook
from luma_pipeline.audit.settings import AuditOptions, AuditSettings
from luma_pipeline.audit.tally import Tally
from luma_pipeline.audit.turns import Span
from luma_pipeline.dataset import AuditSummary, Dataset, DatasetError
from luma_pipeline.engine.partition import GENERATIONS, VIDEOS
from luma_pipeline.engine.resources import OpenResources
from luma_pipeline.engine.threads import finish, start
from luma_pipeline.media import BucketError, CopyError

__all__ = ["AUDIT", "audit_dataset"]

AUDIT = "luma_audit"
"""The dataset of the reports: a partition for each audit."""
_READ_AT_ONCE = 8
_EXTRA_READS = 1000
"""Objects that are read out of their turn because the listing tells of something: so many, or as many as are due."""
_MOST_DUPLICATES = 1000
_BY_READING = frozenset({Kind.DIGEST_DIFFERS, Kind.UNREADABLE_OBJECT, Kind.OTHER_TASK, Kind.WRONG_CONTENT_TYPE})
"""What a listing alone does not tell."""


def audit_dataset(
    settings: AuditSettings, options: AuditOptions | None = None, *, tell: Callable[[str], None] = lambda _: None
) -> AuditSummary:
    """Compare all manifests under the root with the bucket, and write the report.

    What cannot be looked at is among the `problems` of the summary, with the rest done. Ctrl-C stops within ten
    seconds, whatever stalls; what was repaired and read by then stays so. `tell` is called in another thread.

    Memory: about 155 bytes a row of the manifests, whatever is found.

    Raises:
        DatasetError: The root cannot be listed or written.
        BucketError: No client for the bucket can be set up.
    """
    opened = OpenResources()
    audit = _Audit(opened, settings, options or AuditOptions(), tell)
    future = start(audit.do, "luma-audit")
    opened.keep_thread(future)
    try:
        summary = future.result()
        opened.close()
    except BaseException:
        finish(opened.stop, "luma-stop")
        raise
    return summary


class _Audit:
    def __init__(
        self, opened: OpenResources, settings: AuditSettings, options: AuditOptions, tell: Callable[[str], None]
    ) -> None:
        self._opened = opened
        self._settings = settings
        self._options = options
        self._now = datetime.now(UTC)
        self._since = self._now - timedelta(seconds=settings.young_seconds)
        self._tally = Tally(tell)
        self._unread: set[str] = set()
        self._missing_partitions = 0
        self._listed = 0
        self._is_listed = True

    def do(self) -> AuditSummary:
        with ExitStack() as stack:
            self._dataset = self._opened.keep_dataset(Dataset(url=self._settings.data_url))
            self._tombstones = self._dataset.tombstones()
            self._bucket = AuditBucket(self._settings.videos, self._opened.stopping, _READ_AT_ONCE)
            self._opened.keep_store(self._bucket)
            self._pool = ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="luma-audit-read")
            stack.callback(partial(self._pool.shutdown, wait=False, cancel_futures=True))
            self._findings = Findings(self._now)
            stack.callback(self._findings.close)
            self._span = self._choose_span()
            due = DueRows(self._span)
            stack.callback(due.close)
            orphans = Orphans(self._bucket.template, self._since)
            stack.callback(orphans.close)
            index = self._read_manifests(due)
            self._list(index, orphans)
            self._read(index, due)
            self._look_again(index, max(_EXTRA_READS, due.rows))
            self._find_duplicates(index)
            self._judge_orphans(index, orphans)
            return self._report(index)

    # -- the manifests ----------------------------------------------------------------------------------------------

    def _choose_span(self) -> Span:
        days = self._settings.read_within_days
        hand = self._dataset.audits().hand()
        if self._options.read_all:
            return Span.whole(self._now, hand)
        if days is None:
            return Span(0, 0, self._now, self._now)
        return Span.until(self._now, hand, timedelta(days=days))

    def _read_manifests(self, due: DueRows) -> ManifestIndex:
        forgotten = self._tombstones.now()
        index = ManifestIndex(self._bucket.name, self._bucket.template.prefix, forgotten)
        folders = self._dataset.folders(VIDEOS)
        for folder in sorted(folders):
            self._bucket.check_stop()
            if not self._options.takes(folder):
                continue
            try:
                index.add(self._dataset.partition(VIDEOS, folder), folder, due.take)
            except DatasetError as error:
                self._unread.add(folder)
                self._problem(f"the manifest of {folder} was not read", error)
                self._findings.add(Finding(Kind.UNREADABLE_PARTITION, "a manifest", str(error), folder))
            due.sort()
        self._find_missing_partitions(folders)
        index.seal()
        self._flag_earlier(index)
        elsewhere = index.flagged(Flag.ELSEWHERE)
        if elsewhere:
            self._tally.count("elsewhere", elsewhere)
            self._tally.tell(
                f"{elsewhere} objects of the manifests are in another bucket or outside of the prefix "
                f"{self._bucket.template.prefix!r}: each is looked at by itself"
            )
        self._tally.tell(f"{len(index)} objects are in {len(index.partitions)} manifests, {due.rows} are to be read")
        return index

    def _find_missing_partitions(self, folders: set[str]) -> None:
        for folder in sorted(self._dataset.folders(GENERATIONS) - folders):
            if not self._options.takes(folder):
                continue
            self._missing_partitions += 1
            written = self._dataset.partition(GENERATIONS, folder).modified_at()
            if written is not None and written < self._since:  # else a run may be about to write it
                expected = f"a manifest, since {GENERATIONS} has the partition"
                self._findings.add(Finding(Kind.MISSING_PARTITION, expected, "no file", folder))

    # -- the listing ------------------------------------------------------------------------------------------------

    def _list(self, index: ManifestIndex, orphans: Orphans) -> None:
        try:
            for page in self._bucket.listed():
                self._listed += len(page)
                unknown = index.compare(page)
                if not self._options.is_limited:
                    orphans.take(unknown)
        except (BucketError, CopyError) as error:
            self._is_listed = False
            self._problem(f"bucket {self._bucket.name} was not listed to its end", error)
        index.judge(int(LATER.total_seconds() * 1_000_000), is_complete=self._is_listed)
        wrong = index.flagged(Flag.LISTING)
        self._tally.tell(f"{self._listed} objects are listed, {wrong} rows of the manifests seem wrong")

    # -- the reading ------------------------------------------------------------------------------------------------

    def _read(self, index: ManifestIndex, due: DueRows) -> None:
        """Read what has its turn, part by part.

        After each part the hand is put there, so that a kill costs one part: but only while all is well. What seems
        wrong has to be in the report first.
        """
        self._parts_read = 0
        flagged = index.flagged(Flag.READING)
        try:
            for part in range(self._span.parts):
                for some in due.part(part):
                    self._read_some(index, some)
                self._parts_read = part + 1
                if due.rows and index.flagged(Flag.READING) == flagged:
                    self._put_hand()
        except BucketError as error:
            self._problem("not all objects whose turn it was were read", error)

    def _put_hand(self) -> None:
        """Keep how far the reading has come. A manifest that was not read has rows whose turn it is, perhaps."""
        if self._span.length and self._parts_read and not self._options.is_limited and not self._unread:
            self._dataset.audits().put_hand(self._span.hand_after(self._parts_read - 1))

    def _flag_earlier(self, index: ManifestIndex) -> None:
        """Flag what the last audit found by reading: its turn is over, and the listing does not tell of it."""
        last = self._dataset.audits().last()
        if last is None:
            return
        try:
            with self._dataset.partition(AUDIT, _folder(last.audited_at)).open() as reader:
                for table in reader.batches(AUDIT_SCHEMA.names, AUDIT_SCHEMA):
                    rows = [row for row in table.to_pylist() if row["kind"] in _BY_READING and not row["repaired"]]
                    index.flag([row["key"] for row in rows])
                    for row in rows:
                        if row["partition"] in self._unread:  # its manifest does not tell of it now
                            self._findings.add(finding_of(row))
        except DatasetError as error:
            self._problem("the report of the last audit was not read", error)

    def _read_some(self, index: ManifestIndex, some: Sequence[tuple[ManifestRow, int]]) -> None:
        some = [(row, number) for row, number in some if not int(index.flags[number]) & Flag.LISTING]
        looks = self._pool.map(lambda each: self._bucket.look(each[0].bucket, str(each[0].key), is_read=True), some)
        for (row, number), looked in zip(some, looks, strict=True):
            if isinstance(looked, CopyError) or differences(row, looked, ""):
                index.flags[number] |= np.uint8(Flag.READING)
            elif looked.digest is None:
                self._tally.count("archived")

    def _look_again(self, index: ManifestIndex, reads: int) -> None:
        lost = LostObjects(self._dataset, self._settings.mark_of)
        second_look = self._second_look(reads, lost)
        self._unread |= second_look.do(index)
        if self._is_listed and not second_look.is_broken:
            lost.keep(each.folder for each in index.partitions if each.folder not in self._unread)

    def _second_look(self, reads: int, lost: LostObjects) -> SecondLook:
        settings, provider = self._settings, self._settings.provider
        repairer = None
        if self._options.repair and provider is not None:
            repairer = Repairer(self._opened, settings.videos, provider, settings.link_preference, self._tombstones)
        elif self._options.repair:
            self._problem("nothing was repaired", "this audit was not told how to ask the provider")
        return SecondLook(
            self._dataset,
            self._bucket,
            self._pool,
            self._findings,
            self._tally,
            self._tombstones,
            lost,
            since=self._since,
            reads=reads,
            is_listed=self._is_listed,
            repairer=repairer,
        )

    # -- what is in no manifest, or twice ---------------------------------------------------------------------------

    def _find_duplicates(self, index: ManifestIndex) -> None:
        """Objects under different keys that have the same bytes: the first thousand are in the report."""
        places = index.duplicates()
        firsts: dict[int, str] = {}
        told = 0
        for partition, rows in index.spans() if len(places) else ():
            keys = dict.fromkeys(index.keys[rows][np.isin(index.places[rows], places)].tolist())
            if not keys or told >= _MOST_DUPLICATES:
                continue
            try:
                for row in self._rows(partition.folder, keys, index.bucket):
                    first = (
                        firsts.setdefault(int(str(row.sha256)[:16], 16), str(row.key)) if row.has_digest else row.key
                    )
                    if first != row.key and told < _MOST_DUPLICATES:
                        told += 1
                        place = (partition.folder, row.task_id, row.artifact, row.key)
                        self._findings.add(Finding(Kind.DUPLICATE, "bytes of its own", f"those of {first}", *place))
            except DatasetError as error:
                self._problem(f"duplicates in {partition.folder} were not looked for", error)
        self._findings.counts[Kind.DUPLICATE] = max(told, index.duplicate_objects)

    def _rows(self, folder: str, keys: Mapping[int, Any], bucket: str) -> Iterator[ManifestRow]:
        for rows in read_rows(self._dataset, folder, keys, bucket):
            yield from rows

    def _judge_orphans(self, index: ManifestIndex, orphans: Orphans) -> None:
        self._tally.count("not_ours", orphans.of_others)
        self._tally.count("young_orphans", orphans.young)
        if not orphans.candidates:
            return
        if self._unread:
            self._problem(
                "orphaned objects were not looked for",
                f"{orphans.candidates} objects are in none of the manifests that could be read",
            )
            return
        refusal = self._why_nothing_is_deleted(index, orphans)
        if refusal and self._options.delete_orphans:
            self._problem("no orphaned object was deleted", refusal)
        try:
            added = self._keys_since(index)
            for keys in orphans:
                if not refusal:  # a run may have taken one into its manifest while others were deleted
                    added = self._keys_since(index)
                left = [key for key in keys if hash(key) not in added]
                for finding in self._pool.map(partial(self._orphan, is_deleted=not refusal), left):
                    if finding is not None:
                        self._findings.add(finding)
        except (DatasetError, BucketError) as error:
            self._problem("orphaned objects were not all looked at", error)

    def _why_nothing_is_deleted(self, index: ManifestIndex, orphans: Orphans) -> str:
        if not self._options.delete_orphans:
            return "it was not asked for"
        if not self._is_listed:
            return "the listing is not complete"
        if self._missing_partitions:
            return "partitions of the manifest are missing"
        if orphans.candidates > len(index):
            return (
                f"{orphans.candidates} objects would be deleted and {len(index)} kept. The data root (LUMA_DATA_URL) "
                "may be that of another bucket, or have lost its manifests"
            )
        return ""

    def _keys_since(self, index: ManifestIndex) -> set[int]:
        """The keys, as hashes, of partitions that were written since they were read."""
        seen = {each.folder: each.version for each in index.partitions}
        added: set[int] = set()
        for folder in self._dataset.folders(VIDEOS):
            file = self._dataset.partition(VIDEOS, folder)
            if file.version() != seen.get(folder):
                for table in file.batches(["bucket", "key"]):
                    pairs = zip(table["bucket"].to_pylist(), table["key"].to_pylist(), strict=True)
                    added.update(hash(key) for bucket, key in pairs if bucket == index.bucket)
        return added

    def _orphan(self, key: str, *, is_deleted: bool) -> Finding | None:
        looked = self._bucket.look(self._bucket.name, key, is_read=False)
        if isinstance(looked, CopyError):
            return Finding(Kind.ORPHANED, "a row in a manifest", str(looked), key=key)
        stored = looked.stored
        if stored is None or (stored.modified_at is not None and stored.modified_at > self._since):
            return None
        if self._is_forgotten(key):
            found = f"{stored.size_bytes} bytes, written at {stored.modified_at}"
            return Finding(Kind.FORGOTTEN, "no object: its task was forgotten", found, key=key)
        named = "by its metadata of no task" if stored.task_id is None else f"of task {stored.task_id}"
        task_id = None if stored.task_id is None else unquote(stored.task_id)
        found = f"{stored.size_bytes} bytes {named}, written at {stored.modified_at}"
        finding = Finding(Kind.ORPHANED, "a row in a manifest", found, None, task_id, stored.artifact, key)
        if not is_deleted:
            return finding
        if stored.copy_id is None:
            return finding.with_repair(Repair.FAILED, "not deleted, since its metadata does not say that it is ours")
        try:
            self._bucket.delete(key)
        except CopyError as error:
            return finding.with_repair(Repair.FAILED, str(error))
        return finding.with_repair(Repair.DELETED)

    def _is_forgotten(self, key: str) -> bool:
        segment, forgotten = self._bucket.template.segment_of(key) or "", self._tombstones.recent()
        return forgotten.has_hex(segment.rpartition("~")[2]) if "~" in segment else forgotten.has(segment)

    # -- the report -------------------------------------------------------------------------------------------------

    def _problem(self, what: str, why: object) -> None:
        self._bucket.check_stop()
        self._tally.problem(what, why)

    def _report(self, index: ManifestIndex) -> AuditSummary:
        self._bucket.check_stop()
        findings = self._findings
        forgotten = self._tombstones.now()
        written = self._dataset.partition(AUDIT, _folder(self._now)).replace(
            AUDIT_SCHEMA, map(forgotten.without, findings.tables())
        )
        summary = AuditSummary(
            self._now,
            partitions=len(index.partitions),
            rows=len(index),
            listed=self._listed,
            read=self._bucket.objects_read,
            bytes_read=self._bucket.bytes_read,
            others=self._tally.counts,
            counts=_counts(findings.counts),
            repaired=_counts(findings.repaired),
            errors=findings.errors,
            warnings=findings.warnings,
            problems=tuple(self._tally.problems),
            examples=tuple(_example(each) for each in findings.examples if not forgotten.has(each.task_id or "")),
            path=written.path,
        )
        if not self._options.is_limited:
            self._dataset.audits().put_last(summary)
            self._put_hand()
        return summary


def _folder(audited_at: datetime) -> str:
    """The partition of an audit's report."""
    return f"audit={audited_at:%Y-%m-%dT%H%M%S%fZ}"


def _counts(counter: Mapping[Kind, int]) -> dict[str, int]:
    return {str(kind): counter[kind] for kind in Kind if counter[kind]}


def _example(finding: Finding) -> dict[str, str]:
    what = finding.key or finding.partition or ""
    return {
        "kind": str(finding.kind),
        "partition": finding.partition or "",
        "what": what,
        "expected": finding.expected,
        "found": finding.found,
    }
