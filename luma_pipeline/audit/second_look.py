"""The audit's room: rows that seem wrong, looked at again as they are now, and repaired where that is asked for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from luma_pipeline.audit.bucket import AuditBucket
from luma_pipeline.audit.compare import Looked, differences, is_later, is_of_a_run_at_work
from luma_pipeline.audit.findings import Finding, Findings, Kind, Repair
from luma_pipeline.audit.lost import LostObjects
from luma_pipeline.audit.manifest import Flag, ManifestIndex, ManifestRow, read_rows
from luma_pipeline.audit.repair import Repairer, replace_rows
from luma_pipeline.audit.tally import Tally
from luma_pipeline.dataset import Dataset, DatasetError, Tombstones
from luma_pipeline.engine.partition import VIDEOS
from luma_pipeline.luma import LumaError
from luma_pipeline.media import BucketError, CopyError, CopyResult, CopyStatus, ErrorCode

__all__ = ["SecondLook"]

_COPIED_AT_ONCE = 1000
_GONE = frozenset({ErrorCode.NO_LINK.value, ErrorCode.LINK_EXPIRED.value})
_COPIED_AGAIN = frozenset(kind for kind in Kind if kind.is_loss) | {Kind.OTHER_TASK, Kind.WRONG_CONTENT_TYPE}
_RENEWED = frozenset({Kind.ETAG_DIFFERS, Kind.REWRITTEN, Kind.NO_DIGEST})


@dataclass
class _Judged:
    """What a look at a row found. `looked` is None where its object was not looked at.

    `patch` are the new values of the row after a repair.
    """

    row: ManifestRow
    findings: list[Finding]
    looked: Looked | None = None
    patch: Mapping[str, Any] | None = None


class SecondLook:
    """Looks at each flagged row again, and at its object.

    since: What was written later may belong to a run at work.
    reads: Objects that may be read because of what the listing tells.
    is_listed: Whether the bucket could be listed; if not, an answer without an object may mean that there is no bucket.
    repairer: Makes what repairs need, when the first is to be made; None: nothing is repaired.
    """

    def __init__(
        self,
        dataset: Dataset,
        bucket: AuditBucket,
        pool: ThreadPoolExecutor,
        findings: Findings,
        tally: Tally,
        tombstones: Tombstones,
        lost: LostObjects,
        *,
        since: datetime,
        reads: int,
        is_listed: bool,
        repairer: Repairer | None,
    ) -> None:
        self._dataset = dataset
        self._bucket = bucket
        self._pool = pool
        self._findings = findings
        self._tally = tally
        self._tombstones = tombstones
        self._lost = lost
        self._since = since
        self._reads = reads
        self._is_listed = is_listed
        self._repairer = repairer
        self._lock = threading.Lock()
        self._unread = 0
        self._broken: BucketError | None = None

    def do(self, index: ManifestIndex) -> set[str]:
        """Look at all flagged rows. What cannot be looked at becomes a problem of the tally.

        Returns the partitions whose manifests could not be read any more.
        """
        unread: set[str] = set()
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
                            self._lost.count(finding)
            except DatasetError as error:
                self._bucket.check_stop()
                self._tally.problem(f"what seems wrong in {partition.folder} was not looked at again", error)
                unread.add(partition.folder)
        if self._unread:
            self._tally.problem("objects could not be read", f"{self._unread}, see {Kind.UNREADABLE_OBJECT}")
        return unread

    @property
    def is_broken(self) -> bool:
        """Whether the store failed, so that not all was looked at."""
        return self._broken is not None

    def _still_repeated(self, index: ManifestIndex) -> frozenset[int]:
        """The keys, as hashes, that more than one row has now."""
        keys: Counter[int] = Counter()
        for partition, flags in index.suspects():
            if wanted := {key: flag for key, flag in flags.items() if flag & Flag.REPEATED}:
                try:
                    for rows in read_rows(self._dataset, partition.folder, wanted, index.bucket):
                        keys.update(row.key_hash(index.bucket) for row in rows)
                except DatasetError:  # told by the look at its rows
                    continue
        return frozenset(key for key, count in keys.items() if count > 1)

    # -- looking ----------------------------------------------------------------------------------------------------

    def _judge(self, folder: str, flags: Mapping[int, Flag], repeated: frozenset[int], row: ManifestRow) -> _Judged:
        key = row.key_hash(self._bucket.name)
        if self._tombstones.recent().has(row.task_id):
            if not flags[key] & Flag.FORGOTTEN:  # it is being forgotten
                return _Judged(row, [])
            # The report names no such task.
            found = Finding(
                Kind.FORGOTTEN, "no row: its task was forgotten", "a row", folder, None, row.artifact, row.key
            )
            return _Judged(row, [found])
        judged = _Judged(row, _row_findings(folder, row, is_repeated=key in repeated))
        if row.has_object and flags[key] & (Flag.LISTING | Flag.READING | Flag.ELSEWHERE):
            self._judge_object(folder, judged, is_read=bool(flags[key] & Flag.READING) or not self._is_listed)
        return judged

    def _judge_object(self, folder: str, judged: _Judged, *, is_read: bool) -> None:
        row, key = judged.row, str(judged.row.key)
        looked = self._look(row, is_read=is_read)
        if isinstance(looked, Looked) and self._is_to_be_read(row, looked):
            looked = self._look(row, is_read=True)
        if not isinstance(looked, Looked):
            with self._lock:
                self._unread += 1
            judged.findings.append(
                Finding(Kind.UNREADABLE_OBJECT, "an object", str(looked), folder, row.task_id, row.artifact, key)
            )
            return
        judged.looked = looked
        found = differences(row, looked, folder)
        if found and is_of_a_run_at_work(row, looked, self._since):
            self._tally.count("perhaps_of_a_run_at_work")
        else:
            judged.findings += found

    def _look(self, row: ManifestRow, *, is_read: bool) -> Looked | CopyError | BucketError:
        """Where the store fails for all it is asked no more: each row that is left is told as one that was not read."""
        if self._broken is not None:
            return self._broken
        try:
            return self._bucket.look(row.bucket, str(row.key), is_read=is_read)
        except BucketError as error:
            self._bucket.check_stop()
            with self._lock:
                self._broken = error
            return error

    def _is_to_be_read(self, row: ManifestRow, looked: Looked) -> bool:
        """Whether only the bytes tell what is so; within bounds, since each object of a restored bucket may ask it."""
        stored = looked.stored
        if stored is None or looked.digest is not None:
            return False
        if stored.size_bytes != row.size_bytes:
            is_of_interest = stored.belongs_to(row.task_id, row.artifact)
        else:
            is_of_interest = stored.etag != row.etag or is_later(row, stored)
        if not is_of_interest:
            return False
        with self._lock:
            self._reads -= 1
            return self._reads >= 0

    # -- repairing --------------------------------------------------------------------------------------------------

    def _repair(self, folder: str, judged: Sequence[_Judged]) -> None:
        """Copy again, or renew the row, and put both into the manifest; the findings say what was done."""
        if self._repairer is None:
            return
        to_copy = [each for each in judged if any(finding.kind in _COPIED_AGAIN for finding in each.findings)]
        try:
            for start in range(0, len(to_copy), _COPIED_AT_ONCE):
                some = to_copy[start : start + _COPIED_AT_ONCE]
                for each, result in zip(some, self._repairer.copy_again([each.row for each in some]), strict=True):
                    self._take_copy(each, result)
        except (BucketError, LumaError) as error:
            self._bucket.check_stop()
            self._repairer = None
            self._tally.problem("repairs were broken off", error)
        for each in judged:
            if each.findings and all(finding.kind in _RENEWED for finding in each.findings):
                self._renew(each)
        self._put(folder, [each for each in judged if each.patch is not None])

    def _put(self, folder: str, repaired: Sequence[_Judged]) -> None:
        """Put what was repaired into the manifest."""
        if not repaired:
            return
        patches = {each.row: each.patch or {} for each in repaired}
        done = replace_rows(self._dataset.partition(VIDEOS, folder), patches)
        for each in repaired:
            if each.row not in done:
                words = "a run has changed the row meanwhile"
                each.findings = [finding.with_repair(Repair.FAILED, words) for finding in each.findings]

    def _take_copy(self, judged: _Judged, result: CopyResult | None) -> None:
        if result is not None and result.status is CopyStatus.COPIED:
            looked = self._look(judged.row._replace(bucket=result.bucket, key=result.key), is_read=False)
            stored = looked.stored if isinstance(looked, Looked) else None
            if stored is not None and stored.size_bytes == result.size_bytes:
                judged.patch = Repairer.row_after(result)
                is_same = result.sha256 == judged.row.sha256
                same = "copied again, the same bytes" if is_same else "copied again, other bytes than the manifest had"
                self._say(judged, Repair.COPIED_AGAIN, same)
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
            again = self._look(row, is_read=True)
            looked = again if isinstance(again, Looked) else None
        if looked is None or looked.stored is None or looked.digest is None:
            return
        stored = looked.stored
        # Without a digest, the row is believed as a run would: by what the object says of itself.
        is_ours = stored.size_bytes == row.size_bytes and stored.belongs_to(row.task_id, row.artifact)
        if looked.digest == row.sha256 if row.has_digest else is_ours:
            judged.patch = {
                "status": CopyStatus.ALREADY_PRESENT.value,
                "sha256": looked.digest,
                "etag": stored.etag,
                "copied_at": stored.modified_at,
            }
            self._say(judged, Repair.ROW_RENEWED)

    @staticmethod
    def _say(judged: _Judged, repair: Repair, words: str = "") -> None:
        judged.findings = [
            finding if finding.kind is Kind.REPEATED_KEY else finding.with_repair(repair, words)
            for finding in judged.findings
        ]


def _row_findings(folder: str, row: ManifestRow, *, is_repeated: bool) -> list[Finding]:
    """What is wrong with a row whatever the store says."""
    place = (folder, row.task_id, row.artifact, row.key)
    found = []
    if not row.has_object:
        told = f"{row.key or 'no key'}, {'no size' if row.size_bytes is None else f'{row.size_bytes} bytes'}"
        found.append(Finding(Kind.NO_KEY, "a key and a size", told, *place))
    if not row.has_digest:
        found.append(Finding(Kind.NO_DIGEST, "a SHA-256", row.sha256 or "none", *place))
    if is_repeated:
        found.append(Finding(Kind.REPEATED_KEY, "one row with this key", "more than one", *place))
    return found
