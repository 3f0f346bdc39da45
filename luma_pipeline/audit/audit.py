"""The audit's room: one audit, from the manifests and the listing to the report.

The order makes what a run does meanwhile harmless. The manifests are read first, then the bucket is listed, then some
objects are read. What seems wrong is looked at again at the end, with the rows as they are then.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import unquote

import numpy as np

from luma_pipeline.audit.bucket import AuditBucket
from luma_pipeline.audit.compare import LATER, Looked, differences, is_later, is_of_a_run_at_work
from luma_pipeline.audit.findings import AUDIT_SCHEMA, Finding, Findings, Kind, Repair
from luma_pipeline.audit.manifest import Flag, ManifestIndex, ManifestRow, read_rows
from luma_pipeline.audit.orphans import Orphans
from luma_pipeline.audit.reading import DueRows
from luma_pipeline.audit.repair import Repairer, replace_rows, row_after
from luma_pipeline.audit.settings import AuditOptions, AuditSettings
from luma_pipeline.audit.turns import Span
from luma_pipeline.dataset import AuditSummary, Dataset, DatasetError
from luma_pipeline.engine.partition import GENERATIONS, VIDEOS
from luma_pipeline.engine.resources import OpenResources
from luma_pipeline.engine.threads import finish, start
from luma_pipeline.luma import LumaError
from luma_pipeline.media import BucketError, CopyError, CopyResult, CopyStatus, ErrorCode
from luma_pipeline.media.store import StoredObject

__all__ = ["AUDIT", "audit_dataset"]

AUDIT = "luma_audit"
"""The dataset of the reports: a partition for each audit."""
_READ_AT_ONCE = 8
_EXTRA_READS = 1000
"""Objects that are read out of their turn because the listing tells of something: so many, or as many as are due."""
_FAILURES_BEFORE_STOP = 16
_MOST_DUPLICATES = 1000
_GONE = frozenset({ErrorCode.NO_LINK.value, ErrorCode.LINK_EXPIRED.value})
_COPIED_AGAIN = frozenset(kind for kind in Kind if kind.is_loss) | {Kind.OTHER_TASK, Kind.WRONG_CONTENT_TYPE}
_RENEWED = frozenset({Kind.ETAG_DIFFERS, Kind.REWRITTEN, Kind.NO_DIGEST})


def audit_dataset(
    settings: AuditSettings, options: AuditOptions | None = None, *, tell: Callable[[str], None] = lambda _: None
) -> AuditSummary:
    """Compare all manifests under the root with the bucket, and write the report.

    What cannot be looked at is among the `problems` of the summary, with the rest done. Ctrl-C stops within ten
    seconds, whatever stalls; what was repaired and read by then stays so. `tell` is called in another thread.

    Memory: about 100 bytes a row of the manifests, whatever is found.

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


@dataclass
class _Judged:
    """What a second look at a row found. `looked` is None where the object was not looked at."""

    row: ManifestRow
    findings: list[Finding]
    looked: Looked | None = None
    patch: Mapping[str, Any] | None = field(default=None)


