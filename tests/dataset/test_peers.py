"""What runs tell each other, in a folder and on S3."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from luma_pipeline.dataset import Dataset
from luma_pipeline.dataset.errors import DatasetError
from luma_pipeline.limit import LearntLimit, Peer, PeerError
from tests.dataset.test_learnt_limits import ACCOUNT, KNOWN, NOW

ONE, OTHER = "1" * 16, "2" * 16
PEER = Peer(100.0, 48.0, frozenset({OTHER}), False, True, True, 3)


def test_runs_see_one_another_in_a_bucket(at_store: str) -> None:
    dataset = Dataset(url=at_store)
    check_what_runs_tell(dataset)


def test_runs_see_one_another_in_a_folder(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))
    check_what_runs_tell(dataset)
    assert list((tmp_path / "_limits").iterdir()) == [tmp_path / "_limits" / f"{ACCOUNT}.json"]


def check_what_runs_tell(dataset: Dataset) -> None:
    peers = dataset.peers()
    assert peers.told_at(ACCOUNT) == {}
    peers.tell(ACCOUNT, ONE, PEER)
    peers.tell(ACCOUNT, OTHER, PEER)
    dataset.learnt_limits().write(ACCOUNT, KNOWN)
    told_at = peers.told_at(ACCOUNT)
    assert told_at.keys() == {ONE, OTHER}
    assert abs(told_at[ONE] - told_at[OTHER]) < timedelta(seconds=60)
    assert peers.read(ACCOUNT, ONE) == PEER
    peers.tell(ACCOUNT, ONE, replace(PEER, rate=50.0, beat=2))
    found = peers.read(ACCOUNT, ONE)
    assert found is not None
    assert (found.rate, found.beat) == (50.0, 2)
    peers.remove(ACCOUNT, [ONE, "3" * 16])
    assert peers.read(ACCOUNT, ONE) is None
    assert peers.told_at(ACCOUNT).keys() == {OTHER}
    peers.remove(ACCOUNT, [OTHER])
    assert peers.told_at(ACCOUNT) == {}
    assert dataset.learnt_limits().read(ACCOUNT, NOW) == LearntLimit(100.0, 10.0, 1.0, NOW)


def test_what_is_no_entry_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "_limits" / ACCOUNT
    folder.mkdir(parents=True)
    for name in ("notes.txt", f"{ONE}.json.bak", ".DS_Store", "0123456789ABCDEF.json"):
        (folder / name).write_text("x")
    peers = Dataset(url=str(tmp_path)).peers()
    assert peers.told_at(ACCOUNT) == {}
    peers.remove(ACCOUNT, [ONE])
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("content", [b"", b"no JSON", b"x" * 1_000_000, b"{}"], ids=["empty", "no JSON", "huge", "{}"])
def test_an_entry_that_cannot_be_read_is_told_by_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "_limits" / ACCOUNT / f"{ONE}.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(PeerError, match=f"{ONE}.json: it cannot be read"):
        Dataset(url=str(tmp_path)).peers().read(ACCOUNT, ONE)


def test_a_folder_that_cannot_be_used_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "_limits").write_text("a file where the folder should be")
    peers = Dataset(url=str(tmp_path)).peers()
    with pytest.raises(DatasetError):
        peers.tell(ACCOUNT, ONE, PEER)
    with pytest.raises(DatasetError):
        peers.told_at(ACCOUNT)


def test_what_a_killed_run_left_half_written_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "_limits" / ACCOUNT
    folder.mkdir(parents=True)
    left = folder / f".{ONE}.json.{'0' * 32}.tmp"
    left.write_bytes(b"half")
    assert Dataset(url=str(tmp_path)).sweep(older_than_seconds=0.0) == 1
    assert not left.exists()
