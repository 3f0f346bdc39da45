"""The audit's room: which objects are read in which audit.

Every object has a place on a dial, by the SHA-256 of its bytes. A hand goes round the dial once in the time that the
settings say. An audit reads what the hand has passed since the audit before it. So each object has its turn in that
time, however many audits were left out. All that is kept is where the hand stands, and when it stood there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from luma_pipeline.dataset import Hand

__all__ = ["DIAL", "Span"]

DIAL = 2**64
"""Places on the dial."""
_FIRST = timedelta(days=1)
"""So much of the dial the first audit reads, as if there had been one a day ago."""


@dataclass(frozen=True)
class Span:
    """The part of the dial that one audit reads: `length` places from `start` on, in `parts` of the same length.

    The hand passed `start` at the time `begin`, and its end now. Where the hand is put back after some of the parts,
    the next audit goes on there.

    >>> now = datetime(2024, 12, 24, tzinfo=timezone.utc)
    >>> span = Span.until(now, Hand(0, now - timedelta(days=3)), timedelta(days=30))
    >>> span.length / DIAL
    0.1
    """

    start: int
    length: int
    begin: datetime
    now: datetime
    parts: int = 32

    @classmethod
    def until(cls, now: datetime, hand: Hand | None, period: timedelta) -> Span:
        """What is to be read now, where the hand goes round once in `period`; a period of zero: all."""
        hand = hand or Hand(0, now - min(_FIRST, period))
        if not period:
            return cls.whole(now, hand)
        elapsed = min(max(now - hand.at, timedelta(0)), period)
        return cls(hand.place, int(DIAL * (elapsed / period)), now - elapsed, now)

    @classmethod
    def whole(cls, now: datetime, hand: Hand | None) -> Span:
        """The whole dial."""
        return cls(0 if hand is None else hand.place, DIAL, now, now)

    def part_of(self, places: npt.NDArray[np.uint64]) -> npt.NDArray[np.int8]:
        """For each place the number of its part; -1 where it is not read."""
        offsets = places - np.uint64(self.start)  # modulo 2**64
        step = np.uint64(max(1, -(-self.length // self.parts)))
        parts = (offsets // step).astype(np.int8)
        if self.length < DIAL:
            parts[offsets >= np.uint64(self.length)] = -1
        return parts

    def hand_after(self, part: int) -> Hand:
        """Where the hand stands when this part has been read, counted from 0."""
        share = (part + 1) / self.parts
        place = self.start + (self.length if share == 1 else int(self.length * share))
        return Hand(place % DIAL, self.begin + (self.now - self.begin) * share)
