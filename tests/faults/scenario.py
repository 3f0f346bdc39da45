"""What happens in a round of the soak: everything that is chosen follows from the round's seed."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass, field
from typing import Any

EVENTS = (
    "random moment",
    "part",
    "before Complete",
    "random moment",
    "after Complete",
    "mark",
    "before rename",
    "random moment",
    "after rename",
    "before object",
    "after object",
    "random moment",
    "checkpoint",
    "delete",
)
"""When a signal is sent. Those of local data roots are seen by the run's process, all others by the store's proxy.

On S3 a dataset's file has no rename: its PUT is meant. An `object` is a video of one part."""
MULTIPART_EVENTS = {"part", "before Complete", "after Complete"}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Kill:
    """A signal, and when it is sent: `seconds` after the start, or at the nth `event`. Later ones are `seconds` late.

    An event that has not come within the round's patience is not waited for: the signal is sent then.
    """

    kind: signal.Signals
    event: str
    nth: int
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """Runs that begin together and are disturbed: for each the signal that ends it, None for one that is left alone."""

    kills: tuple[Kill | None, ...]
    config: dict[str, Any]
    crash_after_seconds: float | None


@dataclass(frozen=True)
class Rates:
    """How often a request meets a fault, 0..1, and the kinds of faults of this round."""

    provider: float = 0.0
    media: float = 0.0
    store: float = 0.0
    kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)


PROVIDER_FAULTS = ("429", "500", "502 page", "503", "drop", "stall", "cut body", "no JSON", "slow")
MEDIA_FAULTS = ("cut", "stall", "wrong length", "short", "403", "404", "410", "503", "page", "slow")
STORE_FAULTS = ("500", "503", "slow", "cut before", "cut after", "refused Complete")


@dataclass(frozen=True)
class Scenario:
    """A round: where its data are, what is submitted, and what is done to its runs."""

    seed: int
    root: str
    source: str
    days: int
    tasks: int
    is_large: bool
    large_videos: int
    batch_size: str | None
    artifacts: tuple[str, ...]
    requests_per_second: float | None
    latency_seconds: float
    rates: Rates
    attempts: tuple[Attempt, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """What the summary counts rounds by."""
        found = [f"data root {self.root}", f"source {self.source}"]
        if any(len(attempt.kills) > 1 for attempt in self.attempts):
            found.append("two runs at once")
        if self.is_large:
            found.append("over 2,000 tasks")
        if any(attempt.config.get("refresh") for attempt in self.attempts):
            found.append("refresh")
        if self.batch_size:
            found.append("batch mode")
        if len(self.artifacts) > 1:
            found.append("several artifacts")
        if any(attempt.crash_after_seconds is not None for attempt in self.attempts):
            found.append("database broken")
        return tuple(found)


def scenario(seed: int) -> Scenario:
    """The round of a seed. Seeds in a row take turns in what the rounds have to have."""
    chance = random.Random(seed)
    is_large = seed % 8 == 5
    root = ("local", "s3")[seed % 2]
    attempts = tuple(_attempt(seed, number, chance, is_large) for number in range(chance.choice((1, 1, 1, 2))))
    events = {kill.event for attempt in attempts for kill in attempt.kills if kill is not None}
    multipart = bool(events & MULTIPART_EVENTS) and not is_large
    return Scenario(
        seed=seed,
        root=root,
        source=("sqlite", "sqlite", "postgresql", "postgresql")[seed % 4],
        days=1 if is_large else chance.choice((1, 2, 3)),
        tasks=2_050 if is_large else chance.choice((6, 12, 25)),
        is_large=is_large,
        large_videos=chance.choice((1, 2)) if multipart else 0,
        batch_size=chance.choice(("auto", "7", "50")) if seed % 5 == 4 else None,
        artifacts=("video", "thumbnail", "last_frame") if seed % 4 == 1 and not is_large else ("video",),
        requests_per_second=chance.choice((30.0, 100.0)) if chance.random() < 0.3 and not is_large else None,
        latency_seconds=0.0 if is_large else chance.choice((0.0, 0.05, 0.3)),
        rates=_rates(chance, is_large),
        attempts=attempts,
    )


def _rates(chance: random.Random, is_large: bool) -> Rates:
    def some(kinds: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(chance.sample(kinds, chance.randint(2, 4)))

    kinds = {"provider": some(PROVIDER_FAULTS), "media": some(MEDIA_FAULTS), "store": some(STORE_FAULTS)}
    provider = chance.choice((0.0, 0.002, 0.005)) if is_large else chance.choice((0.0, 0.05, 0.2))
    return Rates(provider, chance.choice((0.0, 0.1, 0.4)), chance.choice((0.0, 0.03, 0.1)), kinds)


def _attempt(seed: int, number: int, chance: random.Random, is_large: bool) -> Attempt:
    is_at_once = seed % 3 == 0
    turn = seed // 2 + number * 5
    kills: list[Kill | None] = [_kill(turn, chance, is_large)]
    if is_at_once:
        kills.append(_kill(turn + 3, chance, is_large) if chance.random() < 0.5 else None)
    config: dict[str, Any] = {"refresh": True} if (number and chance.random() < 0.5) or chance.random() < 0.1 else {}
    crash = chance.uniform(0.0, 1.0) if chance.random() < 0.35 else None
    return Attempt(tuple(kills), config, crash)


def _kill(turn: int, chance: random.Random, is_large: bool) -> Kill:
    event = EVENTS[turn % len(EVENTS)]
    if event in MULTIPART_EVENTS and is_large:
        event = "checkpoint"
    elif event == "checkpoint" and not is_large:
        event = "random moment"
    kind = chance.choice(SIGNALS)
    nth = chance.choice((1, 1, 2)) if event in {"mark", "checkpoint", "delete"} else 1
    return Kill(kind, event, nth, chance.uniform(0.2, 4.0 if is_large else 2.5))


def is_mark(path: str) -> bool:
    """Whether a path below the data root is a mark or a verdict."""
    return path.startswith(("_open/", "_unfinished/", "_verdicts/"))
