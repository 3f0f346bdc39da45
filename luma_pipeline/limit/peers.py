"""The limit room: what the runs of one account tell each other of their paces, and when a run looks.

Nothing here reads or writes. Whoever does gives `AdaptiveRateLimiter` a `PeerBoard`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

__all__ = ["LookTimes", "Peer", "PeerBoard", "PeerError", "PeerWatch"]

_VERSION = 1
_LARGEST_RATE = 1e6
_MOST_RUNS = 10_000


class PeerError(ValueError):
    """What another run tells cannot be used. The message says why, and quotes nothing of it but numbers."""


@dataclass(frozen=True)
class Peer:
    """What a run tells the others.

    rate: Requests per second that all runs may send together, as far as this run knows.
    pace: Requests per second that it sends at the moment.
    met: The names of the other runs that it counts. It sends `rate` / `runs`.
    is_own: Its rate was found without the others: what they send is not in it unless it has met them.
    is_refused: Whether it has been refused.
    is_measured: Whether its rate is a limit that was measured, by it or by those it knows it from.
    refusals: How often it has lowered its rate.
    beat: Differs each time it is told.

    >>> Peer.parse(Peer(100.0, 48.0, frozenset({"b"}), False, True, True, 3).to_json()).runs
    2
    """

    rate: float
    pace: float
    met: frozenset[str]
    is_own: bool
    is_refused: bool
    is_measured: bool
    refusals: int
    beat: int = 0

    @property
    def runs(self) -> int:
        """How many share the rate, this run included."""
        return len(self.met) + 1

    @property
    def share(self) -> float:
        """Requests per second that it may send."""
        return self.rate / self.runs

    def to_json(self) -> bytes:
        """As it is told."""
        fields: dict[str, Any] = {
            "version": _VERSION,
            "rate": round(self.rate, 3),
            "pace": round(self.pace, 3),
            "met": sorted(self.met),
            "is_own": self.is_own,
            "is_refused": self.is_refused,
            "is_measured": self.is_measured,
            "refusals": self.refusals,
            "beat": self.beat,
        }
        return json.dumps(fields).encode()

    @classmethod
    def parse(cls, content: bytes) -> Peer:
        """Read what `to_json` wrote. Raises PeerError for anything that no run can tell."""
        try:
            fields = json.loads(content)
            if fields["version"] == _VERSION:
                return cls._read(fields)
            version = fields["version"]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            if isinstance(error, PeerError):
                raise
            raise PeerError(f"it cannot be read ({type(error).__name__})") from None
        raise PeerError(f"it was written by version {version!r:.20} of this package's files")

    @classmethod
    def _read(cls, fields: dict[str, Any]) -> Peer:
        met = fields["met"]
        if not isinstance(met, list) or len(met) > _MOST_RUNS:
            raise PeerError("met is no list of runs")
        peer = cls(
            float(fields["rate"]),
            float(fields["pace"]),
            frozenset(map(str, met)),
            bool(fields["is_own"]),
            bool(fields["is_refused"]),
            bool(fields["is_measured"]),
            int(fields["refusals"]),
            int(fields["beat"]),
        )
        if not 0.0 < peer.rate <= _LARGEST_RATE:
            raise PeerError(f"rate is {peer.rate:g}, which is none")
        if not 0.0 <= peer.pace < math.inf:
            raise PeerError(f"pace is {peer.pace:g}, which is none")
        return peer


class PeerBoard(Protocol):
    """Where the runs of an account see one another."""

    @property
    def run(self) -> str:
        """The name of this run, of its own."""

    def begin(self) -> Mapping[str, Peer]:
        """The first request is about to leave: the others, by name. Takes a few seconds at most."""

    def hurry(self) -> None:
        """A request was refused, or requests leave again after a while: look soon. Returns at once."""


class PeerWatch:
    """Tells which runs are at work, by the times at which the store says that they told something.

    Clocks of machines differ by minutes. So times of the store are compared with each other, and what was told again
    while we looked is alive whatever its time is. `now` are our own monotonic seconds.
    """

    ALIVE = 15.0
    """Seconds within which a run tells something again."""
    OLD = timedelta(hours=1)
    """Age at which what a run has left behind is removed."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[datetime, float]] = {}

    def alive(self, told_at: Mapping[str, datetime], own_at: datetime | None, now: float) -> list[str]:
        """The names of the others that are at work.

        `told_at` is when each was told last, `own_at` when we told something by the same clock. While that is None, all
        count.
        """
        if own_at is None:
            return list(told_at)
        seen, self._seen = self._seen, {}
        for name, at in told_at.items():
            earlier = seen.get(name)
            if earlier is not None and earlier[0] == at:
                last = earlier[1]
            elif earlier is not None or own_at - at <= timedelta(seconds=self.ALIVE):
                last = now
            else:
                last = -math.inf
            self._seen[name] = at, last
        return [name for name, (_, last) in self._seen.items() if now - last <= self.ALIVE]

    def old(self, told_at: Mapping[str, datetime], clock: datetime) -> list[str]:
        """The names that nobody has told for so long that no run is behind them. `clock` is the store's time."""
        return [name for name, at in told_at.items() if clock - at > self.OLD]


class LookTimes:
    """When a run looks at the others, in monotonic seconds. Often while it begins, and soon after a refusal."""

    FIRST = 0.25
    """Seconds after the first request. A run that has ended by then, or soon, has told nothing."""
    THEN: Sequence[float] = (0.3, 0.4, 0.5, 0.5, *[1.0] * 30)
    LAST = 5.0
    """Seconds between looks: the next ones, and all after these."""
    HURRY = 0.2
    """Seconds between looks at least."""

    def __init__(self, now: float) -> None:
        self._looks = 0
        self._looked_at = now - self.HURRY
        self._due = now + self.FIRST

    def hurry(self, now: float) -> None:
        """Look as soon as that may be."""
        self._due = min(self._due, max(now, self._looked_at + self.HURRY))

    def looked(self, now: float) -> None:
        """It has looked."""
        self._looked_at = now
        self._due = now + (self.THEN[self._looks] if self._looks < len(self.THEN) else self.LAST)
        self._looks += 1

    def wait(self, now: float) -> float:
        """Seconds until it looks again."""
        return max(0.0, self._due - now)
