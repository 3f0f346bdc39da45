"""Runs that see one another through the data root: their shares of the provider's limit, in simulated time.

The goals of `benchmarks/limit.py` are the bounds, and the mean of some seeds keeps them.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from luma_pipeline.limit import LearntLimit
from tests.limit.simulation import (
    Board,
    Clock,
    Limiter,
    Report,
    Stray,
    Switch,
    TokenLimiter,
    simulate_runs,
)
from tests.limit.test_many_runs import Case, share_refused, took, unfairness

SEEDS = range(6)

CASES = [
    *(
        Case(runs, 300, rate, after, stagger)
        for runs in (2, 4, 8)
        for rate, retry_after in ((100, 1.0), (50, 2.0))
        for after in (retry_after, None)
        for stagger in (0.0, 1.0)
    ),
    Case(4, 1000, 100, 1.0),
    Case(4, 1000, 100),
    Case(8, 1000, 100, 1.0),
    Case(4, 1000, 100, 1.0, 5.0),
]
"""Those of the benchmark."""


def run_case(case: Case, seed: int, store_latency: float = 0.01) -> tuple[float, float, float]:
    clock = Clock()
    board = Board(clock, store_latency)
    chance = random.Random(seed)
    starts = [number * case.stagger + 0.05 * chance.random() for number in range(case.runs)]
    runs = [board.run(f"run-{number}", case.tasks, start) for number, start in enumerate(starts)]
    limiter = TokenLimiter(case.rate, case.rate / 10)
    reports = simulate_runs(runs, clock, limiter, latency=case.latency, retry_after=case.retry_after, seed=seed)
    # The last of runs that start one after another cannot end before its own tasks are through.
    ideal = max(case.runs * case.tasks / case.rate, (case.runs - 1) * case.stagger + case.tasks / case.rate)
    return took(reports) / ideal, share_refused(reports), unfairness(reports)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_runs_that_see_one_another_share_a_limit(case: Case) -> None:
    time, refused, unfair = map(statistics.fmean, zip(*(run_case(case, seed) for seed in SEEDS), strict=True))
    assert time < 1.15
    assert refused < 0.02
    if not case.stagger:
        assert unfair < 1.3


@pytest.mark.parametrize("store_latency", [0.1, 0.5])
def test_a_store_that_is_slow_to_answer_costs_little(store_latency: float) -> None:
    case = Case(4, 1000, 100, 1.0)
    cases = (run_case(case, seed, store_latency) for seed in SEEDS)
    time, refused, unfair = map(statistics.fmean, zip(*cases, strict=True))
    assert time < 1.15
    assert refused < 0.03
    assert unfair < 1.3


@dataclass(frozen=True)
class Start:
    """A run of so many tasks, from so many seconds on, until it is killed, if it is."""

    tasks: int
    start: float = 0.0
    kill_after: float | None = None


def run(
    starts: Sequence[Start], limiter: Limiter, seed: int, board: Board, retry_after: float | None = 1.0
) -> list[Report]:
    runs = []
    for number, each in enumerate(starts):
        made = board.run(f"run-{number}", each.tasks, each.start)
        runs.append(made if each.kill_after is None else replace(made, kill_after=each.kill_after))
    return simulate_runs(runs, board.clock, limiter, retry_after=retry_after, seed=seed)


def runs(starts: Sequence[Start], limiter: Limiter, seed: int, retry_after: float | None = 1.0) -> list[Report]:
    return run(starts, limiter, seed, Board(Clock()), retry_after)


@pytest.mark.parametrize("retry_after", [1.0, None], ids=["1 s", "silent"])
@pytest.mark.parametrize("late", [2.0, 20.0, 120.0])
def test_a_run_that_comes_late_gets_its_share_at_once(late: float, retry_after: float | None) -> None:
    """It takes 12 s for 600 tasks at half of the limit."""
    found = [runs([Start(30_000), Start(600, late)], TokenLimiter(100, 10), seed, retry_after)[1] for seed in SEEDS]
    assert statistics.fmean(report.seconds for report in found) < 1.15 * 12.0


def test_seven_runs_that_come_late_leave_the_first_one_its_part() -> None:
    starts = [Start(3_000), *(Start(1_000, 10.0) for _ in range(7))]
    found = [runs(starts, TokenLimiter(100, 10), seed) for seed in SEEDS]
    assert statistics.fmean(took(each) for each in found) < 1.1 * 100.0
    assert statistics.fmean(map(share_refused, found)) < 0.02
    assert statistics.fmean(unfairness(each[1:]) for each in found) < 1.3


def test_what_a_run_leaves_is_used_by_the_others_at_once() -> None:
    """Of two runs one ends after a minute. The other has 6,000 tasks more, for which the whole limit is there."""
    found = [runs([Start(3_000), Start(9_000)], TokenLimiter(100, 10), seed) for seed in SEEDS]
    assert statistics.fmean(took(each) for each in found) < 1.05 * 120.0


def test_what_a_killed_run_leaves_is_used_by_the_others() -> None:
    """It is killed after 10 s. Of its part no more is lost than the others wait for a sign of it."""
    starts = [Start(3_000), Start(30_000, kill_after=10.0)]
    found = [runs(starts, TokenLimiter(100, 10), seed)[0] for seed in SEEDS]
    assert statistics.fmean(report.seconds for report in found) < 1.05 * (35.0 + 20.0 / 2)


def test_what_a_run_that_was_killed_long_ago_has_told_is_nothing() -> None:
    for seed in SEEDS:
        board = Board(Clock())
        run([Start(1_000, kill_after=5.0)], TokenLimiter(100, 10), seed, board)
        assert len(board.told) == 1
        board.clock.now += 600.0
        (report,) = run([replace(Start(1_001))], TokenLimiter(100, 10), seed, board)[:1]
        assert report.seconds < 1.15 * 10.0


@pytest.mark.parametrize("then", [50.0, 200.0], ids=["halved", "doubled"])
def test_a_limit_that_moves_is_followed_by_all(then: float) -> None:
    found = [
        runs([Start(3_000)] * 4, Switch(TokenLimiter(100, 10), 60.0, TokenLimiter(then, then / 10)), seed)
        for seed in SEEDS
    ]
    ideal = 60.0 + (12_000 - 6_000) / then
    assert statistics.fmean(took(each) for each in found) < 1.2 * ideal
    assert statistics.fmean(map(share_refused, found)) < 0.02
    assert statistics.fmean(map(unfairness, found)) < 1.3


@pytest.mark.parametrize(("share", "least"), [(0.01, 20.0), (0.05, 3.0)])
def test_stray_refusals_slow_runs_down_no_more_than_one(share: float, least: float) -> None:
    found = [runs([Start(500)] * 4, Stray(share, TokenLimiter(100, 10), seed), seed) for seed in SEEDS]
    assert statistics.fmean(2_000 / took(each) for each in found) > least
    assert statistics.fmean(map(unfairness, found)) < 1.3


def test_a_store_that_is_lost_in_the_middle_leaves_the_runs_to_their_refusals() -> None:
    """Four runs; what they tell is lost after 5 s. Then one of them ends, and another one comes."""
    found = []
    for seed in SEEDS:
        board = Board(Clock())
        starts = [Start(1_000), Start(3_000), Start(3_000), Start(3_000), Start(500, 20.0)]
        made = [board.run(f"run-{number}", each.tasks, each.start) for number, each in enumerate(starts)]
        board.lost_at = board.clock.now + 6.0
        found.append(simulate_runs(made, board.clock, TokenLimiter(100, 10), retry_after=1.0, seed=seed))
    assert statistics.fmean(took(each) for each in found) < 1.25 * 105.0
    assert statistics.fmean(map(share_refused, found)) < 0.03


@pytest.mark.parametrize("runs_", [2, 8])
def test_runs_that_know_the_limit_share_it(runs_: int) -> None:
    known = LearntLimit(100.0, 10.0, 1.0, datetime(2026, 5, 1, tzinfo=UTC))
    found = []
    for seed in SEEDS:
        board = Board(Clock())
        made = [board.run(f"run-{number}", 300, 0.01 * number, learnt=lambda: known) for number in range(runs_)]
        found.append(simulate_runs(made, board.clock, TokenLimiter(100, 10), retry_after=1.0, seed=seed))
    assert statistics.fmean(took(each) for each in found) < 1.15 * 3.0 * runs_
    assert statistics.fmean(map(share_refused, found)) < 0.025
    assert statistics.fmean(map(unfairness, found)) < 1.3


def test_what_is_learnt_by_runs_together_is_the_limit_of_the_account() -> None:
    for seed in SEEDS:
        board = Board(Clock())
        made = [board.run(f"run-{number}", 1_000) for number in range(4)]
        simulate_runs(made, board.clock, TokenLimiter(100, 10), retry_after=1.0, seed=seed)
        learnt = [each.seat.limiter.learnt() for each in made if each.seat is not None]
        rates = [each.requests_per_second for each in learnt if each is not None]
        assert len(rates) == 4
        assert min(rates) > 85.0
        assert max(rates) < 115.0


def test_a_run_looks_a_few_hundred_times_an_hour() -> None:
    board = Board(Clock())
    made = board.run("run", 36_000)
    simulate_runs([made], board.clock, TokenLimiter(10, 1), latency=0.05)
    assert made.seat is not None
    assert made.seat.looks < 800 + 2 * made.report.refused


def test_a_run_of_a_few_tasks_tells_nothing() -> None:
    board = Board(Clock())
    made = board.run("run", 4)
    simulate_runs([made], board.clock, TokenLimiter(100, 10), latency=0.05)
    assert made.seat is not None
    assert made.seat.looks == 0
    assert not board.told
