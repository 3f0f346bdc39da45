"""The asset checks: the evaluation of each, from the verdicts on all partitions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from luma_pipeline.dataset import AuditSummary, GenerationsVerdict, VideosVerdict
from luma_pipeline.engine.dataset_check import DatasetState, LostObject
from luma_pipeline.engine.partition import GENERATIONS, VIDEOS
from luma_pipeline.orchestration.instance import Instance

__all__ = ["Thresholds", "audit_evaluation", "evaluations"]

ONE_ROW_PER_TASK = "one_row_per_task"
FAILED_SHARE = "failed_share"
NOT_FOUND_SHARE = "not_found_share"
ERROR_SHARE = "error_share"
SCHEMA_DRIFT = "schema_drift"
ANSWERS_MATCH_TASKS = "answers_match_tasks"
VIDEOS_IN_BUCKET = "videos_in_bucket"
VIDEOS_MATCH_ANSWERS = "videos_match_answers"
BUCKET_MATCHES_MANIFEST = "bucket_matches_manifest"

_MOST_SHOWN = 20
_NAMED = 3
_LEAST_TASKS = 10
"""A partition with fewer tasks is judged together with others: one failed task of two is no alarm."""


@dataclass(frozen=True)
class Thresholds:
    """The largest shares (0..1) of a partition's tasks that may be so before a check fails."""

    failed: float = 0.5
    not_found: float = 0.2
    error: float = 0.1


def evaluations(
    state: DatasetState, this_run: Collection[str], thresholds: Thresholds, instance: Instance
) -> Iterator[dg.AssetCheckEvaluation]:
    """The evaluation of every check. What is wrong in partitions of `this_run` stops the assets downstream."""
    stored = state.verdicts.items()
    generations = {key: verdict.generations for key, verdict in stored if verdict.generations is not None}
    videos = {key: verdict.videos for key, verdict in stored if verdict.videos is not None}
    common = _common(state)
    of_generations = _Judged(instance.asset_key(GENERATIONS), state.not_judged[GENERATIONS], common)
    yield _one_row_per_task(of_generations, generations, this_run)
    limits: Mapping[str, tuple[float, Callable[[GenerationsVerdict], int]]] = {
        FAILED_SHARE: (thresholds.failed, lambda part: part.failed),
        NOT_FOUND_SHARE: (thresholds.not_found, lambda part: part.not_found),
        ERROR_SHARE: (thresholds.error, lambda part: part.in_error),
    }
    for name, (limit, count_of) in limits.items():
        yield _share(of_generations, name, generations, count_of, limit)
    yield _schema_drift(of_generations, generations, state)
    yield _answers_match_tasks(of_generations, generations, state)
    of_videos = _Judged(instance.asset_key(VIDEOS), state.not_judged[VIDEOS], common)
    yield _videos_in_bucket(of_videos, videos, state, this_run)
    yield _videos_match_answers(of_videos, videos, state)
    yield audit_evaluation(instance, state.audit)


@dataclass(frozen=True)
class _Judged:
    """What the checks of an asset have in common."""

    asset: dg.AssetKey
    not_judged: Sequence[str]
    common: Mapping[str, Any]

    def evaluation(
        self,
        name: str,
        judged: int,
        wrong: Mapping[str, Mapping[str, Any]],
        metadata: Mapping[str, Any],
        *,
        is_well: str,
        nothing: str = "",
        severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
        is_blocking: bool = False,
        problem: str = "",
    ) -> dg.AssetCheckEvaluation:
        """An evaluation that names the partitions that are wrong, the newest first.

        `judged` is how many partitions the verdicts are of, `nothing` says that none of them told anything.
        """
        newest = dict(sorted(wrong.items(), reverse=True))
        not_judged = {"not_yet_judged": len(self.not_judged)} if self.not_judged else {}
        return dg.AssetCheckEvaluation(
            asset_key=self.asset,
            check_name=name,
            passed=not wrong and not problem,
            description=self._description(judged, list(newest), is_well, nothing) + (f" {problem}" if problem else ""),
            metadata={
                **metadata,
                "partitions": judged,
                **({"wrong_partitions": len(wrong)} if wrong else {}),
                **_table("wrong", [{"partition": key, **numbers} for key, numbers in newest.items()]),
                **not_judged,
                **self.common,
            },
            severity=severity,
            blocking=is_blocking,
        )

    def _description(self, judged: int, wrong: Sequence[str], is_well: str, nothing: str) -> str:
        if wrong:
            named = ", ".join(wrong[:_NAMED]) + (f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else "")
            said = f"Wrong now in {len(wrong)} of {judged} partitions: {named}."
        elif not judged:
            said = "Passes because nothing was judged: no partition has a verdict yet."
        else:
            said = f"Passes because nothing was judged: {nothing}." if nothing else is_well
        if self.not_judged:
            said += (
                f" {len(self.not_judged)} partitions of an earlier version are not yet judged: execute this check by "
                "itself, or run them."
            )
        return said