class _Audit:
    def __init__(
        self, opened: OpenResources, settings: AuditSettings, options: AuditOptions, tell: Callable[[str], None]
    ) -> None:
        self._opened = opened
        self._settings = settings
        self._options = options
        self._tell = tell
        self._now = datetime.now(UTC)
        self._since = self._now - timedelta(seconds=settings.young_seconds)
        self._problems: list[str] = []
        self._others: Counter[str] = Counter()
        self._unread_partitions = 0
        self._unread_objects = 0
        self._read_objects = self._read_bytes = self._listed = 0
        self._is_listed = True
        self._lock = threading.Lock()
        self._failures = 0
        self._repairer: Repairer | None = None
        self._can_repair = options.repair

    def do(self) -> AuditSummary:
        with ExitStack() as stack:
            self._dataset = self._opened.keep_dataset(Dataset(url=self._settings.data_url))
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
            self._extra_reads = max(_EXTRA_READS, due.rows)
            self._read(index, due)
            self._look_again(index)
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
        index = ManifestIndex(self._bucket.name, self._bucket.template.prefix)
        folders = self._dataset.folders(VIDEOS)
        for folder in sorted(folders):
            self._bucket.check_stop()
            if not self._options.takes(folder):
                continue
            try:
                index.add(self._dataset.partition(VIDEOS, folder), folder, due.take)
            except DatasetError as error:
                self._unread_partitions += 1
                self._problem(f"the manifest of {folder}", error)
                self._findings.add(Finding(Kind.UNREADABLE_PARTITION, "a manifest", str(error), folder))
            due.sort()
        self._find_missing_partitions(folders)
        index.seal()
        elsewhere = index.flagged(Flag.ELSEWHERE)
        if elsewhere:
            self._others["elsewhere"] = elsewhere
            self._tell(
                f"{elsewhere} objects of the manifests are in another bucket or outside of the prefix "
                f"{self._bucket.template.prefix!r}: each is looked at by itself"
            )
        self._tell(f"{len(index)} objects are in {len(index.partitions)} manifests, {due.rows} are to be read")
        return index

    def _find_missing_partitions(self, folders: set[str]) -> None:
        for folder in sorted(self._dataset.folders(GENERATIONS) - folders):
            written = self._dataset.partition(GENERATIONS, folder).modified_at()
            if self._options.takes(folder) and written is not None and written < self._since:
                self._others["missing_partitions"] += 1
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
            self._problem(f"the listing of bucket {self._bucket.name}", error)
        index.judge(int(LATER.total_seconds() * 1_000_000), is_complete=self._is_listed)
        self._tell(f"{self._listed} objects are listed, {index.flagged(Flag.LISTING)} are not as the manifests say")

    # -- the reading ------------------------------------------------------------------------------------------------

    def _read(self, index: ManifestIndex, due: DueRows) -> None:
        """Read what has its turn, part by part; after each part the hand is put there."""
        try:
            for part in range(self._span.parts if due.rows else 0):
                for some in due.part(part):
                    self._read_some(index, some)
                self._put_hand(part)
        except BucketError as error:
            self._problem("objects whose turn it was", error)
        else:
            if not due.rows:
                self._put_hand(self._span.parts - 1)

    def _put_hand(self, part: int) -> None:
        if self._span.length and not self._options.is_limited:
            self._dataset.audits().put_hand(self._span.hand_after(part))

    def _read_some(self, index: ManifestIndex, some: Sequence[tuple[ManifestRow, int]]) -> None:
        some = [(row, number) for row, number in some if not index.flags[number] & Flag.LISTING]
        looks = self._pool.map(lambda row: self._looked(row, is_read=True), [row for row, _ in some])
        for (row, number), looked in zip(some, looks, strict=True):
            if isinstance(looked, CopyError) or differences(row, looked, ""):
                index.flags[number] |= Flag.READING
            elif looked.digest is None:
                self._others["archived"] += 1

    def _looked(self, row: ManifestRow, *, is_read: bool) -> Looked | CopyError:
        """The object of a row; an error that concerns it alone. Raises BucketError where the store fails for all."""
        key = str(row.key)
        try:
            if is_read:
                found = self._bucket.read(row.bucket, key)
                looked = Looked(None) if found is None else Looked(*found)
                self._count_read(looked)
            else:
                looked = Looked(self._bucket.head(row.bucket, key))
        except CopyError as error:
            with self._lock:
                self._failures += 1
                if self._failures < _FAILURES_BEFORE_STOP:
                    return error
            raise BucketError(f"the store failed {self._failures} times in a row, last: {error}") from None
        with self._lock:
            self._failures = 0
        return looked

    def _count_read(self, looked: Looked) -> None:
        if looked.digest is not None and looked.stored is not None:
            with self._lock:
                self._read_objects += 1
                self._read_bytes += looked.stored.size_bytes

    # -- the second look --------------------------------------------------------------------------------------------

    def _look_again(self, index: ManifestIndex) -> None:
        """Look at each row again that seems wrong, as it is now, and at its object."""
        repeated = self._still_repeated(index)
        for partition, flags in index.suspects():
            try:
                for rows in read_rows(self._dataset, partition.folder, flags, index.bucket):
                    judge = partial(self._judge, partition.folder, flags, repeated)
                    judged = list(self._pool.map(judge, rows))
                    self._repair(partition.folder, judged)
                    for each in judged:
                        for finding in each.findings:
                            self._findings.add(finding)
            except DatasetError as error:
                self._unread_partitions += 1
                self._problem(f"what seems wrong in {partition.folder}", error)
            except BucketError as error:
                self._problem("what seems wrong", error)
                return
        if self._unread_objects:
            self._problems.append(f"{self._unread_objects} objects could not be read: see {Kind.UNREADABLE_OBJECT}")

    def _still_repeated(self, index: ManifestIndex) -> frozenset[int]:
        """The keys, as hashes, that more than one row has now."""
        keys: list[int] = []
        for partition, flags in index.suspects():
            if wanted := {key: flag for key, flag in flags.items() if flag & Flag.REPEATED}:
                try:
                    for rows in read_rows(self._dataset, partition.folder, wanted, index.bucket):
                        keys += (row.key_hash(index.bucket) for row in rows)
                except DatasetError:  # told by the look at its rows
                    continue
        return frozenset(key for key, count in Counter(keys).items() if count > 1)

    def _judge(self, folder: str, flags: Mapping[int, Flag], repeated: frozenset[int], row: ManifestRow) -> _Judged:
        key = row.key_hash(self._bucket.name)
        judged = _Judged(row, self._row_findings(folder, row, is_repeated=key in repeated))
        if row.has_object and flags[key] & (Flag.LISTING | Flag.READING | Flag.ELSEWHERE):
            self._judge_object(folder, flags[key], judged)
        return judged

    def _row_findings(self, folder: str, row: ManifestRow, *, is_repeated: bool) -> list[Finding]:
        place = (folder, row.task_id, row.artifact, row.key)
        found = []
        if not row.has_object:
            found.append(
                Finding(Kind.NO_KEY, "a key and a size", f"{row.key or 'no key'}, {row.size_bytes} bytes", *place)
            )
        if not row.has_digest:
            found.append(Finding(Kind.NO_DIGEST, "a SHA-256", row.sha256 or "none", *place))
        if is_repeated:
            found.append(Finding(Kind.REPEATED_KEY, "one row with this key", "more than one", *place))
        return found

    def _judge_object(self, folder: str, flag: Flag, judged: _Judged) -> None:
        row = judged.row
        looked = self._looked(row, is_read=bool(flag & Flag.READING) or not self._is_listed)
        if isinstance(looked, Looked) and self._is_to_be_read(row, looked):
            looked = self._looked(row, is_read=True)
        if isinstance(looked, CopyError):
            with self._lock:
                self._unread_objects += 1
            judged.findings.append(
                Finding(Kind.UNREADABLE_OBJECT, "an object", str(looked), folder, row.task_id, row.artifact, row.key)
            )
            return
        judged.looked = looked
        found = differences(row, looked, folder)
        if found and is_of_a_run_at_work(row, looked, self._since):
            with self._lock:
                self._others["perhaps_of_a_run_at_work"] += 1
            return
        judged.findings += found

    def _is_to_be_read(self, row: ManifestRow, looked: Looked) -> bool:
        """Whether only the bytes tell what is so; within bounds, since each object of a restored bucket may ask it."""
        stored = looked.stored
        if stored is None or looked.digest is not None:
            return False
        is_same = stored.size_bytes == row.size_bytes and stored.etag == row.etag and not is_later(row, stored)
        if is_same or (stored.size_bytes != row.size_bytes and stored.copy_id is None):
            return False
        with self._lock:
            self._extra_reads -= 1
            return self._extra_reads >= 0

    # -- repairs ----------------------------------------------------------------------------------------------------

    def _repair(self, folder: str, judged: Sequence[_Judged]) -> None:
        """Copy again, or renew the row, and put both into the manifest; the findings say what was done."""
        if not self._can_repair:
            return
        to_copy = [each for each in judged if any(finding.kind in _COPIED_AGAIN for finding in each.findings)]
        try:
            for start_at in range(0, len(to_copy), _EXTRA_READS):
                self._copy_again(to_copy[start_at : start_at + _EXTRA_READS])
        except (BucketError, LumaError) as error:
            self._can_repair = False
            self._problem("repairs", error)
        for each in judged:
            if each.patch is None and each.findings and all(finding.kind in _RENEWED for finding in each.findings):
                self._renew(each)
        changed = [each for each in judged if each.patch is not None]
        if not changed:
            return
        rows = [each.row for each in changed]
        done = replace_rows(
            self._dataset.partition(VIDEOS, folder), rows, [each.patch for each in changed if each.patch is not None]
        )
        for each in changed:
            if each.row not in done:
                each.findings = [
                    finding.with_repair(Repair.FAILED, "a run has changed the row meanwhile")
                    for finding in each.findings
                ]

    def _copy_again(self, judged: Sequence[_Judged]) -> None:
        provider = self._settings.provider
        if provider is None:
            raise BucketError("repairs need the provider, which this audit has not")
        if self._repairer is None:
            self._repairer = Repairer(self._opened, self._settings.videos, provider, self._settings.link_preference)
        results = self._repairer.copy_again([each.row for each in judged])
        for each, result in zip(judged, results, strict=True):
            self._take_copy(each, result)

    def _take_copy(self, judged: _Judged, result: CopyResult | None) -> None:
        if result is not None and result.status is CopyStatus.COPIED:
            stored = self._bucket.head(result.bucket, str(result.key))
            if stored is not None and (stored.size_bytes, stored.etag) == (
                result.size_bytes,
                result.etag or stored.etag,
            ):
                judged.patch = row_after(result)
                same = "the same bytes" if result.sha256 == judged.row.sha256 else "other bytes than the manifest had"
                judged.findings = [
                    finding.with_repair(Repair.COPIED_AGAIN, f"copied again: {same}")
                    if finding.kind is not Kind.REPEATED_KEY
                    else finding
                    for finding in judged.findings
                ]
                return
        words = "no such artifact is known" if result is None else f"{result.error_code}: {result.error_message}"
        is_gone = result is not None and result.error_code in _GONE
        judged.findings = [
            finding.with_repair(Repair.LOST if is_gone and finding.kind.is_loss else Repair.FAILED, words)
            if finding.kind in _COPIED_AGAIN
            else finding
            for finding in judged.findings
        ]

    def _renew(self, judged: _Judged) -> None:
        """Take into the row what the store says of an object whose bytes are right."""
        row, looked = judged.row, judged.looked
        if looked is None or looked.digest is None:
            again = self._looked(row, is_read=True)
            looked = again if isinstance(again, Looked) else None
        if looked is None or looked.stored is None or looked.digest is None:
            return
        stored = looked.stored
        is_right = looked.digest == row.sha256 if row.has_digest else self._may_be_believed(row, stored)
        if is_right:
            judged.patch = {
                "status": CopyStatus.ALREADY_PRESENT.value,
                "sha256": looked.digest,
                "etag": stored.etag,
                "copied_at": stored.modified_at,
            }
            judged.findings = [finding.with_repair(Repair.ROW_RENEWED) for finding in judged.findings]

    @staticmethod
    def _may_be_believed(row: ManifestRow, stored: StoredObject) -> bool:
        """Whether an object without a known digest is the row's by its own metadata, as a run would take it."""
        return stored.size_bytes == row.size_bytes and stored.belongs_to(row.task_id, row.artifact)

    # -- what is in no manifest, or twice ---------------------------------------------------------------------------

    def _find_duplicates(self, index: ManifestIndex) -> None:
        """Objects under different keys that have the same bytes: the first thousand are in the report."""
        places = index.duplicates()
        firsts: dict[int, str] = {}
        told = 0
        for partition in index.partitions if len(places) else ():
            end = self._rows_end(index, partition.first_row)
            within = np.isin(index.places[partition.first_row : end], places)
            keys = dict.fromkeys(index.keys[partition.first_row : end][within].tolist())
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
                self._problem(f"duplicates in {partition.folder}", error)
        self._findings.counts[Kind.DUPLICATE] = max(told, index.duplicate_objects)

    @staticmethod
    def _rows_end(index: ManifestIndex, first_row: int) -> int:
        return min((each.first_row for each in index.partitions if each.first_row > first_row), default=len(index))

    def _rows(self, folder: str, keys: Mapping[int, Any], bucket: str) -> Iterator[ManifestRow]:
        for rows in read_rows(self._dataset, folder, keys, bucket):
            yield from rows

    def _judge_orphans(self, index: ManifestIndex, orphans: Orphans) -> None:
        self._others["not_ours"], self._others["young_orphans"] = orphans.of_others, orphans.young
        if not orphans.candidates:
            return
        if self._unread_partitions:
            self._problems.append(
                f"{orphans.candidates} objects are in none of the manifests that could be read: whether they are "
                "orphaned is told when all can be"
            )
            return
        refusal = self._why_nothing_is_deleted(index, orphans)
        if refusal and self._options.delete_orphans:
            self._problems.append(f"no orphaned object was deleted: {refusal}")
        try:
            added = self._keys_since(index)
            for keys in orphans:
                left = [key for key in keys if hash(key) not in added]
                for finding in self._pool.map(partial(self._orphan, is_deleted=not refusal), left):
                    if finding is not None:
                        self._findings.add(finding)
        except DatasetError as error:
            self._problem("orphaned objects", error)
        except (BucketError, CopyError) as error:
            self._problem("orphaned objects", error)

    def _why_nothing_is_deleted(self, index: ManifestIndex, orphans: Orphans) -> str:
        if not self._options.delete_orphans:
            return "it was not asked for"
        if not self._is_listed:
            return "the listing is not complete"
        if self._others["missing_partitions"]:
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
        stored = self._bucket.head(self._bucket.name, key)
        if stored is None or (stored.modified_at is not None and stored.modified_at > self._since):
            return None
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

    # -- the report -------------------------------------------------------------------------------------------------

    def _problem(self, what: str, error: Exception) -> None:
        self._bucket.check_stop()
        self._problems.append(f"{what}: {error}")
        self._tell(f"not looked at: {what}: {error}")

    def _report(self, index: ManifestIndex) -> AuditSummary:
        self._bucket.check_stop()
        findings = self._findings
        folder = f"audit={self._now:%Y-%m-%dT%H%M%S%fZ}"
        written = self._dataset.partition(AUDIT, folder).replace(AUDIT_SCHEMA, findings.tables())
        summary = AuditSummary(
            self._now,
            partitions=len(index.partitions),
            rows=len(index),
            listed=self._listed,
            read=self._read_objects,
            bytes_read=self._read_bytes,
            others={name: count for name, count in self._others.items() if count},
            counts=_counts(findings.counts),
            repaired=_counts(findings.repaired),
            errors=findings.errors,
            warnings=findings.warnings,
            problems=tuple(self._problems),
            examples=tuple(_example(finding) for finding in findings.examples),
            path=written.path,
        )
        if not self._options.is_limited:
            self._dataset.audits().put_last(summary)
        return summary


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
