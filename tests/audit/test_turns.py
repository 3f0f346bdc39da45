"""Each object is read once in the time that the settings say, whatever days are left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luma_pipeline.audit.turns import DIAL, Span
from luma_pipeline.dataset import Dataset, Hand

NOW = datetime(2024, 12, 24, tzinfo=UTC)
PLACES = np.arange(0, DIAL, DIAL // 1000, dtype=np.uint64)
gaps = st.lists(st.floats(0.01, 50.0), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(gaps, st.floats(0.5, 40.0), st.integers(0, 31), st.integers(0, DIAL - 1))
def test_each_object_has_its_turn_in_time_whatever_days_are_missed(
    gaps: list[float], period_days: float, killed_after: int, start: int
) -> None:
    period = timedelta(days=period_days)
    hand: Hand | None = Hand(start, NOW)
    read_at = np.zeros(len(PLACES))
    now = NOW
    for number, gap in enumerate(gaps):
        now += timedelta(days=gap)
        span = Span.until(now, hand, period)
        parts = span.part_of(PLACES)
        # Every third audit is killed in the middle: it has read some parts.
        last = killed_after if number % 3 == 2 else span.parts - 1
        age = (now - NOW).total_seconds() / 86400 - read_at
        is_read = (parts >= 0) & (parts <= last)
        read_at[is_read] = (now - NOW).total_seconds() / 86400
        hand = span.hand_after(last)
        # What was not read after a complete audit is younger than the period.
        if last == span.parts - 1:
            assert age[~is_read].max(initial=0) <= period_days * 1.001


def test_a_daily_audit_reads_its_share_and_no_object_twice() -> None:
    hand, seen = Hand(2**63, NOW), np.zeros(len(PLACES), dtype=int)
    for day in range(1, 31):
        span = Span.until(NOW + timedelta(days=day), hand, timedelta(days=30))
        is_read = span.part_of(PLACES) >= 0
        assert 30 <= is_read.sum() <= 37
        seen += is_read
        hand = span.hand_after(span.parts - 1)
    assert (seen >= 1).all()
    assert (seen == 1).mean() > 0.99


@pytest.mark.parametrize(
    ("hand", "days", "share"),
    [
        (None, 30, 1 / 30),  # the first audit
        (None, 0.5, 1),
        (Hand(5, NOW - timedelta(days=90)), 30, 1),
        (Hand(5, NOW + timedelta(days=1)), 30, 0),  # a clock that was put back
        (Hand(5, NOW), 0, 1),
    ],
)
def test_how_much_is_read(hand: Hand | None, days: float, share: float) -> None:
    span = Span.until(NOW, hand, timedelta(days=days))
    assert (span.part_of(PLACES) >= 0).mean() == pytest.approx(share, abs=0.002)
    assert span.hand_after(span.parts - 1).at == NOW


def test_the_hand_is_kept_beside_the_datasets(root: str) -> None:
    audits = Dataset(url=root).audits()
    assert (audits.hand(), audits.last()) == (None, None)
    for place in (0, DIAL - 1):
        audits.put_hand(Hand(place, NOW))
        assert Dataset(url=root).audits().hand() == Hand(place, NOW)
