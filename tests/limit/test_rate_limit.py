"""The rate limiter: what it learns from refusals, how near it keeps to a limit, how soon it forgets an unlucky one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from luma_pipeline.limit import AdaptiveRateLimiter, RateLimiter, TokenBucket
from luma_pipeline.luma import LumaClient, Outcome, ProviderConfig
from luma_pipeline.sandbox.provider import TOKEN, Generation, ProviderServer, RateLimit
from tests.limit.simulation import (
    Clock,
    FixedWindow,
    Free,
    Limiter,
    Outage,
    Refusing,
    RetryAfter,
    SlidingWindow,
    Switch,
    TokenLimiter,
    simulate,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@dataclass(frozen=True)
class Limit:
    """A limiter, what it allows in a second, and how a client comes out under it."""

    name: str
    limiter: Callable[[], Limiter]
    rate: float
    retry_after: RetryAfter = None
    latency: float = 0.02
    seconds: float = 200.0
    most: float = 1.05
    """Time at most, as a share of tasks through rate."""

    def __str__(self) -> str:
        return self.name


LIMITS = [
    Limit("100/s, burst 10, exact", lambda: TokenLimiter(100, 10), 100, "exact", most=1.01),
    Limit("100/s, burst 10, silent", lambda: TokenLimiter(100, 10), 100, most=1.01),
    Limit("100/s, burst 100, 2 s", lambda: TokenLimiter(100, 100), 100, 2.0, most=1.01),
    Limit("100/s, burst 10, 30 s", lambda: TokenLimiter(100, 10), 100, 30.0, seconds=2000.0, most=1.4),
    Limit("100/s, burst 10, far", lambda: TokenLimiter(100, 10), 64, "exact", latency=0.25, most=1.02),
    Limit("20/s, no burst, 1 s", lambda: TokenLimiter(20, 1), 20, 1.0, most=1.1),
    Limit("20/s, burst 2, far", lambda: TokenLimiter(20, 2), 20, "exact", latency=0.2),
    Limit("5/s, no burst, silent", lambda: TokenLimiter(5, 1), 5, most=1.25),
    Limit("100 in a second, exact", lambda: FixedWindow(100), 100, "exact", most=1.03),
    Limit("100 in a second, silent", lambda: FixedWindow(100), 100, most=1.03),
    Limit("5 in a second, 1 s", lambda: FixedWindow(5), 5, 1.0),
    Limit("20 in any second, exact", lambda: SlidingWindow(20), 20, "exact", most=1.08),
    Limit("1200 in a minute, exact", lambda: FixedWindow(1200, 60.0, 20.0), 20, "exact", seconds=600.0),
    Limit("1200 in a minute, silent", lambda: FixedWindow(1200, 60.0, 20.0), 20, seconds=600.0),
]


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_a_limit_is_found_and_used(clock: Clock, limit: Limit) -> None:
    report = simulate(
        AdaptiveRateLimiter(clock),
        clock,
        limit.limiter(),
        int(limit.rate * limit.seconds),
        latency=limit.latency,
        retry_after=limit.retry_after,
    )
    assert report.seconds < limit.most * limit.seconds
    assert report.share_refused < 0.06
    if isinstance(limit.retry_after, float) and limit.retry_after > AdaptiveRateLimiter.SHORT:
        assert report.sent_on_hold == 0


def test_a_limit_beyond_the_threads_is_never_met(clock: Clock) -> None:
    report = simulate(AdaptiveRateLimiter(clock), clock, TokenLimiter(1000, 100), 8_000, latency=0.2)
    assert report.refused == 0
    assert report.seconds < 1.01 * 8_000 * 0.2 / 16


@pytest.mark.parametrize("retry_after", [None, 1.0], ids=["silent", "1 s"])
def test_a_limit_that_is_halved_is_noticed_within_seconds(clock: Clock, retry_after: RetryAfter) -> None:
    limiter = Switch(TokenLimiter(100, 10), 100.0, TokenLimiter(50, 5))
    report = simulate(AdaptiveRateLimiter(clock), clock, limiter, 15_000, retry_after=retry_after)
    assert report.seconds < 225.0
    assert report.share_refused < 0.05


@pytest.mark.parametrize("retry_after", [None, 1.0], ids=["silent", "1 s"])
def test_a_limit_that_is_doubled_is_used_after_a_while(clock: Clock, retry_after: RetryAfter) -> None:
    limiter = Switch(TokenLimiter(100, 10), 100.0, TokenLimiter(200, 20))
    report = simulate(AdaptiveRateLimiter(clock), clock, limiter, 50_000, retry_after=retry_after)
    # 300 s at the old limit's rate_limiter had it not been noticed: 500.
    assert report.seconds < 360.0


@pytest.mark.parametrize("number", [1, 2, 20, 10_000])
def test_one_stray_refusal_costs_seconds(clock: Clock, number: int) -> None:
    report = simulate(AdaptiveRateLimiter(clock), clock, Refusing(number), 20_000, retry_after=1.0)
    free = simulate(AdaptiveRateLimiter(clock), clock, Free(), 20_000)
    # A second on hold, and ten doublings of half a second where it came so early that nothing had been learnt.
    assert report.seconds - free.seconds < 6.5


@pytest.mark.parametrize("limiter", [Free, lambda: TokenLimiter(100, 10)], ids=["no limit", "100/s"])
@pytest.mark.parametrize("at", [0.0, 30.0], ids=["at the start", "later"])
def test_an_outage_is_waited_out_with_few_requests(clock: Clock, at: float, limiter: Callable[[], Limiter]) -> None:
    switch = Switch(Switch(limiter(), at, Outage()), at + 30.0, limiter())
    report = simulate(AdaptiveRateLimiter(clock), clock, switch, 10_000)
    assert report.refused < 125
    # It ends between two requests, the next one comes a tenth of it later, and its answer brings the others back.
    assert report.longest_silence < 30.0 + 5.0


def test_after_an_outage_the_limit_is_known_as_before(clock: Clock) -> None:
    switch = Switch(Switch(TokenLimiter(100, 10), 60.0, Outage()), 90.0, TokenLimiter(100, 10))
    report = simulate(AdaptiveRateLimiter(clock), clock, switch, 20_000, retry_after=1.0)
    assert report.seconds < 30.0 + 1.06 * 200.0


def test_a_refusal_of_the_first_requests_is_no_limit(clock: Clock) -> None:
    """A limiter without a burst refuses at once what many threads send at once: that tells nothing of its rate."""
    rate_limiter = AdaptiveRateLimiter(clock)
    rate_limiter.on_throttle()
    first = rate_limiter.rate
    assert first is not None
    clock.now += 0.6
    rate_limiter.on_success()
    clock.now += 2.5
    assert rate_limiter.rate is not None
    assert rate_limiter.rate > 5 * first


def test_a_refusal_after_a_hold_is_heard(clock: Clock) -> None:
    rate_limiter = AdaptiveRateLimiter(clock)
    rate_limiter.on_throttle(1.5)
    clock.now += 1.6
    for _ in range(20):
        rate_limiter.on_success()
        clock.now += 0.05
    before = rate_limiter.rate
    rate_limiter.on_throttle()
    assert before is not None
    assert rate_limiter.rate is not None
    assert rate_limiter.rate < before


def test_refusals_of_what_was_under_way_count_once(clock: Clock) -> None:
    rate_limiter = AdaptiveRateLimiter(clock)
    simulate(rate_limiter, clock, TokenLimiter(100, 10), 2_000, latency=0.1)
    before = rate_limiter.rate
    rate_limiter.on_throttle()
    once = rate_limiter.rate
    for _ in range(50):
        clock.now += 0.001
        rate_limiter.on_throttle()
    assert before is not None
    assert once is not None
    assert 0.7 * before < once < before
    assert rate_limiter.rate == pytest.approx(once, rel=0.01)


@pytest.mark.parametrize(("tasks", "most"), [(100, 1.01), (5_000, 1.01)], ids=["while it doubles", "near the limit"])
def test_time_without_a_question_does_not_raise_the_rate(clock: Clock, tasks: int, most: float) -> None:
    """A run that copies for an hour between two partitions must not come back with a flood."""
    rate_limiter = AdaptiveRateLimiter(clock)
    simulate(rate_limiter, clock, TokenLimiter(100, 10), tasks, retry_after=1.0)
    before = rate_limiter.rate
    assert before is not None
    clock.now += 3600.0
    rate_limiter.try_acquire()
    assert rate_limiter.rate is not None
    assert rate_limiter.rate < most * before


@pytest.mark.parametrize(
    "make",
    [lambda clock: TokenBucket(1000.0, 50, clock), AdaptiveRateLimiter],
    ids=["fixed", "adaptive"],
)
def test_a_hold_is_for_everyone(clock: Clock, make: Callable[[Clock], RateLimiter]) -> None:
    rate_limiter = make(clock)
    rate_limiter.on_throttle(5.0)
    assert all(rate_limiter.try_acquire() > 4.5 for _ in range(60))


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (5.0, 0)])
def test_a_rate_that_is_none_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ValueError):
        TokenBucket(rate, burst)


def test_a_set_rate_that_is_refused_falls_a_little_once_a_second(clock: Clock) -> None:
    rate_limiter = TokenBucket(100.0, clock=clock)
    assert rate_limiter.rate == 100.0
    for _ in range(50):
        rate_limiter.on_throttle()
    assert rate_limiter.rate == pytest.approx(97.0, abs=0.5)
    clock.now += 1.1
    rate_limiter.on_throttle()
    assert rate_limiter.rate == pytest.approx(94.1, abs=0.5)


@pytest.mark.parametrize("requests_per_second", [None, 10.0], ids=["adaptive", "set"])
def test_a_slow_limiter_without_a_burst_is_not_overrun_by_many_threads(requests_per_second: float | None) -> None:
    """Threads that have each booked a slot for later would all miss the news of a refusal."""
    tasks = [f"task-{number}" for number in range(60)]
    with (
        ProviderServer([Generation(task) for task in tasks]) as provider,
        LumaClient(
            ProviderConfig(token=TOKEN, base_url=provider.base_url, requests_per_second=requests_per_second)
        ) as luma,
    ):
        provider.rate_limit = RateLimit(10, burst=1)
        outcomes = list(luma.fetch(tasks))
        assert {outcome.outcome for outcome in outcomes} == {Outcome.RESOLVED}
        # A first volley of all threads can be refused, and a few of those that look for the limit.
        assert provider.count_status(429) < 30
