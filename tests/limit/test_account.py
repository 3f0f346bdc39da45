"""The state of an account: who gets which slots, whatever the clock and the row say."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from luma_pipeline.limit.account import AccountState, Grant, Wish

NOW = 1_700_000_000.0
MANY = 1000


def wish(run: str, rate: float = 100.0, slots: int = MANY, burst: int = 1, **rest: float) -> Wish:
    return Wish(run, rate, burst, slots, **rest)  # type: ignore[arg-type]


def granted(state: AccountState, *wishes: Wish, now: float = NOW) -> tuple[AccountState, list[Grant]]:
    grants = []
    for each in wishes:
        state, grant = state.granted(each, now)
        grants.append(grant)
    return state, grants


def end(grant: Grant) -> float:
    return grant.first + grant.slots * grant.gap


def test_slots_follow_each_other_whoever_has_them() -> None:
    _, grants = granted(AccountState(), wish("a"), wish("b"), wish("c"), wish("a"))
    assert [later.first - end(one) for one, later in pairwise(grants)] == pytest.approx([0.0] * 3, abs=1e-5)


def test_runs_that_use_all_they_get_have_the_same_part() -> None:
    state, _ = granted(AccountState(), *(wish(name) for name in "abcd"))
    _, grants = granted(state, *(wish(name) for name in "abcd"))
    assert {grant.slots for grant in grants} == {round(100 * 0.25 / 4)}
    assert {grant.runs for grant in grants} == {4}


def test_a_run_that_is_far_from_the_database_gets_no_more_than_the_others() -> None:
    state, _ = granted(AccountState(), wish("near"), wish("far", cycle=1.0))
    _, [near, far] = granted(state, wish("near"), wish("far", cycle=1.0))
    assert near.slots == far.slots
    assert near.cycle == far.cycle == 1.0


def test_a_run_gets_no_more_than_it_can_use() -> None:
    _, [grant] = granted(AccountState(), wish("a", slots=2))
    assert grant.slots == 2


def test_slots_that_nobody_asked_for_have_passed() -> None:
    state, _ = granted(AccountState(), wish("a"))
    _, [grant] = granted(state, wish("a"), now=NOW + 100)
    assert NOW + 99.9 < grant.first <= NOW + 100


def test_a_burst_may_leave_at_once_after_a_rest() -> None:
    _, [grant] = granted(AccountState(), wish("a", burst=50))
    assert grant.first - NOW == pytest.approx(-0.49, abs=1e-5)


def test_a_run_that_was_killed_is_not_counted_for_long() -> None:
    state, _ = granted(AccountState(), wish("killed"), wish("a"))
    _, [grant] = granted(state, wish("a"), now=NOW + 5)
    assert grant.runs == 1


def test_a_run_that_ends_is_not_counted() -> None:
    state, _ = granted(AccountState(), wish("ended"), wish("a"))
    _, [grant] = granted(state.left_by("ended", NOW), wish("a"))
    assert grant.runs == 1


def test_the_lowest_limit_of_the_runs_counts_while_its_run_does() -> None:
    state, [_, higher, lower] = granted(AccountState(), wish("a", 20.0), wish("b", 100.0), wish("a", 20.0))
    assert higher.requests_per_second == lower.requests_per_second == 20.0
    _, [alone] = granted(state, wish("b", 100.0), now=NOW + 60)
    assert alone.requests_per_second == 100.0


def test_a_hold_that_one_run_met_is_for_all() -> None:
    state, _ = granted(AccountState(), wish("a", slots=1), wish("a", hold=30.0))
    _, [grant] = granted(state, wish("b"))
    assert grant.first >= NOW + 30


def test_refusals_slow_all_runs_once_a_second() -> None:
    state, _ = granted(AccountState(), wish("a", refused=True), wish("b", refused=True))
    _, [grant] = granted(state, wish("c"))
    assert grant.rate == pytest.approx(97.0)
    state, [again] = granted(state, wish("a", refused=True), now=NOW + 1.5)
    assert again.rate == pytest.approx(97.0 * 0.97, rel=0.01)
    _, [later] = granted(state, wish("a"), now=NOW + 3600)
    assert later.rate == 100.0


@pytest.mark.parametrize("back", [1.0, 300.0, 1e9])
def test_a_clock_that_is_set_back_holds_nobody(back: float) -> None:
    state, [_, before] = granted(AccountState(), wish("a"), wish("b", hold=2.0))
    _, [grant] = granted(state, wish("a"), now=NOW - back)
    assert grant.first - end(before) == pytest.approx(-back, abs=1e-5)
    assert grant.runs == 2


def test_a_clock_that_is_set_forward_gives_no_slot_twice_for_longer_than_a_cycle() -> None:
    state, [one, other] = granted(AccountState(), wish("a"), wish("b"))
    _, [grant] = granted(state, wish("c"), now=NOW + 300)
    assert -0.06 < grant.first - (NOW + 300) <= 0.0
    assert end(other) - one.first < 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "null",
        "[]",
        "{}",
        '{"runs": []}',
        '{"runs": {"a": 1}}',
        '{"next_free": NaN, "runs": {}}',
        '{"next_free": 1e999, "runs": {}}',
        '{"next_free": "soon", "runs": {}}',
        '{"share": 0, "runs": {}}',
        '{"runs": {"a": {"until": 9e99, "requests_per_second": 0, "burst": 1, "cycle": 1}}}',
        '{"of a later version": 1, "runs": {}}',
    ],
)
def test_a_row_that_another_program_wrote_is_begun_again(text: str) -> None:
    state = AccountState.from_json(text)
    _, [grant] = granted(state, wish("a"))
    assert (grant.runs, grant.rate) == (1, 100.0)
    assert NOW - 1 < grant.first <= NOW


def test_a_run_that_a_row_invents_is_not_counted_for_ever() -> None:
    invented = '{"until": 9e99, "requests_per_second": 0.001, "burst": 1, "cycle": 0.3}'
    state, _ = granted(AccountState.from_json(f'{{"runs": {{"x": {invented}}}}}'), wish("a"))
    _, [grant] = granted(state, wish("a"), now=NOW + 4000)
    assert (grant.runs, grant.requests_per_second) == (1, 100.0)


@pytest.mark.parametrize("rate", [0.01, 1.0, 100.0])
def test_no_row_holds_the_runs_for_ever(rate: float) -> None:
    state = replace(AccountState(), next_free=NOW + 1e9, held_until=NOW + 1e9, seen_at=NOW)
    _, [grant] = granted(state, wish("a", rate))
    assert grant.first <= NOW + 3700 + 1 / rate


def test_a_slow_limit_is_kept() -> None:
    state, grants = granted(AccountState(), *(wish(name, 0.01) for name in "abc"))
    assert [grant.first - NOW for grant in grants] == pytest.approx([-0.05, 99.95, 199.95], abs=1e-5)
    assert json.loads(state.to_json())["next_free"] - NOW == pytest.approx(299.95, abs=1e-5)
