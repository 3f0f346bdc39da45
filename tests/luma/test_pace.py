"""The pace itself: what it learns from refusals, and how soon it forgets an unlucky one."""

from __future__ import annotations

import time

import pytest

from luma_pipeline.luma import LumaClient, OutcomeKind
from luma_pipeline.luma.pace import AdaptivePace, TokenBucket
from luma_pipeline.sandbox.provider import TOKEN, Generation, ProviderServer, RateLimit


def test_a_refusal_of_the_first_requests_is_no_limit() -> None:
    """A limiter without a burst refuses at once what many threads send at once: that tells nothing of its rate."""
    pace = AdaptivePace()
    pace.throttled()
    assert pace.rate is not None
    first = pace.rate
    time.sleep(1.5)
    assert pace.rate > 20 * first


def test_a_refusal_after_a_hold_is_heard() -> None:
    pace = AdaptivePace()
    pace.throttled()
    pace.hold(1.5)
    time.sleep(2.5)
    before = pace.rate
    pace.throttled()
    assert before is not None
    assert pace.rate is not None
    assert pace.rate < before


def test_refusals_of_what_was_under_way_count_once() -> None:
    pace = AdaptivePace()
    time.sleep(1.0)  # long enough for what was counted to be a rate
    for _ in range(100):
        pace.accepted()
    pace.throttled()
    once = pace.rate
    for _ in range(50):
        pace.throttled()
    assert once is not None
    assert pace.rate == pytest.approx(once, rel=0.02)
    assert 80 < once < 100


@pytest.mark.parametrize("pace", [TokenBucket(1000.0, 50), AdaptivePace()], ids=["fixed", "adaptive"])
def test_a_hold_is_for_everyone(pace: TokenBucket | AdaptivePace) -> None:
    pace.hold(5.0)
    assert all(pace.reserve() > 4.5 for _ in range(60))


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (5.0, 0)])
def test_a_rate_that_is_none_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ValueError):
        TokenBucket(rate, burst)


def test_a_set_rate_that_is_refused_falls_a_little_once_a_second() -> None:
    pace = TokenBucket(100.0)
    assert pace.rate == 100.0
    for _ in range(50):
        pace.throttled()
    assert pace.rate == pytest.approx(97.0, abs=0.5)
    time.sleep(1.1)
    pace.throttled()
    assert pace.rate == pytest.approx(94.1, abs=0.5)


@pytest.mark.parametrize("requests_per_second", [None, 10.0], ids=["adaptive", "set"])
def test_a_slow_limiter_without_a_burst_is_not_overrun_by_many_threads(requests_per_second: float | None) -> None:
    """Threads that have each booked a place for later would all miss the news of a refusal."""
    tasks = [f"task-{number}" for number in range(60)]
    with (
        ProviderServer([Generation(task) for task in tasks]) as provider,
        LumaClient(token=TOKEN, base_url=provider.base_url, requests_per_second=requests_per_second) as luma,
    ):
        provider.rate_limit = RateLimit(10, burst=1)
        outcomes = list(luma.fetch(tasks))
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.RESOLVED}
        # A first volley of all threads can be refused, and a few of those that look for the limit.
        assert provider.count_status(429) < 30