def _one_row_per_task(
    judged: _Judged, parts: Mapping[str, GenerationsVerdict], this_run: Collection[str]
) -> dg.AssetCheckEvaluation:
    wrong = {
        key: {"repeated": part.repeated, "missing": part.missing, "without_task": part.without_task}
        for key, part in parts.items()
        if part.repeated or part.missing or part.without_task
    }
    tasks = sum(part.tasks for part in parts.values())
    return judged.evaluation(
        ONE_ROW_PER_TASK,
        len(parts),
        wrong,
        {"tasks": tasks},
        is_well=f"Each of {tasks} tasks in {len(parts)} partitions has its row.",
        nothing="" if tasks else f"{len(parts)} partitions have no task",
        severity=dg.AssetCheckSeverity.ERROR,
        is_blocking=not wrong.keys().isdisjoint(this_run),
    )


def _share(
    judged: _Judged,
    name: str,
    parts: Mapping[str, GenerationsVerdict],
    count_of: Callable[[GenerationsVerdict], int],
    limit: float,
) -> dg.AssetCheckEvaluation:
    """Judge each partition with at least 10 tasks by itself, and the smaller ones together."""
    small = [part for part in parts.values() if part.tasks < _LEAST_TASKS]
    of_small = _share_of(sum(map(count_of, small)), sum(part.tasks for part in small))
    wrong = {}
    tasks = counts = 0
    for key, part in parts.items():
        tasks += part.tasks
        if count := count_of(part):
            counts += count
            share = _share_of(count, part.tasks)
            if share > limit and (part.tasks >= _LEAST_TASKS or of_small > limit):
                wrong[key] = {"tasks": part.tasks, "count": count, "share": round(share, 4)}
    metadata = {
        "share": round(_share_of(counts, tasks), 4),
        "limit": limit,
        "count": counts,
        "tasks": tasks,
        **({"partitions_judged_together": len(small), "share_together": round(of_small, 4)} if small else {}),
    }
    return judged.evaluation(
        name,
        len(parts),
        wrong,
        metadata,
        is_well=f"No share in {len(parts)} partitions is above {limit:g}.",
        nothing="" if tasks else f"{len(parts)} partitions have no task",
    )


def _share_of(count: int, tasks: int) -> float:
    return count / tasks if tasks else 0.0


def _schema_drift(
    judged: _Judged, parts: Mapping[str, GenerationsVerdict], state: DatasetState
) -> dg.AssetCheckEvaluation:
    wrong = {key: {"values": part.drifted} for key, part in parts.items() if part.drifted}
    tasks = sum(part.tasks for part in parts.values())
    drift = [
        {
            "field": drift.field,
            "found": f"{'unknown' if drift.unknown else 'found'} {drift.found}",
            "count": drift.count,
            "example_task_id": drift.example_task_id,
        }
        for drift in sorted(state.drift, key=lambda drift: -drift.count)
    ]
    return judged.evaluation(
        SCHEMA_DRIFT,
        len(parts),
        wrong,
        {"values": sum(part.drifted for part in parts.values()), **_table("newest_drift", drift)},
        is_well=f"The answers for {tasks} tasks are as on the page.",
        nothing="" if tasks else f"{len(parts)} partitions have no task",
    )


def _answers_match_tasks(
    judged: _Judged, parts: Mapping[str, GenerationsVerdict], state: DatasetState
) -> dg.AssetCheckEvaluation:
    wrong = {key: {"mismatched": part.mismatched} for key, part in parts.items() if part.mismatched}
    tasks = sum(part.tasks for part in parts.values())
    return judged.evaluation(
        ANSWERS_MATCH_TASKS,
        len(parts),
        wrong,
        {
            "mismatched": sum(part.mismatched for part in parts.values()),
            **_table("examples", [{"task_id": task_id} for task_id in state.mismatched_tasks]),
        },
        is_well=f"None of {tasks} tasks was answered with another task's generation.",
        nothing="" if tasks else f"{len(parts)} partitions have no task",
    )


