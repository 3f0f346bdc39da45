"""The engine: the manifest as earlier runs left it, and what a run does about each artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from luma_pipeline.dataset import PartitionFile, Written
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA, Identities
from luma_pipeline.dataset.rows import Positions, take_rows
from luma_pipeline.dataset.schema import fields_of
from luma_pipeline.engine.looks import Look
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.luma import GATEWAY, ProviderSpec
from luma_pipeline.media import Artifact, CopyStatus, ErrorCode, KnownObject, LinkSource, MediaFacts

__all__ = [
    "Action",
    "ChooseLook",
    "CopyDecision",
    "EarlierVideos",
    "Flags",
    "ManifestPolicy",
    "is_in_bucket",
    "is_of_bucket",
]

Flags = npt.NDArray[np.bool_]
ChooseLook = Callable[[Positions, Positions], Look]
"""Given the numbers of the rows whose objects are known, and when these were copied, in microseconds since 1970."""

_FINAL_ERRORS = frozenset(
    {
        # The answer is final and has none, and so has the provider when it is asked once more.
        ErrorCode.NO_LINK,
        # Another try asks the media host and the provider once more each, for what both have said already.
        ErrorCode.LINK_EXPIRED,
        # What came is the file, and where no length is promised another try fetches up to the limit again.
        ErrorCode.TOO_LARGE,
        # Another try fetches the whole file to find the same object under the key.
        ErrorCode.KEY_TAKEN,
    }
)
"""Why an old video is left alone. All the rest is tried again: faults on the way pass, `not_media`, `wrong_type` and
`encoded_body` are how error pages look, and what a setting or a name server forbids (`forbidden_host`,
`forbidden_address`, `bad_scheme`) costs next to nothing to refuse again."""
_STATE_COLUMNS = ("task_id", "artifact", "status", "bucket", "key", "error_code", "copied_at")
_KNOWN_COLUMNS = ("key", "size_bytes", "sha256", "etag", "content_type", "copied_at")
_FACT_COLUMNS = tuple(field.name for field in fields(MediaFacts))


@dataclass(frozen=True)
class ManifestPolicy:
    """Which artifacts are copied, over which of their links, and until when failures are tried again.

    `unwatermarked` asks the provider for a task's link without watermark. `bucket` is the copier's: what the manifest
    has in others is not known to be there; None takes any. `overwrite` is the copier's as well. `spec` says where the
    links of a generation are: that of the provider which has answered.
    """

    artifacts: tuple[Artifact, ...]
    link_preference: tuple[LinkSource, ...]
    give_up: GiveUpPolicy
    unwatermarked: Callable[[str], str | None] | None = None
    bucket: str | None = None
    overwrite: bool = False
    spec: ProviderSpec = GATEWAY


class Action(IntEnum):
    """What a run does about an artifact of a completed task."""

    NONE = 0
    """Its copy has begun already, or it is left as it is, since the manifest knows the object."""
    COPY = 1
    """Copied from the media host, unless it has come into the bucket by another way."""
    CONFIRM = 2
    """The manifest knows the object, which is looked at in the store."""
    FIND = 3
    """Given up and not fetched. It is found if it has come into the bucket by another way."""


class CopyDecision(NamedTuple):
    """Of some completed tasks, a row for each task and a column for each artifact: what is done, the number of the copy
    that has begun, and the number of the earlier row; -1 for none.

    `open_others` is how many copies of artifacts other than these are still to be tried again.
    """

    actions: npt.NDArray[np.int8]
    begun: Positions
    earlier: Positions
    open_others: int


class EarlierVideos:
    """The manifest as an earlier run left it. About 50 bytes a row; whole rows are read as they are needed."""

    def __init__(self, file: PartitionFile, policy: ManifestPolicy, choose_look: ChooseLook | None = None) -> None:
        self._policy = policy
        self._reader = file.open(whole=True)
        self._starts = np.cumsum([0, *self._reader.row_group_lengths])
        self._page: tuple[int, pa.Table] | None = None
        self.identities = Identities()
        final = pa.array(code.value for code in _FINAL_ERRORS if not (policy.overwrite and code is ErrorCode.KEY_TAKEN))
        artifacts = pa.array(artifact.value for artifact in policy.artifacts)
        flags = [np.zeros((4, 0), dtype=bool)]
        copied_at = [np.empty(0, dtype=np.int64)]
        for table in self._reader.batches(_STATE_COLUMNS, VIDEOS_SCHEMA):
            self.identities.extend(table)
            is_there = is_in_bucket(table["status"])
            is_final = pc.and_(pc.is_in(table["error_code"], value_set=final), pc.is_null(table["key"]))
            is_other = pc.invert(pc.is_in(table["artifact"], value_set=artifacts))
            columns = (is_there, is_of_bucket(table, policy.bucket), is_final, is_other)
            flags.append(np.stack([_flags(column) for column in columns]))
            copied_at.append(pc.fill_null(table["copied_at"].cast(pa.int64()), 0).to_numpy())
        self._is_there, self._is_ours, self._is_final, self._is_other = np.concatenate(flags, axis=1)
        known = np.flatnonzero(self._is_there & self._is_ours)
        self.look = Look(known[:0]) if choose_look is None else choose_look(known, np.concatenate(copied_at)[known])
        self._is_confirmed = np.zeros(len(self), dtype=bool)
        self._is_confirmed[self.look.numbers] = True

    def __len__(self) -> int:
        return len(self.identities)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def written(self) -> Written | None:
        """What is told of the file where all rows stay as they are; None where they make another file today."""
        return self._reader.written(VIDEOS_SCHEMA)

    def look_at_all(self) -> None:
        """Have all objects looked at that the manifest knows."""
        self.look = Look(np.flatnonzero(self._is_there & self._is_ours), is_whole=True)
        self._is_confirmed[self.look.numbers] = True

    def is_known(self, number: int) -> bool:
        """Whether the row with this number has an object in the bucket."""
        return number >= 0 and bool(self._is_there[number] and self._is_ours[number])

    def decide(
        self, tasks: pa.Table, begun: Identities | None = None, *, is_given_up_kept: bool = True
    ) -> CopyDecision:
        """What a run does about completed tasks, a table with `task_id` and `submitted_at`.

        `begun` are the copies that have begun. `is_given_up_kept` is false where new answers bring new links.
        """
        task_ids, policy = tasks["task_id"].combine_chunks(), self._policy
        is_old = self._is_old(tasks)
        earlier = _by_artifact(self.identities, task_ids, policy.artifacts)
        numbers = _by_artifact(begun or Identities(), task_ids, policy.artifacts)
        actions = np.full(earlier.shape, Action.COPY, dtype=np.int8)
        if not policy.overwrite:
            actions[_at(self._is_there & self._is_ours, earlier)] = Action.NONE
            actions[_at(self._is_confirmed & self._is_ours, earlier)] = Action.CONFIRM
        if is_given_up_kept:
            given_up = _at(self._is_final & self._is_ours, earlier) & is_old[:, np.newaxis]
            # Where everything is copied again nothing is searched for.
            actions[given_up] = Action.NONE if policy.overwrite else Action.FIND
        actions[numbers >= 0] = Action.NONE
        return CopyDecision(actions, numbers, earlier, self._open_others(task_ids, is_old))

    def known(self, number: int) -> KnownObject | None:
        """The object that a row says is in the bucket, also where the last copy of it failed."""
        if number < 0 or not self._is_ours[number]:
            return None
        group = int(np.searchsorted(self._starts, number, side="right")) - 1
        if self._page is None or self._page[0] != group:
            self._page = group, self._reader.row_group(group, (*_KNOWN_COLUMNS, *_FACT_COLUMNS), VIDEOS_SCHEMA)
        within = number - int(self._starts[group])
        row = self._page[1].slice(within, 1).to_pylist()[0]
        # An object in an archive can have no digest: it was found there, and cannot be read.
        if row["key"] is None or row["size_bytes"] is None:
            return None
        facts = MediaFacts(**{name: row.pop(name) for name in _FACT_COLUMNS})
        return KnownObject(**row, facts=facts)

    def take(self, numbers: Positions, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows with these numbers, in their order; all columns or some."""
        if not len(numbers):
            return fields_of(VIDEOS_SCHEMA, columns).empty_table()
        groups = np.searchsorted(self._starts, numbers, side="right") - 1

        def load(group: int) -> pa.Table:
            return self._reader.row_group(group, columns, VIDEOS_SCHEMA)

        return take_rows(load, groups, numbers - self._starts[groups])

    def to_keep(self, decisions: Iterable[CopyDecision]) -> Positions:
        """Rows that stay as they are: of artifacts that were not asked about, and of objects whose task is gone."""
        is_kept = self._is_other | self._is_there
        for decision in decisions:
            is_kept[decision.earlier[decision.earlier >= 0]] = False
        return np.flatnonzero(is_kept)

    def _is_old(self, tasks: pa.Table) -> Flags:
        return _flags(self._policy.give_up.on_all(tasks["submitted_at"]))

    def _open_others(self, task_ids: pa.Array, is_old: Flags) -> int:
        if not self._is_other.any():
            return 0
        others = [artifact for artifact in Artifact if artifact not in self._policy.artifacts]
        earlier = _by_artifact(self.identities, task_ids, others)
        return int((_at(~self._is_there, earlier) & ~is_old[:, np.newaxis]).sum())


def is_in_bucket(statuses: pa.ChunkedArray) -> pa.ChunkedArray:
    """For each row whether its object is in the bucket, by the row's status."""
    return pc.or_(*(pc.equal(statuses, status.value) for status in (CopyStatus.COPIED, CopyStatus.ALREADY_PRESENT)))


def is_of_bucket(table: pa.Table, bucket: str | None) -> pa.ChunkedArray:
    """For each row whether its object is in this bucket; None: in any."""
    return pc.is_valid(table["bucket"]) if bucket is None else pc.equal(table["bucket"], bucket)


def _by_artifact(identities: Identities, task_ids: pa.Array, artifacts: Sequence[Artifact]) -> Positions:
    if not len(identities):
        return np.full((len(task_ids), len(artifacts)), -1, dtype=np.int64)
    return np.stack([identities.find(task_ids, artifact.value) for artifact in artifacts], axis=1)


def _at(flags: Flags, numbers: Positions) -> Flags:
    """The flags with these numbers, False for -1."""
    return np.append(flags, False)[numbers]


def _flags(column: pa.ChunkedArray | pa.Array) -> Flags:
    flags: Flags = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
    return flags
