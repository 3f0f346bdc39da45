"""What a run has learnt of a limit: told whole, believed only if it can be true, and kept only if it is news."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.limit import AdaptiveRateLimiter, LearntLimit, LearntLimitError, account_name
from tests.limit.simulation import Clock, TokenLimiter, simulate

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
KNOWN = LearntLimit(100.0, 10.0, 1.0, NOW)


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(KNOWN.to_json()), **fields}).encode()


def learnt(rate: float, after: timedelta) -> LearntLimit:
    return LearntLimit(rate, 1.0, None, NOW + after)


@given(
    rate=st.floats(0.01, 1e5),
    burst=st.floats(1.0, 1e5),
    retry_after=st.none() | st.floats(0.0, 1e6),
    learnt_at=st.datetimes(max_value=NOW.replace(tzinfo=None), timezones=st.just(UTC)),
)
def test_what_is_kept_is_read_again(rate: float, burst: float, retry_after: float | None, learnt_at: datetime) -> None:
    kept = LearntLimit(rate, burst, retry_after, learnt_at)
    read = LearntLimit.parse(kept.to_json(), NOW)
    assert read.requests_per_second == pytest.approx(rate, rel=0.1)
    assert read.burst == pytest.approx(burst, rel=0.1)
    assert read.retry_after_seconds == retry_after
    assert abs(read.learnt_at - kept.learnt_at) < timedelta(seconds=1)


IMPOSSIBLE = {
    "empty": (b"", "cannot be read"),
    "no JSON": (b"\x00\xff", "cannot be read"),
    "a list": (b"[1]", "cannot be read"),
    "deep": (b"[" * 100_000, "cannot be read"),
    "cut": (KNOWN.to_json()[:-20], "cannot be read"),
    "another version": (changed(version=2), "version 2"),
    "no rate": (changed(requests_per_second=None), "cannot be read"),
    "zero": (changed(requests_per_second=0), "requests_per_second is 0"),
    "negative": (changed(requests_per_second=-5), "requests_per_second is -5"),
    "huge": (changed(requests_per_second=1e12), r"requests_per_second is 1e\+12"),
    "more digits than a number has": (
        b'{"version": 1, "requests_per_second": 1' + b"0" * 3900 + b"}",
        "cannot be read",
    ),
    "no number": (changed(requests_per_second=float("nan")), "requests_per_second is nan"),
    "endless": (changed(burst=float("inf")), "burst is inf"),
    "a negative wait": (changed(retry_after_seconds=-1), "retry_after_seconds is -1"),
    "no time zone": (changed(learnt_at="2026-05-01T11:00:00"), "no time zone"),
    "no time": (changed(learnt_at="yesterday"), "cannot be read"),
    "the future": (changed(learnt_at="2026-05-01T12:07:00+00:00"), "7 minutes from now: the clocks"),
    "the far future": (changed(learnt_at="9999-12-31T23:59:59+00:00"), "the clocks"),
}


@pytest.mark.parametrize(("content", "why"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_no_run_can_have_learnt_is_told(content: bytes, why: str) -> None:
    with pytest.raises(LearntLimitError, match=why):
        LearntLimit.parse(content, NOW)


def test_a_clock_that_is_some_seconds_ahead_is_no_fault() -> None:
    assert LearntLimit.parse(KNOWN.to_json(), NOW - timedelta(seconds=30)) == KNOWN


def test_knowledge_ages() -> None:
    assert KNOWN.is_trusted(NOW + timedelta(days=6))
    assert not KNOWN.is_trusted(NOW + timedelta(days=8))


@pytest.mark.parametrize(
    ("rate", "after", "is_kept"),
    [
        (100.0, timedelta(hours=2), False),
        (105.0, timedelta(hours=2), False),
        (120.0, timedelta(seconds=1), True),
        (25.0, timedelta(minutes=5), False),
        (25.0, timedelta(hours=2), True),
        (100.0, timedelta(hours=25), True),
    ],
    ids=["the same", "nearly", "higher", "a share", "lower since", "the same, a day later"],
)
def test_only_news_are_kept(rate: float, after: timedelta, is_kept: bool) -> None:
    assert (learnt(rate, after).merged(KNOWN) is not None) == is_kept
    assert learnt(rate, after).merged(None) is not None


def test_an_account_has_one_name_that_tells_nothing() -> None:
    name = account_name("API.example.com", "a-secret-token")
    assert name == account_name("api.example.com", "a-secret-token")
    assert len({name, account_name("other.example.com", "a-secret-token"), account_name("api.example.com", "b")}) == 3
    assert len(name) == 16
    assert set(name) <= set("0123456789abcdef")


@pytest.mark.parametrize("retry_after", [None, 1.0], ids=["silent", "1 s"])
@pytest.mark.parametrize(("rate", "burst"), [(100.0, 10.0), (50.0, 5.0)])
def test_the_next_run_begins_where_the_last_one_ended(rate: float, burst: float, retry_after: float | None) -> None:
    """A day of 300 tasks: the limit is found by the first run, and the next one has nothing to find."""
    clock = Clock()
    first = AdaptiveRateLimiter(clock)
    simulate(first, clock, TokenLimiter(rate, burst), 300, latency=0.05, retry_after=retry_after)
    known = first.learnt()
    assert known is not None
    assert known.requests_per_second == pytest.approx(rate, rel=0.08)
    assert known.retry_after_seconds == retry_after
    assert 0.5 * burst < known.burst < 2.0 * burst
    clock.now += 86_400.0
    following = simulate(
        AdaptiveRateLimiter(clock, lambda: known),
        clock,
        TokenLimiter(rate, burst),
        300,
        latency=0.05,
        retry_after=retry_after,
    )
    assert following.seconds < 1.05 * 300 / rate
    assert following.refused < 6


@pytest.mark.parametrize("known", [10.0, 400.0], ids=["far too low", "far too high"])
def test_what_is_known_no_longer_holds_and_is_learnt_again(known: float) -> None:
    clock = Clock()
    limiter = AdaptiveRateLimiter(clock, lambda: LearntLimit(known, 10.0, None, NOW))
    report = simulate(limiter, clock, TokenLimiter(100, 10), 3_000, latency=0.05)
    assert report.seconds < 1.75 * 30.0
    assert report.share_refused < 0.02
    found = limiter.learnt()
    assert found is not None
    assert found.requests_per_second == pytest.approx(100.0, rel=0.08)


def test_without_a_refusal_nothing_is_learnt() -> None:
    clock = Clock()
    limiter = AdaptiveRateLimiter(clock)
    simulate(limiter, clock, TokenLimiter(1e6, 1e6), 300)
    assert limiter.learnt() is None
