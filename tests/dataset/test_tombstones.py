"""Tombstones: what is forgotten stays so, whoever writes at the same time, and is cheap to look up."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luma_pipeline.dataset import Dataset, UnreadableFileError, digest_of
from luma_pipeline.dataset.tombstones import Forgotten


def digests(*task_ids: str) -> list[bytes]:
    return [digest_of(task_id) for task_id in task_ids]


def test_ids_are_looked_up_by_their_digest_and_stand_nowhere(root: str, tmp_path: Path) -> None:
    odd = ["a", "a ", "A", "ä", "a\0b", "x" * 1000, "\ud800"]
    tombstones = Dataset(url=root).tombstones()
    assert tombstones.add(digests(*odd, "a")) == len(odd)
    assert tombstones.add(digests("a")) == 0
    forgotten = Dataset(url=root).tombstones().now()
    assert [forgotten.has(task_id) for task_id in [*odd, "b", "a  ", ""]] == [True] * len(odd) + [False] * 3
    ids = pa.chunked_array([["b", "a"], [None, "ä"]], pa.string())
    assert forgotten.among(ids).tolist() == [False, True, False, True]
    table = pa.table({"task_id": ids, "row": range(4)})
    assert forgotten.without(table)["row"].to_pylist() == [0, 2]
    assert forgotten.only(table)["row"].to_pylist() == [1, 3]
    assert forgotten.has_hex(digest_of("a").hex())
    assert not forgotten.has_hex("zz")


def test_a_look_reads_what_has_come_and_nothing_where_nothing_has(root: str) -> None:
    ours, theirs = Dataset(url=root).tombstones(), Dataset(url=root).tombstones()
    assert len(ours.now()) == 0
    theirs.add(digests("a"))
    assert not ours.recent().has("a")
    first = ours.now()
    assert first.has("a")
    assert ours.now() is first
    assert ours.recent() is first


def test_many_requests_are_put_together_and_none_is_lost(root: str) -> None:
    tombstones, reader = Dataset(url=root).tombstones(), Dataset(url=root).tombstones()
    for number in range(40):
        tombstones.add(digests(f"task-{number}"))
        if number % 10 == 0:
            assert len(reader.now()) == number + 1
    assert len(reader.now()) == 40
    assert len(reader.now().names) <= 33


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    root = str(tmp_path)

    def write(writer: int) -> None:
        tombstones = Dataset(url=root).tombstones()
        for number in range(25):
            tombstones.add(digests(f"{writer}-{number}"))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    reader = Dataset(url=root).tombstones()
    seen = 0
    while any(thread.is_alive() for thread in threads):
        now = len(reader.now())
        assert now >= seen
        seen = now
    assert len(reader.now()) == 100


def test_a_tombstone_is_taken_away(root: str) -> None:
    tombstones = Dataset(url=root).tombstones()
    tombstones.add(digests("a", "b"))
    tombstones.add(digests("c"))
    assert tombstones.remove(digests("a", "nobody")) == 1
    left = Dataset(url=root).tombstones().now()
    assert [left.has(task_id) for task_id in "abc"] == [False, True, True]
    assert tombstones.remove(digests("b", "c")) == 2
    assert len(Dataset(url=root).tombstones().now()) == 0


@pytest.mark.parametrize("damage", [b"", b"no Parquet", None])
def test_a_damaged_file_stops_whoever_would_bring_back_what_it_names(tmp_path: Path, damage: bytes | None) -> None:
    Dataset(url=str(tmp_path)).tombstones().add(digests("a"))
    (file,) = (tmp_path / "_tombstones").iterdir()
    file.write_bytes(file.read_bytes()[:-20] if damage is None else damage)
    with pytest.raises(UnreadableFileError, match="cannot be read as Parquet"):
        Dataset(url=str(tmp_path)).tombstones().now()


def test_what_a_killed_writer_leaves_is_swept_and_is_no_tombstone(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))
    dataset.tombstones().add(digests("a"))
    (file,) = (tmp_path / "_tombstones").iterdir()
    file.with_name(f".{file.name}.{'0' * 32}.tmp").write_bytes(b"half")
    assert len(Dataset(url=str(tmp_path)).tombstones().now()) == 1
    assert dataset.sweep(0) == 1
    assert [path.name for path in (tmp_path / "_tombstones").iterdir()] == [file.name]


def test_digests_that_end_with_zeros_are_whole() -> None:
    zeros = b"\1" + bytes(31)
    forgotten = Forgotten().including([zeros]).including([b"\2" * 32])
    assert forgotten.has_hex(zeros.hex())
    assert len(forgotten) == 2


def test_what_is_no_digest_and_what_there_is_none_of_has_no_tombstone() -> None:
    none, some = Forgotten(), Forgotten().including([digest_of("a")])
    digest = digest_of("a").hex()
    assert [some.has_hex(text) for text in (digest, digest.upper(), digest[:-2], f"{digest}00", "no hex", "")] == [
        *(True, True),
        *(False,) * 4,
    ]
    assert not none.has_hex(digest)
    assert not none.has("a")
    assert none.among(pa.array(["a", None])).tolist() == [False, False]
    assert some.among(pa.array(["a", None, "b"])).tolist() == [True, False, False]
    table = pa.table({"task_id": ["a", "b"]})
    assert none.without(table) is table
    assert some.without(table)["task_id"].to_pylist() == ["b"]
    assert some.only(table)["task_id"].to_pylist() == ["a"]
    assert Forgotten(frozenset({"file"})).including([digest_of("a")]).names == {"file"}


def test_what_is_there_or_not_there_changes_nothing(tmp_path: Path) -> None:
    tombstones = Dataset(url=str(tmp_path)).tombstones()
    assert len(tombstones.recent()) == 0
    assert tombstones.remove([digest_of("a")]) == 0
    assert tombstones.add([digest_of("a")]) == 1
    assert tombstones.add([digest_of("a"), digest_of("a")]) == 0
    assert tombstones.add([]) == 0
    (file,) = (tmp_path / "_tombstones").iterdir()
    written_at = file.stat().st_mtime_ns
    assert tombstones.remove([digest_of("b")]) == 0
    assert file.stat().st_mtime_ns == written_at
    known = tombstones.recent()
    assert tombstones.recent() is known
    assert tombstones.now().has("a")
    assert tombstones.remove([digest_of("a"), digest_of("b")]) == 1
    assert len(tombstones.now()) == 0
    assert list((tmp_path / "_tombstones").iterdir()) == []


def test_a_file_with_nulls_stops_whoever_would_bring_back_what_it_named(tmp_path: Path) -> None:
    folder = tmp_path / "_tombstones"
    folder.mkdir()
    pq.write_table(pa.table({"id_sha256": pa.array([digest_of("a"), None], pa.binary(32))}), folder / "x.parquet")
    with pytest.raises(UnreadableFileError, match=r"_tombstones/x\.parquet.*nulls"):
        Dataset(url=str(tmp_path)).tombstones().now()


def test_more_than_32_files_become_one(tmp_path: Path) -> None:
    tombstones, counts = Dataset(url=str(tmp_path)).tombstones(), []
    for number in range(34):
        assert tombstones.add([digest_of(f"t{number}")]) == 1
        counts.append(len(list((tmp_path / "_tombstones").iterdir())))
    assert counts == [*range(1, 33), 1, 2]
    assert all(tombstones.now().has(f"t{number}") for number in range(34))
