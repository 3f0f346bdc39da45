"""Runs that share nothing but the provider's refusals: their shares of its limit, in simulated time.

The bounds are what the mean of some seeds keeps. `benchmarks/limit.py` has the figures of real processes.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from luma_pipeline.limit import AdaptiveRateLimiter
from tests.limit.simulation import (
    Clock,
    FixedWindow,
    Limiter,
    Report,
    RetryAfter,
    Run,
    SlidingWindow,
    Stray,
    Switch,
    TokenLimiter,
    simulate_runs,
)

SEEDS = range(4)


@dataclass(frozen=True)
class Case:
    """Runs with `tasks` each, `stagger` seconds apart, and the most that comes of them.

    `time` is a share of tasks through limit, `refused` of the requests; `unfair` is the slowest run's time through the
    fastest's.
    """

    runs: int
    tasks: int
    rate: float
    retry_after: RetryAfter = None
    stagger: float = 0.0
    time: float = 1.15
    refused: float = 0.02
    unfair: float = 1.3
    latency: float = 0.05
    limiter: Callable[[], Limiter] | None = None

    def __str__(self) -> str:
        return f"{self.runs}x{self.tasks}-{self.rate:g}-{self.retry_after}-{self.stagger:g}-{self.latency:g}"


def run_case(case: Case, seed: int) -> tuple[float, float, float]:
    clock = Clock()
    limiter = TokenLimiter(case.rate, case.rate / 10) if case.limiter is None else case.limiter()
    chance = random.Random(seed)
    # Processes that are started together begin within some hundredths of a second.
    starts = [number * case.stagger + 0.05 * chance.random() for number in range(case.runs)]
    runs = [Run(AdaptiveRateLimiter(clock), case.tasks, start) for start in starts]
    reports = simulate_runs(runs, clock, limiter, latency=case.latency, retry_after=case.retry_after, seed=seed)
    return took(reports) / (case.runs * case.tasks / case.rate), share_refused(reports), unfairness(reports)


def took(reports: list[Report]) -> float:
    return max(report.ended for report in reports) - min(report.started for report in reports)


def share_refused(reports: list[Report]) -> float:
    return sum(report.refused for report in reports) / sum(report.requests for report in reports)


def unfairness(reports: list[Report]) -> float:
    return max(report.seconds for report in reports) / min(report.seconds for report in reports)


CASES = [
    Case(1, 300, 100, 1.0, refused=0.03),
    Case(1, 300, 50, 2.0, time=1.25, refused=0.025),
    Case(1, 3000, 100, 1.0, time=1.03),
    Case(2, 300, 100, 1.0, time=1.2, refused=0.025),
    Case(2, 1000, 100, 2.0, time=1.2, unfair=1.4),
    Case(4, 1000, 100, 1.0, time=1.2, unfair=1.6),
    Case(4, 1000, 50, unfair=1.5, refused=0.025),
    Case(4, 1000, 100, None, 1.0, time=1.25, unfair=2.5),
    Case(8, 300, 50, 2.0, time=1.2, refused=0.06, unfair=1.7),
    Case(8, 300, 50, 2.0, 1.0, time=1.15, refused=0.06, unfair=2.2),
    Case(8, 1000, 100, 1.0, unfair=1.6, refused=0.025),
    Case(4, 500, 50, latency=0.5, time=1.25, refused=0.06, unfair=1.8),
    Case(4, 500, 100, latency=0.02, time=1.35, refused=0.03, unfair=2.6),
    Case(4, 1000, 100, "exact", limiter=lambda: FixedWindow(100), time=1.3, refused=0.06, unfair=1.8),
    Case(4, 1000, 100, limiter=lambda: SlidingWindow(100), time=1.3, refused=0.06, unfair=1.8),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_runs_share_a_limit(case: Case) -> None:
    time, refused, unfair = map(statistics.fmean, zip(*(run_case(case, seed) for seed in SEEDS), strict=True))
    assert time < case.time
    assert refused < case.refused
    assert unfair < case.unfair


def shares(clock: Clock, starts: list[float], tasks: list[int], limiter: Limiter, seed: int) -> list[Report]:
    runs = [Run(AdaptiveRateLimiter(clock), count, start) for count, start in zip(tasks, starts, strict=True)]
    return simulate_runs(runs, clock, limiter, retry_after=1.0, seed=seed)


def test_a_run_that_comes_late_gets_its_share() -> None:
    """Two minutes after the first, for a minute at least: it would take 60 s for half of the limit."""
    seconds = [shares(Clock(), [0.0, 120.0], [30_000, 3_000], TokenLimiter(100, 10), seed)[1].seconds for seed in SEEDS]
    assert statistics.fmean(seconds) < 1.4 * 60.0


def test_what_a_run_leaves_is_used_by_the_others() -> None:
    """Of two runs one ends after a minute. The other has 6,000 tasks more, for which the whole limit is there."""
    reports = [shares(Clock(), [0.0, 0.0], [3_000, 9_000], TokenLimiter(100, 10), seed) for seed in SEEDS]
    assert statistics.fmean(took(each) for each in reports) < 1.1 * 120.0


@pytest.mark.parametrize("then", [50.0, 200.0], ids=["halved", "doubled"])
def test_a_limit_that_moves_is_followed_by_all(then: float) -> None:
    limiter = [Switch(TokenLimiter(100, 10), 60.0, TokenLimiter(then, then / 10)) for _ in SEEDS]
    reports = [shares(Clock(), [0.0] * 4, [3_000] * 4, limiter[seed], seed) for seed in SEEDS]
    ideal = 60.0 + (12_000 - 6_000) / then
    assert statistics.fmean(took(each) for each in reports) < 1.2 * ideal
    assert statistics.fmean(map(share_refused, reports)) < 0.025


@pytest.mark.parametrize(("share", "least"), [(0.01, 20.0), (0.05, 3.0)])
def test_stray_refusals_slow_a_run_down_and_do_not_stop_it(share: float, least: float) -> None:
    """They look like a limit. A set rate is the way out."""
    reports = [shares(Clock(), [0.0], [1_000], Stray(share, TokenLimiter(100, 10), seed), seed)[0] for seed in SEEDS]
    assert statistics.fmean(1_000 / report.seconds for report in reports) > least
