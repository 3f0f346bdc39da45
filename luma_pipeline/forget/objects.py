"""The forget room: the objects of forgotten tasks, in every bucket that they were ever copied to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from luma_pipeline.engine.threads import for_each
from luma_pipeline.forget.records import Counts
from luma_pipeline.forget.survey import Survey
from luma_pipeline.media import BucketError, MediaSettingsError, TransferConfig
from luma_pipeline.media.keys import KeyTemplate
from luma_pipeline.media.purge import FoundObjects, ObjectPurge, open_purge
from luma_pipeline.s3 import ObjectVersion

__all__ = ["ObjectRemoval", "TaskObjects"]

_AT_ONCE = 8
_TASKS_TOGETHER = 250
"""Tasks whose objects are found and then removed together: the bound of the memory."""

Reason = str
Version = tuple[str, str, str | None]
"""Bucket, key and version ID."""


@dataclass
class TaskObjects:
    """What was found of one task, over all buckets, and what is still there.

    `unreached` says why, by bucket, key and version; a key that is empty stands for what could not be listed.
    """

    task_id: str
    found: dict[Version, ObjectVersion] = field(default_factory=dict)
    uploads: int = 0
    unreached: dict[Version, Reason] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was found."""
        return not (self.found or self.uploads)

    def counts(self) -> Counts:
        """What was found and is not known to be still there."""
        gone = {version: each for version, each in self.found.items() if version not in self.unreached}
        return Counts(
            objects=len({(bucket, key) for bucket, key, _ in gone}),
            versions=sum(not each.is_marker for each in gone.values()),
            delete_markers=sum(each.is_marker for each in gone.values()),
            uploads=self.uploads,
            size_bytes=sum(each.size_bytes for each in gone.values()),
        )


class ObjectRemoval:
    """Finds and removes the objects of tasks, some hundreds at a time.

    `known` are versions that cannot be removed: they are found again and not tried again.
    """

    def __init__(
        self, videos: TransferConfig, survey: Survey, known: Mapping[Version, Reason], stopping: threading.Event
    ) -> None:
        self._keys = survey.keys
        self._known = known
        self._stopping = stopping
        self._problems: dict[str, Reason] = {}
        self._purges: dict[str, ObjectPurge] = {}
        named = {bucket for keys in survey.keys.values() for bucket, _ in keys}
        for bucket in dict.fromkeys([videos.bucket, *sorted({*survey.templates, *named})]):
            templates = [videos.template] if bucket == videos.bucket else []
            try:
                self._purges[bucket] = open_purge(bucket, [*templates, *_templates(survey.templates.get(bucket, ()))])
            except BucketError as error:
                self._problems[bucket] = str(error)

    def close(self) -> None:
        """Close the connections."""
        for purge in self._purges.values():
            purge.close()

    def do(
        self, task_ids: Iterable[str], before: Callable[[Sequence[TaskObjects]], None], *, dry_run: bool
    ) -> Iterator[Sequence[TaskObjects]]:
        """Remove what there is of the tasks; gives what was found of each, some hundreds together.

        `before` is called with it before any of it is removed. With `dry_run` nothing is removed.
        """
        task_ids = list(task_ids)
        for purge in self._purges.values():
            purge.load(task_ids)
        left = iter(task_ids)
        while not self._stopping.is_set() and (some := list(islice(left, _TASKS_TOGETHER))):
            found = self._find(some)
            tasks = {task_id: self._summary(task_id, found) for task_id in some}
            before(list(tasks.values()))
            if not dry_run:
                self._remove(found, tasks)
            yield list(tasks.values())

    def _find(self, task_ids: Sequence[str]) -> dict[tuple[str, str], FoundObjects]:
        found: dict[tuple[str, str], FoundObjects] = {}

        def find(place: tuple[str, str]) -> None:
            bucket, task_id = place
            keys = [key for of, key in self._keys.get(task_id, ()) if of == bucket]
            found[place] = self._purges[bucket].find(task_id, sorted(keys))

        places = [(bucket, task_id) for bucket in self._purges for task_id in task_ids]
        for_each(find, places, at_once=_AT_ONCE, stopping=self._stopping, name="luma-forget-objects")
        return found

    def _summary(self, task_id: str, found: Mapping[tuple[str, str], FoundObjects]) -> TaskObjects:
        task = TaskObjects(task_id)
        for bucket, reason in self._problems.items():
            task.unreached[bucket, "", None] = reason
        for bucket in self._purges:
            of_bucket = found.get((bucket, task_id))
            if of_bucket is None:
                continue
            for each in of_bucket.versions:
                version = (bucket, each.key, each.version_id)
                if version in self._known:
                    task.unreached[version] = self._known[version]
                else:
                    task.found[version] = each
            task.uploads += len(of_bucket.uploads)
            if of_bucket.problem:
                task.unreached[bucket, "", None] = of_bucket.problem
        return task

    def _remove(self, found: Mapping[tuple[str, str], FoundObjects], tasks: Mapping[str, TaskObjects]) -> None:
        for bucket, purge in self._purges.items():
            of_bucket = [each for (of, _), each in found.items() if of == bucket]
            owners = {version: each.task_id for each in of_bucket for version in each.versions}
            for each in of_bucket:
                each.versions = [
                    version for version in each.versions if (bucket, version.key, version.version_id) not in self._known
                ]
            for left in purge.remove(of_bucket):
                version = left.version
                tasks[owners[version]].unreached[bucket, version.key, version.version_id] = left.reason


def _templates(texts: Iterable[str]) -> list[KeyTemplate]:
    """The templates that keys can have been made by."""
    found = []
    for text in sorted(texts):
        with suppress(MediaSettingsError):
            found.append(KeyTemplate(text))
    return found
