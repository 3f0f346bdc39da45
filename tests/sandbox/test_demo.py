"""The demonstration: the whole way of the data, twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from luma_pipeline.sandbox.demo import DemoError, demonstrate
from luma_pipeline.sandbox.provider import Account
from luma_pipeline.sandbox.stack import Sandbox


def test_a_second_run_asks_only_for_open_tasks_and_copies_nothing(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "sandbox", open_task_minutes=(60,)) as sandbox:
        first, second = demonstrate(sandbox), demonstrate(sandbox)
        seeded = sandbox.source
        assert not sandbox.cdn.has_seen_authorization

    expected = Counter(task.state_at(sandbox.provider.clock()) for task in seeded.generations)
    for run in (first, second):
        assert run.rows["luma_generations"] == sum(run.states.values()) == seeded.task_ids
        assert run.states["failed"] == expected["failed"]
        assert run.objects == run.states["completed"] == run.rows["luma_videos"]
        assert run.requests_for_final == 0
    assert first.copied == first.objects == first.cdn_requests > 0
    assert (second.copied, second.cdn_requests) == (0, 0)
    assert second.states == first.states
    assert 0 < second.provider_requests < first.provider_requests
    assert len(list(first.videos_directory.iterdir())) == first.objects
    page = second.page()
    for told in (
        "0 videos copied",
        "0 of them for tasks already final",
        str(tmp_path / "sandbox" / "data"),
        "customer",
    ):
        assert told in page


def test_a_run_that_is_refused_says_why(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "sandbox") as sandbox:
        sandbox.provider.account = Account.OUT_OF_QUOTA
        with pytest.raises(DemoError, match="quota"):
            demonstrate(sandbox)
