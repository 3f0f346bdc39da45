"""The pace itself: what it learns from refusals, and how soon it forgets an unlucky one."""

from __future__ import annotations

import time

import pytest

from luma_pipeline.luma.pace import AdaptivePace, TokenBucket


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
def test_a_hold_is_for_every_place_booked_after_it(pace: TokenBucket | AdaptivePace) -> None:
    pace.hold(5.0)
    assert all(pace.reserve() > 4.5 for _ in range(60))
    assert pace.held()


@pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (5.0, 0)])
def test_a_rate_that_is_none_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ValueError):
        TokenBucket(rate, burst)
