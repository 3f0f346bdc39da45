"""Verdicts in the names of empty files: read back as they were put, whatever was killed or is older or newer."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.dataset import Dataset, GenerationsVerdict, Verdict, VideosVerdict
from luma_pipeline.dataset.verdicts import name_of_verdict, read_name
from luma_pipeline.engine.partition import key_of_mark, mark_of

DAY = "2024-12-24"
GOOD = Verdict(GenerationsVerdict(tasks=120), VideosVerdict(in_bucket=118))
BAD = Verdict(GenerationsVerdict(tasks=120, failed=3), VideosVerdict(in_bucket=117, lost=1))

_counts = st.integers(0, 10**9 - 1)
_generations = st.builds(GenerationsVerdict, *(_counts for _ in fields(GenerationsVerdict)))
_videos = st.builds(VideosVerdict, *(_counts for _ in fields(VideosVerdict)))
_verdicts = st.builds(Verdict, st.none() | _generations, st.none() | _videos)
_keys = st.sampled_from([DAY, "2024-12-24-18:00", "2024-11-03-01:00+0100", "2024-12-01"])


@given(_keys, _verdicts)
def test_a_name_says_the_verdict_and_is_safe_in_every_file_system(key: str, verdict: Verdict) -> None:
    name = name_of_verdict(mark_of(key), verdict)
    assert read_name(name) == (mark_of(key), verdict)
    assert len(name.encode()) < 200
    assert re.fullmatch(r"[A-Za-z0-9.%_-]+", name)


def test_the_longest_name_is_below_200_bytes() -> None:
    most = 10**9 - 1
    verdict = Verdict(
        GenerationsVerdict(*[most] * len(astuple(GenerationsVerdict()))),
        VideosVerdict(*[most] * len(astuple(VideosVerdict()))),
    )
    assert len(name_of_verdict(mark_of("2024-11-03-01:00+0100"), verdict)) < 200


@pytest.mark.parametrize(
    "name",
    ["", DAY, f"{DAY}.2.g120t.v118c", f"{DAY}.1.g120t", f"{DAY}.1.gt.v", f"{DAY}.1.g-3t.v", ".1.g.v", "Thumbs.db"],
)
def test_a_name_of_another_version_and_any_other_name_is_no_verdict(name: str) -> None:
    assert read_name(name) is None


def test_a_count_that_a_later_release_adds_is_left_out() -> None:
    found = read_name(f"{DAY}.1.g120t3f7z.v118c")
    assert found is not None
    assert found[1].generations == GenerationsVerdict(tasks=120, failed=3)


def test_names_that_are_no_verdicts_are_told_and_stay(dataset: Dataset) -> None:
    marks = dataset.marks("verdicts")  # the same folder
    for name in ("Thumbs.db", f"{DAY}.2.g9t.v"):
        marks.set(name)
    dataset.verdicts().of(DAY).put(BAD)
    listed = dataset.verdicts().listed()
    assert listed.by_mark == {DAY: BAD}
    assert list(listed.unknown) == [f"{DAY}.2.g9t.v", "Thumbs.db"]
    assert len(marks.listed()) == 3


def test_a_verdict_is_written_only_when_it_changes(dataset: Dataset) -> None:
    def names() -> dict[str, object]:
        return dict(dataset.marks("verdicts").listed())

    dataset.verdicts().of(DAY).put(GOOD)
    first = names()
    dataset.verdicts().of(DAY).put(GOOD)
    assert names() == first
    dataset.verdicts().of(DAY).put(BAD)
    assert dataset.verdicts().listed().by_mark == {DAY: BAD}
    assert len(names()) == 1


def test_partitions_whose_keys_begin_alike_do_not_disturb_each_other(dataset: Dataset) -> None:
    keys = ["2024-11-03-01:00", "2024-11-03-01:00+0100", "2024-11-03"]
    for number, key in enumerate(keys):
        dataset.verdicts().of(mark_of(key)).put(Verdict(GenerationsVerdict(tasks=number)))
    for number, key in enumerate(keys):
        assert dataset.verdicts().of(mark_of(key)).now == Verdict(GenerationsVerdict(tasks=number))
    dataset.verdicts().of(mark_of(keys[0])).put(GOOD)
    assert len(dataset.verdicts().listed().by_mark) == 3


@pytest.mark.parametrize(("older", "newer"), [(GOOD, BAD), (BAD, GOOD)])
def test_of_two_names_that_a_kill_has_left_the_newer_counts_and_the_next_run_sweeps(
    tmp_path: Path, older: Verdict, newer: Verdict
) -> None:
    folder = tmp_path / "_verdicts"
    folder.mkdir()
    for verdict, age in ((older, 1000), (newer, 2000)):
        path = folder / name_of_verdict(DAY, verdict)
        path.touch()
        os.utime(path, (age, age))
    dataset = Dataset(url=str(tmp_path))
    assert dataset.verdicts().listed().by_mark == {DAY: newer}
    # The older one is the verdict once more: it has to become the newest, or the other would still count.
    dataset.verdicts().of(DAY).put(older)
    assert [path.name for path in folder.iterdir()] == [name_of_verdict(DAY, older)]


def test_of_two_names_that_are_as_old_as_each_other_every_reader_takes_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "_verdicts"
    folder.mkdir()
    for verdict in (GOOD, BAD):
        path = folder / name_of_verdict(DAY, verdict)
        path.touch()
        os.utime(path, (1000, 1000))
    last = max((name_of_verdict(DAY, verdict), verdict) for verdict in (GOOD, BAD))[1]
    dataset = Dataset(url=str(tmp_path))
    assert dataset.verdicts().listed().by_mark == {DAY: last}
    assert dataset.verdicts().of(DAY).now == last


def test_two_runs_at_once_leave_one_verdict_that_counts_and_the_next_sweeps(dataset: Dataset) -> None:
    first, second = dataset.verdicts().of(DAY), dataset.verdicts().of(DAY)
    first.put(GOOD)
    second.put(BAD)
    listed = dataset.verdicts().listed().by_mark
    assert listed[DAY] in (GOOD, BAD)
    dataset.verdicts().of(DAY).put(BAD)
    assert list(dataset.marks("verdicts").listed()) == [name_of_verdict(DAY, BAD)]


def test_a_listing_reads_each_name_as_it_is_read_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "_verdicts"
    folder.mkdir()
    names = [
        name_of_verdict(DAY, BAD),
        name_of_verdict("2024-12-25", BAD),
        name_of_verdict(name_of_verdict("eu.2024-12-24", GOOD), BAD),
        f"{DAY}.1.g120t",
        f"{DAY}.2.g120t.v118c",
        "1.g120t3f.v117c1l",
        "Thumbs.db",
    ]
    for name in names:
        (folder / name).touch()
    read = {name: read_name(name) for name in names}
    listed = Dataset(url=str(tmp_path)).verdicts().listed()
    assert listed.by_mark == dict(found for found in read.values() if found is not None)
    assert set(listed.unknown) == {name for name, found in read.items() if found is None}


def test_a_listing_of_verdicts_asks_for_nothing_but_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "_verdicts"
    folder.mkdir()
    for number in range(10):
        # What leads nowhere has a name and nothing else.
        (folder / name_of_verdict(f"2024-12-{number + 10}", GOOD)).symlink_to("nowhere")
    assert len(Dataset(url=str(tmp_path)).verdicts().listed().by_mark) == 10


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_key_of_a_mark_is_the_one_that_the_mark_was_made_of(key: str) -> None:
    assert key_of_mark(mark_of(key)) == key


def test_one_listing_tells_more_verdicts_than_a_page_has(dataset: Dataset) -> None:
    verdicts = {f"{number:05}": Verdict(GenerationsVerdict(tasks=number)) for number in range(1100)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: dataset.verdicts().of(item[0]).put(item[1]), verdicts.items()))
    assert dataset.verdicts().listed().by_mark == verdicts


def test_a_dataset_is_complete_when_it_was_said_to_be(dataset: Dataset) -> None:
    assert not dataset.verdicts().listed().is_complete
    dataset.verdicts().set_complete()
    assert dataset.verdicts().listed().is_complete
    assert not dataset.verdicts().listed().unknown


def test_a_verdict_of_nothing_is_none(dataset: Dataset) -> None:
    stored = dataset.verdicts().of(DAY)
    stored.put(GOOD)
    stored.put(Verdict())
    assert dataset.verdicts().listed().by_mark == {}
