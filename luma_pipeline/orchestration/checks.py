"""The asset checks: what a run looks at after its partitions are done, and what of it stops the assets downstream."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from luma_pipeline.engine.partition import GENERATIONS, VIDEOS, PartitionReport
from luma_pipeline.media import BucketError, CopyStatus
from luma_pipeline.orchestration.instance import UNNAMED, Instance

__all__ = ["RunChecks", "Thresholds", "check_specs"]

ONE_ROW_PER_TASK = "one_row_per_task"
FAILED_SHARE = "failed_share"
NOT_FOUND_SHARE = "not_found_share"
ERROR_SHARE = "error_share"
SCHEMA_DRIFT = "schema_drift"
ANSWERS_MATCH_TASKS = "answers_match_tasks"
VIDEOS_IN_BUCKET = "videos_in_bucket"

_SHARES = (FAILED_SHARE, NOT_FOUND_SHARE, ERROR_SHARE)
_STATUSES = tuple(status.value for status in CopyStatus)
_MOST_SHOWN = 20


@dataclass(frozen=True)
class Thresholds:
    """The largest shares (0..1) of a run's tasks that may be so before a check fails."""

    failed: float = 0.5
    not_found: float = 0.2
    error: float = 0.1


def check_specs(instance: Instance = UNNAMED) -> list[dg.AssetCheckSpec]:
    """Every check. They are evaluated once a run, over all of its partitions: an event a partition and check would
    cost a wide backfill more than its work."""
    generations = instance.asset_key(GENERATIONS)
    return [
        dg.AssetCheckSpec(
            ONE_ROW_PER_TASK,
            asset=generations,
            blocking=True,
            description="Every task of a partition has exactly one row, and no row is without its task.",
        ),
        dg.AssetCheckSpec(FAILED_SHARE, asset=generations, description="Not too many generations have failed."),
        dg.AssetCheckSpec(
            NOT_FOUND_SHARE,
            asset=generations,
            description="Not too many tasks are unknown to the provider: a wrong base URL or account shows here.",
        ),
        dg.AssetCheckSpec(ERROR_SHARE, asset=generations, description="Not too many tasks have ended in an error."),
        dg.AssetCheckSpec(
            SCHEMA_DRIFT, asset=generations, description="The provider's answers have the fields and types of its page."
        ),
        dg.AssetCheckSpec(
            ANSWERS_MATCH_TASKS,
            asset=generations,
            description="No answer is of another task than the one asked for. Such answers are not final, and nothing "
            "is copied for them. For gateways with IDs of their own set LUMA_VERIFY_TASK_ID to false.",
        ),
        dg.AssetCheckSpec(
            VIDEOS_IN_BUCKET,
            asset=instance.asset_key(VIDEOS),
            blocking=True,
            description="Every completed task's artifacts are in the bucket. An object that the manifest has and the "
            "bucket has not stops the assets downstream; one that could not be copied is a warning.",
        ),
    ]


