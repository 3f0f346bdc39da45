"""Some rounds of the soak, and the proof that each invariant can be broken. `make soak` does as many as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.prove import prove
from tests.faults.soak import Summary, one_round
from tests.faults.stage import Stage, running_stage

pytestmark = pytest.mark.timeout(900)

SIX = range(4, 10)
"""The fewest rounds in a row that have everything a round can have."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with running_stage(tmp_path_factory.mktemp("soak") / "stage") as running:
        yield running


@pytest.mark.parametrize(
    "seeds", [pytest.param(SIX, id="six"), pytest.param(range(1, 16), id="fifteen", marks=pytest.mark.deployment)]
)
def test_what_is_killed_faulted_and_run_at_once_is_whole_and_leaves_nothing_stray(
    stage: Stage, tmp_path: Path, seeds: range
) -> None:
    summary = Summary([one_round(stage, seed, tmp_path / f"round-{seed}", patience_seconds=6.0) for seed in seeds])
    assert not summary.violations, summary.as_json()
    done = set().union(*(result.features for result in summary.results))
    assert done >= {
        "data root local",
        "data root s3",
        "source sqlite",
        "source postgresql",
        "two runs at once",
        "over 2,000 tasks",
        "refresh",
        "batch mode",
        "several artifacts",
        "database broken",
    }
    assert sum(len(result.kills) for result in summary.results) >= len(seeds) // 2


@pytest.mark.deployment
def test_each_invariant_can_be_broken_and_is_seen(stage: Stage, tmp_path: Path) -> None:
    proofs = prove(stage, tmp_path / "round")
    assert len(proofs) > 30
    assert [proof for proof in proofs if not proof.is_seen] == []
