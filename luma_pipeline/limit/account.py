"""The limit room: what the runs of one account know together, and how the next slots are given out.

Nothing here waits or asks a database: a state and a time give the next state. The time is the database's own, so the
clocks of the machines do not matter.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from luma_pipeline.limit.token_bucket import TokenBucket

__all__ = ["AccountState", "Grant", "Wish"]

_CYCLE = 0.25
"""Seconds for which the slots of each run suffice. So a refusal that one run meets is soon known to all."""
_LONGEST_CYCLE = 2.0
"""Seconds: the same with a database that is slow to answer."""
_GRACE = 2.0
"""Seconds after its last slot in which a run counts as one that shares: it is busy with its answers."""
_MOST_AHEAD = 60.0
"""Seconds: no slot is further ahead than this, whatever the row says, beside a hold."""
_MOST_HOLD = 3600.0
"""Seconds: the longest hold, and the longest stay of a run, that the row is believed."""
_LEAST_SHARE = 0.1
"""What refusals leave of the rate at least."""


@dataclass(frozen=True)
class Wish:
    """What a run says when it asks for slots.

    run: Its name in the row, of its own.
    requests_per_second: The account's limit by the run's settings.
    burst: Requests that may leave at once by its settings.
    slots: Slots that it can use; 0 only tells what it has met.
    cycle: Seconds for which slots have to suffice, because the database is far.
    refused: Whether it was refused since its last wish.
    hold: Seconds that a refusal named (`Retry-After`), less those since.
    """

    run: str
    requests_per_second: float
    burst: int = 1
    slots: int = 1
    cycle: float = _CYCLE
    refused: bool = False
    hold: float = 0.0


@dataclass(frozen=True)
class Grant:
    """Slots of one run: `slots` of them, `gap` seconds apart, the first at `first` by the database's clock.

    cycle: Seconds for which the slots of each run suffice.
    runs: How many share the account, this one included.
    requests_per_second: The account's limit: the lowest that a run's settings have.
    rate: Requests a second that are allowed now: the limit less what refusals took.
    """

    first: float
    gap: float
    slots: int
    cycle: float
    runs: int
    requests_per_second: float
    rate: float


@dataclass(frozen=True)
class _Run:
    """A run that shares: until when, and its settings. A run that was killed is not counted from `until` on."""

    until: float
    requests_per_second: float
    burst: int
    cycle: float


@dataclass(frozen=True)
class AccountState:
    """The row of one account. Times are seconds of the database's clock.

    next_free: When the next slot is that nobody has (the "theoretical arrival time" of GCRA, ITU-T I.371).
    held_until: No slot is given before: the provider named a time to come back.
    seen_at: When the state was last changed.
    share: What refusals leave of the limit, as of `share_at`. It rises from there, as a `TokenBucket`'s does.
    runs: Who shares, by name.
    """

    next_free: float = 0.0
    held_until: float = 0.0
    seen_at: float = 0.0
    share: float = 1.0
    share_at: float = 0.0
    runs: Mapping[str, _Run] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> AccountState:
        """The state that `to_json` wrote; a new one where the text is none, as after another program's hand.

        >>> AccountState.from_json(AccountState(next_free=2.5).to_json()).next_free
        2.5
        >>> AccountState.from_json("?") == AccountState()
        True
        """
        try:
            found = json.loads(text)
            runs = {str(name): _Run(**run) for name, run in found.pop("runs").items()}
            state = cls(**found, runs=runs)
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()
        return state if state._is_sound() else cls()

    def to_json(self) -> str:
        """The state as text."""
        return json.dumps(asdict(self))

    def granted(self, wish: Wish, now: float) -> tuple[AccountState, Grant]:
        """Give a run its next slots; returns the state afterwards, and the slots.

        A run gets as many as it can use, and at most its part of what all may send in a cycle. Runs that use all they
        get ask in turn, so each gets as much as the others. Slots that nobody uses pass by.

        >>> state, one = AccountState().granted(Wish("a", requests_per_second=100, slots=99), now=1000.0)
        >>> state, other = state.granted(Wish("b", requests_per_second=100, slots=99), now=1000.0)
        >>> (one.first, one.slots), (other.first, other.slots)
        ((1000.0, 25), (1000.25, 12))
        """
        state = self._at(now)
        runs = {name: run for name, run in state.runs.items() if run.until > now and name != wish.run}
        limit = min([wish.requests_per_second, *(run.requests_per_second for run in runs.values())])
        burst = min([wish.burst, *(run.burst for run in runs.values())])
        if wish.refused:
            state = state._after_refusal(now)
        rate = limit * state._share_at(now)
        held_until = max(state.held_until, now + min(wish.hold, _MOST_HOLD) if wish.hold > 0.0 else 0.0)
        # The longest cycle counts for all: with one of its own, a run would get more than the others.
        cycle = min(max([_CYCLE, wish.cycle, *(run.cycle for run in runs.values())]), _LONGEST_CYCLE)
        part = rate * cycle / (len(runs) + 1)
        slots = min(wish.slots, max(1, round(part)))
        latest = max(now, held_until) + _MOST_AHEAD + (len(runs) + 1) / rate
        first = max(min(state.next_free, latest), held_until, now - max((burst - 1) / limit, TokenBucket.CATCH_UP))
        end = first + slots / rate
        mine = _Run(end + _GRACE, wish.requests_per_second, wish.burst, wish.cycle)
        after = replace(
            state,
            next_free=end if slots else state.next_free,
            held_until=held_until,
            seen_at=now,
            runs={**runs, wish.run: mine},
        )
        return after, Grant(first, 1.0 / rate, slots, cycle, len(after.runs), limit, rate)

    def left_by(self, run: str, now: float) -> AccountState:
        """The state when a run has ended."""
        state = self._at(now)
        return replace(state, seen_at=now, runs={name: of for name, of in state.runs.items() if name != run})

    def _at(self, now: float) -> AccountState:
        """The state with times that can be.

        A clock that was set back takes every time of the row with it. One that was set forward only lets what was
        waited for pass.
        """
        back = max(0.0, self.seen_at - now)
        return AccountState(
            self.next_free - back,
            min(self.held_until - back, now + _MOST_HOLD),
            now,
            self.share,
            self.share_at - back,
            {name: replace(run, until=min(run.until - back, now + _MOST_HOLD)) for name, run in self.runs.items()},
        )

    def _after_refusal(self, now: float) -> AccountState:
        """Take a little off the rate; refusals within a second count once, whoever met them."""
        if self.share < 1.0 and now - self.share_at <= TokenBucket.DEAF:
            return self
        return replace(self, share=max(_LEAST_SHARE, TokenBucket.FALL * self._share_at(now)), share_at=now)

    def _share_at(self, now: float) -> float:
        return min(1.0, self.share + TokenBucket.RISE * max(0.0, now - self.share_at))

    def _is_sound(self) -> bool:
        times = (self.next_free, self.held_until, self.seen_at, self.share_at)
        return (
            all(_is_number(time) for time in times)
            and _is_number(self.share)
            and 0.0 < self.share <= 1.0
            and all(
                all(_is_number(value) for value in (run.until, run.requests_per_second, run.burst, run.cycle))
                and run.requests_per_second > 0
                and run.burst >= 1
                for run in self.runs.values()
            )
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