@dataclass
class RunChecks:
    """Adds up what the checks need from each partition's report, and from what earlier tries have evaluated."""

    thresholds: Thresholds
    instance: Instance = field(default_factory=Instance)
    _generations: int = 0
    _row_faults: dict[str, str] = field(default_factory=dict)
    _tasks: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _drift: Counter[str] = field(default_factory=Counter)
    _mismatched: int = 0
    _mismatched_examples: list[str] = field(default_factory=list)
    _videos: int = 0
    _statuses: Counter[str] = field(default_factory=Counter)
    _to_check: list[tuple[str, int]] = field(default_factory=list)
    _looked_up: int = 0
    _gone: dict[str, str] = field(default_factory=dict)
    _not_looked: str = ""

    def add(self, report: PartitionReport) -> None:
        """Take in a partition that is done."""
        if (generations := report.generations) is not None:
            self._generations += 1
            if report.row_faults:
                self._row_faults[report.partition.key] = report.row_faults
            outcomes = generations.outcomes
            self._tasks += sum(outcomes.values())
            self._counts[FAILED_SHARE] += generations.states.get("failed", 0)
            self._counts[NOT_FOUND_SHARE] += outcomes.get("not_found", 0)
            self._counts[ERROR_SHARE] += outcomes.get("invalid_response", 0) + outcomes.get("request_failed", 0)
            self._mismatched += generations.mismatched
            self._mismatched_examples += generations.mismatched_examples
            for drift in generations.drift.values():
                self._drift[f"{drift.field} ({'unknown' if drift.unknown else 'found'} {drift.found})"] += drift.count
        if report.videos is not None:
            self._videos += 1
            self._statuses.update(report.videos.statuses)
            self._to_check += report.videos.to_check

    def resume(self, earlier: Mapping[str, dg.AssetCheckEvaluation]) -> None:
        """Take in what an earlier try has evaluated, by the check's name: the partitions it did are not looked at."""
        numbers = {name: _whole_numbers(evaluation) for name, evaluation in earlier.items()}
        self._generations += numbers.get(ONE_ROW_PER_TASK, {}).get("partitions", 0)
        self._tasks += max(numbers.get(name, {}).get("tasks", 0) for name in _SHARES)
        for name in _SHARES:
            self._counts[name] += numbers.get(name, {}).get("count", 0)
        self._drift.update({what: int(found) for what, found in _read_table(earlier.get(SCHEMA_DRIFT), "drift")})
        self._mismatched += numbers.get(ANSWERS_MATCH_TASKS, {}).get("mismatched", 0)
        self._mismatched_examples += [what for what, _ in _read_table(earlier.get(ANSWERS_MATCH_TASKS), "examples")]
        videos = numbers.get(VIDEOS_IN_BUCKET, {})
        self._videos += videos.get("partitions", 0)
        self._statuses.update({name: videos[name] for name in _STATUSES if name in videos})
        self._looked_up += videos.get("looked_up", 0)

    def look_up(self, sizes_of: Callable[[Iterable[str]], Mapping[str, int | None]], most: int | None) -> None:
        """Ask the store for up to `most` of the objects in the partitions' manifests (None: for all that they name).

        A store that does not answer is told by the check: everything has been written by then.
        """
        named = self._to_check
        if most is not None and len(named) > most:
            named = random.sample(named, most)
        try:
            found = sizes_of(key for key, _ in named)
        except BucketError as error:
            self._not_looked = str(error)
            return
        self._looked_up += len(named)
        for key, size in named:
            if found[key] != size:
                there = "is not there" if found[key] is None else f"has {found[key]} bytes"
                self._gone[key] = f"{there}, the manifest says {size} bytes"

    def evaluations(self, selected: Iterable[dg.AssetCheckKey]) -> Iterator[dg.AssetCheckEvaluation]:
        """The evaluations of the checks selected, of those whose asset the run has made."""
        chosen = set(selected)
        for evaluation in (*self._of_generations(), *self._of_videos()):
            if evaluation.asset_check_key in chosen:
                yield evaluation

    def _of_generations(self) -> Iterator[dg.AssetCheckEvaluation]:
        if not self._generations:
            return
        yield _evaluation(
            self.instance.asset_key(GENERATIONS),
            ONE_ROW_PER_TASK,
            not self._row_faults,
            {"partitions": self._generations, **_shown("faults", self._row_faults)},
            blocking=True,
        )
        limits = {
            FAILED_SHARE: self.thresholds.failed,
            NOT_FOUND_SHARE: self.thresholds.not_found,
            ERROR_SHARE: self.thresholds.error,
        }
        for name in _SHARES:
            yield _share(self.instance.asset_key(GENERATIONS), name, self._counts[name], self._tasks, limits[name])
        yield _evaluation(
            self.instance.asset_key(GENERATIONS),
            SCHEMA_DRIFT,
            not self._drift,
            {"fields": len(self._drift), **_shown("drift", dict(self._drift.most_common()))},
        )

        examples = dict.fromkeys(self._mismatched_examples, "answered with another task's generation")
        yield _evaluation(
            self.instance.asset_key(GENERATIONS),
            ANSWERS_MATCH_TASKS,
            not self._mismatched,
            {"mismatched": self._mismatched, **_shown("examples", examples)},
        )

    def _of_videos(self) -> Iterator[dg.AssetCheckEvaluation]:
        if not self._videos:
            return
        not_copied = self._statuses["expired"] + self._statuses["failed"]
        metadata: dict[str, Any] = {
            "partitions": self._videos,
            "not_copied": not_copied,
            **self._statuses,
            "looked_up": self._looked_up,
            **_shown("gone", self._gone),
        }
        if self._not_looked:
            metadata["not_looked_up"] = self._not_looked
        yield _evaluation(
            self.instance.asset_key(VIDEOS),
            VIDEOS_IN_BUCKET,
            not (not_copied or self._gone or self._not_looked),
            metadata,
            blocking=True,
            severity=dg.AssetCheckSeverity.ERROR if self._gone else dg.AssetCheckSeverity.WARN,
        )


def _share(asset: dg.AssetKey, name: str, count: int, tasks: int, limit: float) -> dg.AssetCheckEvaluation:
    share = count / tasks if tasks else 0.0
    metadata = {"tasks": tasks, "count": count, "share": round(share, 4), "limit": limit}
    return _evaluation(asset, name, share <= limit, metadata)


def _evaluation(
    asset: dg.AssetKey,
    name: str,
    passed: bool,
    metadata: dict[str, Any],
    *,
    severity: dg.AssetCheckSeverity | None = None,
    blocking: bool = False,
) -> dg.AssetCheckEvaluation:
    if severity is None:
        severity = dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=name,
        passed=passed,
        metadata=metadata,
        severity=severity,
        blocking=blocking,
    )


def _shown(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The first of some findings as a table; nothing where there are none."""
    if not values:
        return {}
    first = list(values.items())[:_MOST_SHOWN]
    return {
        name: dg.TableMetadataValue(
            [dg.TableRecord({"what": key, "found": str(value)}) for key, value in first],
            dg.TableSchema([dg.TableColumn("what"), dg.TableColumn("found")]),
        )
    }


def _whole_numbers(evaluation: dg.AssetCheckEvaluation) -> dict[str, int]:
    return {name: found.value for name, found in evaluation.metadata.items() if isinstance(found.value, int)}


def _read_table(evaluation: dg.AssetCheckEvaluation | None, name: str) -> Iterator[tuple[str, str]]:
    """What `_shown` has put into an evaluation."""
    table = evaluation.metadata.get(name) if evaluation is not None else None
    if isinstance(table, dg.TableMetadataValue):
        for record in table.records:
            yield str(record.data["what"]), str(record.data["found"])
