"""What schedule and sensor decide, as functions of what is known and the time: no instance, no files."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from luma_pipeline.orchestration.decisions import (
    BusyTime,
    Decision,
    RevisitPolicy,
    State,
    decide_regular,
    decide_revisits,
)
from luma_pipeline.orchestration.partitions import Frequency, partitions_definition

UTC = UTC
NOON = datetime(2025, 3, 4, 12, tzinfo=UTC)
DAILY = partitions_definition(Frequency.DAILY, "2025-01-01", "UTC")
LONG_AGO = datetime(2025, 1, 1, tzinfo=UTC)


def state(*read: str, **known: Any) -> State:
    return State(DAILY, read.__contains__, known.pop("partitions_per_run", 50), **known)


def spans(decision: Decision) -> list[tuple[str, str]]:
    return [(span.first, span.last) for span in decision.runs]


def begin(key: str) -> float:
    return DAILY.start_time_for_partition_key(key).timestamp()


def marks(*keys: str, at: datetime = LONG_AGO) -> dict[str, datetime]:
    return dict.fromkeys(keys, at)


REGULAR: list[tuple[str, State, list[tuple[str, str]], list[str]]] = [
    ("nothing was ever read", state(), [("2025-03-04", "2025-03-04")], []),
    ("yesterday was read", state("2025-03-03"), [("2025-03-04", "2025-03-04")], []),
    (
        "yesterday is unfinished",
        state(unfinished_marks=marks("2025-03-03")),
        [("2025-03-03", "2025-03-03"), ("2025-03-04", "2025-03-04")],
        [],
    ),
    (
        "two days were missed",
        state("2025-03-01"),
        [("2025-03-02", "2025-03-03"), ("2025-03-04", "2025-03-04")],
        ["2025-03-03", "2025-03-02"],
    ),
    ("today is under way", state("2025-03-03", busy=BusyTime([(begin("2025-03-04"),) * 2])), [], []),
]


@pytest.mark.parametrize(("known", "runs", "marked"), [case[1:] for case in REGULAR], ids=[case[0] for case in REGULAR])
def test_the_schedule_asks_for_what_is_left_to_read(
    known: State, runs: list[tuple[str, str]], marked: list[str]
) -> None:
    decision = decide_regular(known, NOON)
    assert spans(decision) == runs
    assert decision.to_mark_unfinished == marked
    assert bool(decision.runs) != decision.reason.endswith("is still under way")


def test_the_schedule_waits_for_the_first_period() -> None:
    decision = decide_regular(state(), datetime(2024, 12, 31, tzinfo=UTC))
    assert decision.runs == []
    assert "the first period begins at 2025-01-01" in decision.reason


REVISITS: list[tuple[str, State, list[tuple[str, str]], list[str]]] = [
    ("no marks", state(), [], []),
    ("an open day", state(open_marks=marks("2025-03-02")), [("2025-03-02", "2025-03-02")], []),
    ("an open day that was asked for just now", state(open_marks=marks("2025-03-02", at=NOON)), [], []),
    (
        "asked for by the tick before",
        state(open_marks=marks("2025-03-02"), requested={"2025-03-02": NOON - timedelta(minutes=1)}),
        [],
        [],
    ),
    ("too old", state(open_marks=marks("2025-02-20")), [], ["2025-02-20"]),
    ("unfinished is never too old", state(unfinished_marks=marks("2025-02-20")), [("2025-02-20", "2025-02-20")], []),
    (
        "days next to each other",
        state(open_marks=marks("2025-03-01", "2025-03-03")),
        [("2025-03-01", "2025-03-03")],
        [],
    ),
    (
        "more than a run takes",
        state(open_marks=marks("2025-03-01", "2025-03-02", "2025-03-03"), partitions_per_run=2),
        [("2025-03-01", "2025-03-02"), ("2025-03-03", "2025-03-03")],
        [],
    ),
    ("of another setting", state(open_marks=marks("2025-03-02-18:00")), [], []),
]


@pytest.mark.parametrize(
    ("known", "runs", "cleared"), [case[1:] for case in REVISITS], ids=[case[0] for case in REVISITS]
)
def test_the_sensor_comes_back_for_what_is_open(known: State, runs: list[tuple[str, str]], cleared: list[str]) -> None:
    known_days = {f"2025-0{month}-{day:02}" for month in (2, 3) for day in range(1, 29)}
    known = replace(known, was_read=known_days.__contains__)
    decision = decide_revisits(known, NOON)
    assert spans(decision) == runs
    assert decision.to_clear_open == cleared
    assert decide_revisits(replace(known, requested=decision.requested), NOON).runs == []


def test_what_a_run_under_way_works_on_is_held_with_all_between_its_ends() -> None:
    busy = BusyTime([(begin("2025-03-01"), begin("2025-03-03")), (begin("2025-03-02"), begin("2025-03-02"))])
    held = [key for key in ("2025-02-28", "2025-03-01", "2025-03-02", "2025-03-03", "2025-03-04") if _holds(busy, key)]
    assert held == ["2025-03-01", "2025-03-02", "2025-03-03"]


def _holds(busy: BusyTime, key: str) -> bool:
    window = DAILY.time_window_for_partition_key(key)
    return busy.holds(window.start, window.end)


def test_a_tick_asks_for_twenty_runs_and_the_next_for_the_rest() -> None:
    keys = [f"{LONG_AGO + number * timedelta(days=1):%Y-%m-%d}" for number in range(60)]
    known = state(*keys, open_marks=marks(*keys), partitions_per_run=2, policy=RevisitPolicy(give_up_after=1e9))
    first = decide_revisits(known, NOON)
    second = decide_revisits(replace(known, requested=first.requested), NOON)
    third = decide_revisits(replace(known, requested=second.requested), NOON)
    assert [len(decision.runs) for decision in (first, second, third)] == [20, 10, 0]
    assert spans(first)[0] == (keys[0], keys[1])
    assert set(second.requested) == set(keys)
