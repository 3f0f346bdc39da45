"""What runs tell each other is believed only if a run can have told it; who is at work is told by the store's clock."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.limit import LookTimes, Peer, PeerError, PeerWatch

PEER = Peer(100.0, 48.0, frozenset({"2" * 16}), False, True, True, 3, 7)
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(PEER.to_json()), **fields}).encode()


@given(
    rate=st.floats(0.01, 1e6),
    pace=st.floats(0.0, 1e6),
    met=st.frozensets(st.text("0123456789abcdef", min_size=16, max_size=16), max_size=5),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    counts=st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)),
)
def test_what_is_told_is_read_again(
    rate: float, pace: float, met: frozenset[str], flags: tuple[bool, bool, bool], counts: tuple[int, int]
) -> None:
    told = Peer(rate, pace, met, *flags, *counts)
    read = Peer.parse(told.to_json())
    assert read.rate == pytest.approx(rate, rel=0.1)
    assert read.pace == pytest.approx(pace, abs=0.001)
    assert (read.met, read.is_own, read.is_refused, read.is_measured) == (met, *flags)
    assert (read.refusals, read.beat) == counts
    assert read.share == pytest.approx(rate / (len(met) + 1), rel=0.1)


IMPOSSIBLE = {
    "empty": b"",
    "no JSON": b"\x00\xff",
    "a list": b"[1]",
    "deep": b"[" * 100_000,
    "cut": PEER.to_json()[:-20],
    "another version": changed(version=2),
    "no rate": changed(rate=None),
    "zero": changed(rate=0),
    "negative": changed(rate=-1),
    "endless": changed(rate=float("inf")),
    "no number": changed(rate=float("nan")),
    "huge": changed(rate=1e300),
    "a negative pace": changed(pace=-1),
    "an endless pace": changed(pace=float("inf")),
    "no pace": changed(pace=float("nan")),
    "no names": changed(met=7),
    "a name": changed(met="0123456789abcdef"),
    "too many names": changed(met=[str(number) for number in range(20_000)]),
    "no count": changed(refusals="many"),
    "endless refusals": changed(refusals=float("inf")),
}


@pytest.mark.parametrize("content", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_no_run_can_tell_is_refused(content: bytes) -> None:
    with pytest.raises(PeerError) as told:
        Peer.parse(content)
    assert len(str(told.value)) < 100


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_who_tells_nothing_for_a_while_is_gone() -> None:
    watch = PeerWatch()
    assert watch.alive({"a": at(0)}, at(0), 0.0) == ["a"]
    assert watch.alive({"a": at(0)}, at(10), 10.0) == ["a"]
    assert watch.alive({"a": at(0)}, at(16), 16.0) == []
    assert watch.alive({"a": at(17)}, at(17), 17.0) == ["a"]


def test_what_is_old_at_first_sight_is_gone_by_the_clock_of_the_store() -> None:
    assert PeerWatch().alive({"killed": at(0), "at work": at(50)}, at(60), 0.0) == ["at work"]


def test_before_we_have_told_anything_all_are_taken_to_be_at_work_and_then_judged() -> None:
    watch = PeerWatch()
    assert watch.alive({"killed": at(0), "at work": at(600)}, None, 0.0) == ["killed", "at work"]
    assert watch.alive({"killed": at(0), "at work": at(600)}, at(601), 1.0) == ["at work"]


@pytest.mark.parametrize("off", [-600.0, 600.0])
def test_a_run_whose_time_is_wrong_and_moves_is_at_work(off: float) -> None:
    """As where the parts of a store have clocks of their own."""
    watch = PeerWatch()
    watch.alive({"a": at(off)}, at(0), 0.0)
    assert watch.alive({"a": at(off + 5)}, at(5), 5.0) == ["a"]
    assert watch.alive({"a": at(off + 10)}, at(10), 10.0) == ["a"]
    assert watch.alive({"a": at(off + 10)}, at(26), 26.0) == []


def test_what_nobody_has_told_for_an_hour_is_old() -> None:
    assert PeerWatch().old({"a": at(0), "b": at(3000)}, at(3700)) == ["a"]


def test_looks_are_frequent_at_first_and_soon_after_a_refusal() -> None:
    times = LookTimes(0.0)
    assert times.wait(0.0) == LookTimes.FIRST
    times.hurry(0.05)
    assert times.wait(0.05) == 0.0
    times.looked(0.05)
    times.hurry(0.06)
    assert times.wait(0.06) == pytest.approx(LookTimes.HURRY - 0.01)
    looked = 0.0
    for _ in range(100):
        looked += times.wait(looked)
        times.looked(looked)
    assert times.wait(looked) == LookTimes.LAST
