"""The dataset's room: what is kept between two audits, as small files under `_audit/`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from luma_pipeline.dataset.storage import Storage

__all__ = ["AuditSummary", "Audits", "Hand"]

_LAST, _HAND = "last.json", "hand.json"


@dataclass(frozen=True)
class AuditSummary:
    """What one audit found, in numbers. `audited_at` is aware, UTC; sizes are bytes.

    rows: Rows of the manifests that say that an object is in the bucket.
    listed: Objects below the prefix.
    read: Objects that were read to compute their SHA-256 again.
    counts, repaired: Findings of each kind, and how many of them were repaired.
    errors, warnings: Findings of each severity that were not repaired.
    problems: What could not be looked at, in words.
    examples: The first findings that are errors or warnings.
    path: Where the report is.
    """

    audited_at: datetime
    partitions: int = 0
    rows: int = 0
    listed: int = 0
    read: int = 0
    bytes_read: int = 0
    others: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    repaired: Mapping[str, int] = field(default_factory=dict)
    errors: int = 0
    warnings: int = 0
    problems: Sequence[str] = ()
    examples: Sequence[Mapping[str, str]] = ()
    path: str = ""

    @property
    def is_well(self) -> bool:
        """Whether all was looked at, and is as the manifests say or was made so."""
        return not (self.errors or self.warnings or self.problems)


@dataclass(frozen=True)
class Hand:
    """How far the reading has come: a place on the dial, 0 to 2**64 - 1, where it stood at a time (aware, UTC)."""

    place: int
    at: datetime


class Audits:
    """What audits leave for those after them."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    def last(self) -> AuditSummary | None:
        """What the last audit of all partitions found; None if there was none, or one of another version."""
        found = self._read(_LAST)
        try:
            return None if found is None else AuditSummary(**{**found, "audited_at": _time(found["audited_at"])})
        except (KeyError, TypeError, ValueError):
            return None

    def put_last(self, summary: AuditSummary) -> None:
        """Keep what an audit found."""
        self._write(_LAST, {**asdict(summary), "audited_at": summary.audited_at.isoformat()})

    def hand(self) -> Hand | None:
        """How far the reading has come; None if nothing was read yet, or the file cannot be read."""
        found = self._read(_HAND)
        try:
            return None if found is None else Hand(int(found["place"], 16), _time(found["at"]))
        except (KeyError, TypeError, ValueError):
            return None

    def put_hand(self, hand: Hand) -> None:
        """Keep how far the reading has come."""
        self._write(_HAND, {"place": f"{hand.place:016x}", "at": hand.at.isoformat()})

    def _read(self, name: str) -> Any:
        try:
            opened = self._storage.open(f"{self._folder}/{name}", whole=True)
        except FileNotFoundError:
            return None
        with opened.source as file:
            content = file.read()
        try:
            return json.loads(content)
        except ValueError:
            return None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        self._storage.write(f"{self._folder}/{name}", json.dumps(content).encode())


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(text)
    return found
