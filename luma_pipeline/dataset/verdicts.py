"""The dataset's room: the verdict on each partition, kept as the name of an empty file, so that a listing tells all.

The name of a file is the whole of its content: one request for a thousand names, and none for files.

    2024-12-24.1.g120t3f.v117c

says in version 1 that of 120 tasks 3 have failed, and that 117 objects are in the bucket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from luma_pipeline.dataset.storage import Storage, StoredFile

__all__ = [
    "GenerationsVerdict",
    "PartitionVerdict",
    "StoredVerdicts",
    "Verdict",
    "Verdicts",
    "VideosVerdict",
    "name_of_verdict",
    "read_name",
]


@dataclass(frozen=True)
class GenerationsVerdict:
    """Counts over all rows of a partition of luma_generations.

    `in_error` have no usable answer. `mismatched` were answered with another task's body. `drifted` are values that are
    not as on the provider's page. `repeated`, `missing` and `without_task` are rows that are not one for each task.
    """

    tasks: int = 0
    failed: int = 0
    not_found: int = 0
    in_error: int = 0
    mismatched: int = 0
    drifted: int = 0
    repeated: int = 0
    missing: int = 0
    without_task: int = 0


@dataclass(frozen=True)
class VideosVerdict:
    """Counts over all rows of a partition of luma_videos.

    `in_bucket`, `expired` and `failed` are the statuses of the manifest. `lost` objects are in the manifest, and a
    check did not find them. `differing` videos are not as the provider's answer says.
    """

    in_bucket: int = 0
    expired: int = 0
    failed: int = 0
    lost: int = 0
    differing: int = 0


@dataclass(frozen=True)
class Verdict:
    """What the checks need to know of a partition. A part that is None has not been judged."""

    generations: GenerationsVerdict | None = None
    videos: VideosVerdict | None = None


_VERSION = 1
_COMPLETE = "all-judged"
_NAME = re.compile(rf"(?P<mark>.+)\.{_VERSION}\.g(?P<generations>(?:\d+[a-z])*)\.v(?P<videos>(?:\d+[a-z])*)", re.ASCII)
_COUNT = re.compile(r"(\d+)([a-z])", re.ASCII)
# In the order of the fields; a further count takes a letter that is not in use.
_GENERATIONS_LETTERS = "tfnemdrow"
_VIDEOS_LETTERS = "cxfld"

_Part = TypeVar("_Part", GenerationsVerdict, VideosVerdict)


def name_of_verdict(mark: str, verdict: Verdict) -> str:
    """The name of a verdict's file. Zeros are left out, but for the first count of a part that was judged.

    >>> name_of_verdict("2024-12-24", Verdict(GenerationsVerdict(tasks=120, failed=3), VideosVerdict()))
    '2024-12-24.1.g120t3f.v0c'
    """
    generations = _written(verdict.generations, _GENERATIONS_LETTERS)
    return f"{mark}.{_VERSION}.g{generations}.v{_written(verdict.videos, _VIDEOS_LETTERS)}"


def read_name(name: str) -> tuple[str, Verdict] | None:
    """The mark and the verdict of a name; None for a name that is none, or is of another version.

    >>> read_name("2024-12-24.1.g120t3f.v")
    ('2024-12-24', Verdict(generations=GenerationsVerdict(tasks=120, failed=3, not_found=0, in_error=0, mismatched=0, \
drifted=0, repeated=0, missing=0, without_task=0), videos=None))
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    generations = _read(found["generations"], GenerationsVerdict, _GENERATIONS_LETTERS)
    return found["mark"], Verdict(generations, _read(found["videos"], VideosVerdict, _VIDEOS_LETTERS))


def _verdict_in(name: str) -> Verdict | None:
    found = read_name(name)
    return None if found is None else found[1]


def _written(part: GenerationsVerdict | VideosVerdict | None, letters: str) -> str:
    if part is None:
        return ""
    counts = [int(getattr(part, field.name)) for field in fields(part)]
    return "".join(
        f"{count}{letter}" for count, letter in zip(counts, letters, strict=True) if count or letter == letters[0]
    )


def _read(text: str, kind: type[_Part], letters: str) -> _Part | None:
    if not text:
        return None
    counts = {letter: int(count) for count, letter in _COUNT.findall(text)}
    return kind(*(counts.get(letter, 0) for letter in letters))


@dataclass(frozen=True)
class StoredVerdicts:
    """All verdicts of a dataset, by mark. `unknown` are names that are no verdicts of this version.

    `is_complete`: every partition that has been written has its verdict.
    """

    by_mark: dict[str, Verdict]
    unknown: Sequence[str] = ()
    is_complete: bool = False


class Verdicts:
    """The verdicts of a dataset.

    A run that was killed, and two runs at once, can leave two names for one partition. Then the newer counts, and of
    two that are as old as each other the one that sorts last.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    def of(self, mark: str) -> PartitionVerdict:
        """The verdict of one partition. Costs one listing, of its names alone."""
        return PartitionVerdict(self._storage, self._folder, mark)

    def listed(self) -> StoredVerdicts:
        """All verdicts. Costs one listing of names, a request for each thousand on S3, and one for each doubled."""
        by_mark: dict[str, Verdict] = {}
        doubled: set[str] = set()
        unknown: list[str] = []
        endings: dict[str, Verdict | None] = {}
        names = self._storage.names(self._folder)
        for name in names:
            mark, *ending = name.rsplit(".", 3)
            # Most partitions have the counts of another: each ending is read once.
            counts = ".".join(ending)
            if counts not in endings:
                endings[counts] = _verdict_in(name)
            verdict = endings[counts]
            if verdict is None or not mark:
                unknown.append(name)
                continue
            if mark in by_mark:
                doubled.add(mark)
            by_mark[mark] = verdict
        for mark in doubled:
            # Only here it matters which is newer. A run may have put another since.
            by_mark[mark] = self.of(mark).now
        return StoredVerdicts(by_mark, sorted(set(unknown) - {_COMPLETE}), _COMPLETE in unknown)

    def set_complete(self) -> None:
        """Remember that every partition has its verdict: datasets of earlier versions have none."""
        self._storage.write(f"{self._folder}/{_COMPLETE}", b"")


class PartitionVerdict:
    """The verdict of one partition, as it was when this object was made."""

    def __init__(self, storage: Storage, folder: str, mark: str) -> None:
        self._storage = storage
        self._folder = folder
        self._mark = mark
        self._names = [file.name for file in _oldest_first(storage.list(folder, prefix=f"{mark}."), mark)]
        found = read_name(self._names[-1]) if self._names else None
        self.now = found[1] if found is not None else Verdict()
        """The verdict; of a partition that has not been judged both parts are None."""

    def put(self, verdict: Verdict) -> None:
        """Replace the verdict if it has changed: the new name is written first, then the others are deleted.

        One of which both parts are None is none.
        """
        name = "" if verdict == Verdict() else name_of_verdict(self._mark, verdict)
        if name and self._names[-1:] != [name]:
            # Also a name that is there already: it is to be the newest.
            self._storage.write(f"{self._folder}/{name}", b"")
        self.now = verdict
        for other in self._names:
            if other != name:
                self._storage.delete(f"{self._folder}/{other}")
        self._names = [name] if name else []


def _oldest_first(files: Iterable[StoredFile], mark: str) -> list[StoredFile]:
    ours = (file for file in files if (found := read_name(file.name)) is not None and found[0] == mark)
    return sorted(ours, key=lambda file: (file.modified_at, file.name))