def _videos_in_bucket(
    judged: _Judged, parts: Mapping[str, VideosVerdict], state: DatasetState, this_run: Collection[str]
) -> dg.AssetCheckEvaluation:
    wrong = {
        key: {"lost": part.lost, "expired": part.expired, "failed": part.failed, "in_bucket": part.in_bucket}
        for key, part in parts.items()
        if part.lost or part.expired or part.failed
    }
    lost = [key for key, part in parts.items() if part.lost]
    expired, failed = (sum(getattr(part, name) for part in parts.values()) for name in ("expired", "failed"))
    objects, store = sum(part.in_bucket for part in parts.values()), state.store
    looked_up = f"{store.looked_up} of them were looked up" if store.looked_up else "none of them was looked up"
    return judged.evaluation(
        VIDEOS_IN_BUCKET,
        len(parts),
        wrong,
        {
            "lost": sum(part.lost for part in parts.values()),
            "not_copied": expired + failed,
            "in_bucket": objects,
            "looked_up": store.looked_up,
            **_table("gone", [_lost_row(each) for each in store.lost]),
            **({"not_looked_up": store.problem} if store.problem else {}),
        },
        is_well=f"{objects} objects are in the bucket by the manifests; {looked_up}.",
        nothing="" if objects else f"{len(parts)} partitions have no video",
        severity=dg.AssetCheckSeverity.ERROR if lost else dg.AssetCheckSeverity.WARN,
        is_blocking=not set(lost).isdisjoint(this_run),
        problem=f"The store could not be asked: {store.problem}" if store.problem else "",
    )


def _videos_match_answers(
    judged: _Judged, parts: Mapping[str, VideosVerdict], state: DatasetState
) -> dg.AssetCheckEvaluation:
    wrong = {
        key: {"differing": part.differing, "in_bucket": part.in_bucket} for key, part in parts.items() if part.differing
    }
    objects = sum(part.in_bucket for part in parts.values())
    return judged.evaluation(
        VIDEOS_MATCH_ANSWERS,
        len(parts),
        wrong,
        {
            "differing": sum(part.differing for part in parts.values()),
            "in_bucket": objects,
            **_table("examples", state.differing_videos),
        },
        is_well=f"None of {objects} objects differs from what its answer says.",
        nothing="" if objects else f"{len(parts)} partitions have no video",
    )


def audit_evaluation(instance: Instance, audit: AuditSummary | None) -> dg.AssetCheckEvaluation:
    """The evaluation of `bucket_matches_manifest` by an audit; None: there was none yet."""
    key = instance.asset_key(VIDEOS)
    if audit is None:
        description = f"Passes because there was no audit yet: the job {instance.audit_job_name} makes one."
        return dg.AssetCheckEvaluation(
            asset_key=key, check_name=BUCKET_MATCHES_MANIFEST, passed=True, description=description
        )
    open_counts = {name: count - audit.repaired.get(name, 0) for name, count in audit.counts.items()}
    told = ", ".join(f"{count} {name}" for name, count in open_counts.items() if count) or "nothing"
    description = (
        f"Audit of {audit.audited_at:%Y-%m-%d %H:%M} UTC: {audit.rows} rows, {audit.listed} objects listed, "
        f"{audit.read} read. Found: {told}."
    )
    if audit.problems:
        description += f" Not looked at: {audit.problems[0]}"
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=BUCKET_MATCHES_MANIFEST,
        passed=audit.is_well,
        description=description,
        metadata={
            **audit.counts,
            **{f"repaired_{name}": count for name, count in audit.repaired.items()},
            "rows": audit.rows,
            "objects_listed": audit.listed,
            "objects_read": audit.read,
            **_table("examples", audit.examples),
            **({"not_looked_at": list(audit.problems)} if audit.problems else {}),
            "audited_at": dg.MetadataValue.timestamp(audit.audited_at),
            "report": dg.MetadataValue.path(audit.path),
        },
        severity=dg.AssetCheckSeverity.ERROR if audit.errors or audit.problems else dg.AssetCheckSeverity.WARN,
    )


def _lost_row(lost: LostObject) -> dict[str, str]:
    there = "is not there" if lost.found_bytes is None else f"has {lost.found_bytes} bytes"
    found = f"{there}, the manifest says {lost.size_bytes} bytes"
    return {"partition": lost.partition, "what": lost.key, "found": found}


def _common(state: DatasetState) -> dict[str, Any]:
    """What of the verdicts was left out."""
    return {
        **({"verdicts_of_other_partitions": state.left_out} if state.left_out else {}),
        **({"unknown_names": len(state.unknown), "unknown_example": state.unknown[0]} if state.unknown else {}),
    }


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first 20 of some findings as a table, and how many more there are; nothing where there are none."""
    if not rows:
        return {}
    columns = [
        dg.TableColumn(column, "int" if isinstance(value, int) else "string") for column, value in rows[0].items()
    ]
    table = dg.TableMetadataValue([dg.TableRecord(dict(row)) for row in rows[:_MOST_SHOWN]], dg.TableSchema(columns))
    more = {f"{name}_not_shown": len(rows) - _MOST_SHOWN} if len(rows) > _MOST_SHOWN else {}
    return {name: table, **more}
