"""The asset checks: what a run looks at after its partitions are done, and what of it stops the assets downstream."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from luma_pipeline.assets.partition import GENERATIONS, VIDEOS, PartitionReport

__all__ = ["RunChecks", "Thresholds", "check_specs"]

ONE_ROW_PER_TASK = "one_row_per_task"
FAILED_SHARE = "failed_share"
NOT_FOUND_SHARE = "not_found_share"
ERROR_SHARE = "error_share"
SCHEMA_DRIFT = "schema_drift"
VIDEOS_IN_BUCKET = "videos_in_bucket"

_MOST_PARTITIONS_SHOWN = 20


@dataclass(frozen=True)
class Thresholds:
    """The largest shares (0..1) of a run's tasks that may be so before a check fails."""

    failed: float = 0.5
    not_found: float = 0.2
    error: float = 0.1


def check_specs() -> list[dg.AssetCheckSpec]:
    """Every check. They are evaluated once a run, over all of its partitions: an event a partition and check would
    cost a wide backfill more than its work."""
    return [
        dg.AssetCheckSpec(
            ONE_ROW_PER_TASK,
            asset=GENERATIONS,
            blocking=True,
            description="Every task of a partition has exactly one row, and no row is without its task.",
        ),
        dg.AssetCheckSpec(FAILED_SHARE, asset=GENERATIONS, description="Not too many generations have failed."),
        dg.AssetCheckSpec(
            NOT_FOUND_SHARE,
            asset=GENERATIONS,
            description="Not too many tasks are unknown to the provider: a wrong base URL or account shows here.",
        ),
        dg.AssetCheckSpec(ERROR_SHARE, asset=GENERATIONS, description="Not too many tasks have ended in an error."),
        dg.AssetCheckSpec(
            SCHEMA_DRIFT, asset=GENERATIONS, description="The provider's answers have the fields and types of its page."
        ),
        dg.AssetCheckSpec(
            VIDEOS_IN_BUCKET,
            asset=VIDEOS,
            blocking=True,
            description="Every completed task's artifacts are in the bucket. An object that the manifest has and the "
            "bucket has not stops the assets downstream; one that could not be copied is a warning.",
        ),
    ]


@dataclass
class RunChecks:
    """Gathers what the checks need from each partition's report."""

    thresholds: Thresholds
    _reports: list[PartitionReport] = field(default_factory=list)
    _looked_up: int = 0
    _gone: dict[str, str] = field(default_factory=dict)

    def add(self, report: PartitionReport) -> None:
        """Take in a partition that is done."""
        self._reports.append(report)

    def look_up(self, sizes_of: Callable[[Iterable[str]], Mapping[str, int | None]], most: int | None) -> None:
        """Ask the store for up to `most` of the objects in the partitions' manifests (None: for all that they name)."""
        named = [pair for report in self._reports if report.videos is not None for pair in report.videos.to_check]
        if most is not None and len(named) > most:
            named = random.sample(named, most)
        found = sizes_of(key for key, _ in named)
        self._looked_up = len(named)
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
        reports = [report for report in self._reports if report.generations is not None]
        if not reports:
            return
        wrong = {report.partition.key: report.row_faults for report in reports if report.row_faults}
        yield _evaluation(
            GENERATIONS,
            ONE_ROW_PER_TASK,
            not wrong,
            {"partitions": len(reports), **_shown("faults", wrong)},
            blocking=True,
        )
        outcomes = _total(report.generations.outcomes for report in reports if report.generations)
        states = _total(report.generations.states for report in reports if report.generations)
        tasks = sum(outcomes.values())
        limits = self.thresholds
        yield _share(FAILED_SHARE, states.get("failed", 0), tasks, limits.failed)
        yield _share(NOT_FOUND_SHARE, outcomes.get("not_found", 0), tasks, limits.not_found)
        errors = outcomes.get("invalid_response", 0) + outcomes.get("request_failed", 0)
        yield _share(ERROR_SHARE, errors, tasks, limits.error)
        fields: dict[str, int] = {}
        for report in reports:
            for drift in report.generations.drift.values() if report.generations else ():
                name = f"{drift.field} ({'unknown' if drift.unknown else 'found'} {drift.found})"
                fields[name] = fields.get(name, 0) + drift.count
        yield _evaluation(GENERATIONS, SCHEMA_DRIFT, not fields, {"fields": len(fields), **_shown("drift", fields)})

    def _of_videos(self) -> Iterator[dg.AssetCheckEvaluation]:
        reports = [report for report in self._reports if report.videos is not None]
        if not reports:
            return
        statuses = _total(report.videos.statuses for report in reports if report.videos)
        not_copied = statuses.get("expired", 0) + statuses.get("failed", 0)
        yield _evaluation(
            VIDEOS,
            VIDEOS_IN_BUCKET,
            not not_copied and not self._gone,
            {"not_copied": not_copied, **statuses, "looked_up": self._looked_up, **_shown("gone", self._gone)},
            blocking=True,
            severity=dg.AssetCheckSeverity.ERROR if self._gone else dg.AssetCheckSeverity.WARN,
        )


def _share(name: str, count: int, tasks: int, limit: float) -> dg.AssetCheckEvaluation:
    share = count / tasks if tasks else 0.0
    metadata = {"tasks": tasks, "count": count, "share": round(share, 4), "limit": limit}
    return _evaluation(GENERATIONS, name, share <= limit, metadata)


def _evaluation(
    asset: str,
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
        asset_key=dg.AssetKey(asset),
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
    first = list(values.items())[:_MOST_PARTITIONS_SHOWN]
    return {
        name: dg.TableMetadataValue(
            [dg.TableRecord({"what": key, "found": str(value)}) for key, value in first],
            dg.TableSchema([dg.TableColumn("what"), dg.TableColumn("found")]),
        )
    }


def _total(counters: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counter in counters:
        for key, count in counter.items():
            total[key] = total.get(key, 0) + count
    return total
