"""What is known of the provider's limit, in a folder and on S3: never a reason to fail."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from luma_pipeline.dataset import Dataset
from luma_pipeline.limit import LearntLimit

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ACCOUNT = "0123456789abcdef"
KNOWN = LearntLimit(100.0, 10.0, 1.0, NOW)


def test_it_is_kept_on_a_store(at_store: str) -> None:
    limits = Dataset(url=at_store).learnt_limits()
    assert limits.read(ACCOUNT, NOW) is None
    limits.write(ACCOUNT, KNOWN)
    assert limits.read(ACCOUNT, NOW) == KNOWN
    limits.write(ACCOUNT, replace(KNOWN, requests_per_second=50.0))
    found = limits.read(ACCOUNT, NOW)
    assert found is not None
    assert found.requests_per_second == 50.0
    assert limits.read("another-account", NOW) is None


@pytest.mark.parametrize(
    "content", [b"", b"no JSON", b"x" * 10_000_000, KNOWN.to_json()], ids=["empty", "no JSON", "huge", "the future"]
)
def test_what_cannot_be_used_is_told_and_left_out(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "_limits" / f"{ACCOUNT}.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert Dataset(url=str(tmp_path)).learnt_limits().read(ACCOUNT, NOW - timedelta(minutes=9)) is None
    assert "what is known of the provider's limit" in caplog.text
    assert len(caplog.text) < 1000


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "_limits").write_text("a file where the folder should be")
    limits = Dataset(url=str(tmp_path)).learnt_limits()
    with caplog.at_level(logging.WARNING):
        limits.write(ACCOUNT, KNOWN)
    assert "was not kept" in caplog.text
    assert limits.read(ACCOUNT, NOW) is None


def test_runs_that_write_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))
    threads = [
        threading.Thread(target=dataset.learnt_limits().write, args=(ACCOUNT, replace(KNOWN, requests_per_second=rate)))
        for rate in range(1, 21)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = dataset.learnt_limits().read(ACCOUNT, NOW)
    assert found is not None
    assert found.requests_per_second in range(1, 21)
    assert [path.name for path in (tmp_path / "_limits").iterdir()] == [f"{ACCOUNT}.json"]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "_limits"
    folder.mkdir()
    left = folder / f".{ACCOUNT}.json.{'0' * 32}.tmp"
    left.write_bytes(b"half")
    assert Dataset(url=str(tmp_path)).sweep(older_than_seconds=0.0) == 1
    assert not left.exists()
