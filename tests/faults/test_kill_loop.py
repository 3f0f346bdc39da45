"""A round of the kill loop, with each kind of data root; its command line runs as many as wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kill_loop import run


@pytest.mark.parametrize("data", ["local", "s3"])
def test_what_is_killed_and_run_again_is_whole_and_leaves_nothing_stray(tmp_path: Path, data: str) -> None:
    summary = run(1, data, seed=11, tasks=200, directory=tmp_path)
    assert summary.rounds == 1
    assert not summary.violations, summary.as_json()
