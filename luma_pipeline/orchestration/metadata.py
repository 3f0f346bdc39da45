"""What a materialization shows: numbers that the UI plots, and a preview a person can read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg

from luma_pipeline.dataset import Written
from luma_pipeline.engine.generations import GenerationsReport
from luma_pipeline.engine.partition import GENERATIONS, VIDEOS
from luma_pipeline.engine.tasks import TasksReport
from luma_pipeline.engine.videos import VideosReport
from luma_pipeline.luma import State
from luma_pipeline.media import CopyStatus, redact_link
from luma_pipeline.orchestration.instance import UNNAMED, Instance
from luma_pipeline.orchestration.specs import column_lineage

__all__ = ["generations_metadata", "tasks_metadata", "videos_metadata"]

Metadata = dict[str, Any]

_MEGABYTE = 1_000_000


def tasks_metadata(report: TasksReport) -> Metadata:
    """Metadata of a partition of luma_tasks."""
    return {
        **_file(report.written),
        "tasks": report.tasks,
        "source_rows": report.source_rows,
        "blank_task_ids": report.blank_ids,
        "repeated_task_ids": report.repeated_ids,
        "task_ids_of_earlier_partitions": report.ids_of_earlier_partitions,
        "unreadable_values": report.unreadable_values,
        "unreadable_times": report.unreadable_times,
        "preview": dg.MetadataValue.md(_markdown(report.preview)),
    }


def generations_metadata(report: GenerationsReport, instance: Instance = UNNAMED) -> Metadata:
    """Metadata of a partition of luma_generations."""
    states, outcomes = report.states, report.outcomes
    known = {state.value for state in State}
    metadata: Metadata = {
        **_file(report.written),
        "completed": states[State.COMPLETED.value],
        "failed": states[State.FAILED.value],
        "open": sum(count for state, count in states.items() if state not in ("completed", "failed")),
        "not_found": outcomes["not_found"],
        "in_error": outcomes["invalid_response"] + outcomes["request_failed"],
        "awaited": report.open_tasks,
        "no_longer_in_source": report.dropped,
        "asked": report.asked,
        "kept": report.kept,
        "resumed": report.resumed,
        "unreadable_checkpoints": report.unreadable_checkpoints,
        "requests": report.requests,
        "retries": report.retries,
        "throttled": report.throttled,
        "waited_for_limit_seconds": round(report.waited_seconds, 3),
        "seconds": round(report.seconds, 3),
        "schema_drift": sum(drift.count for drift in report.drift.values()),
        "preview": dg.MetadataValue.md(_generations_preview(report.preview)),
        "dagster/column_lineage": column_lineage(GENERATIONS, instance),
    }
    unknown = sorted(state for state in states if state not in known)
    if unknown:
        metadata["unknown_states"] = ", ".join(unknown[:20])
    for name, quantile in (("latency_p50_seconds", 0.5), ("latency_p95_seconds", 0.95)):
        seconds = report.latency(quantile)
        if seconds is not None:
            metadata[name] = round(seconds, 4)
    if report.drift:
        metadata["schema_drift_fields"] = _drift_table(report)
    return metadata


def videos_metadata(report: VideosReport, location: str, instance: Instance = UNNAMED) -> Metadata:
    """Metadata of a partition of luma_videos; `location` is the S3 prefix."""
    metadata: Metadata = {
        **_file(report.written),
        "rows": report.rows,
        **{status.value: report.statuses[status.value] for status in CopyStatus},
        "bytes_downloaded": report.bytes_downloaded,
        "bytes_in_bucket": report.bytes_stored,
        "megabytes_per_second": round(report.bytes_downloaded / _MEGABYTE / max(report.seconds, 1e-9), 3),
        "seconds": round(report.seconds, 3),
        "s3_location": _s3_location(location),
        "dagster/column_lineage": column_lineage(VIDEOS, instance),
    }
    for name, quantile in (("copy_p50_seconds", 0.5), ("copy_p95_seconds", 0.95)):
        seconds = report.copy_quantile(quantile)
        if seconds is not None:
            metadata[name] = round(seconds, 4)
    if report.first_failures:
        metadata["first_failures"] = dg.TableMetadataValue(
            [dg.TableRecord(row) for row in report.first_failures],
            dg.TableSchema([dg.TableColumn(name) for name in report.first_failures[0]]),
        )
    return metadata


def _s3_location(location: str) -> dg.UrlMetadataValue | dg.PathMetadataValue:
    """A link into AWS's console, which knows neither other stores nor, at that address, China and the US government."""
    bucket, _, prefix = location.removeprefix("s3://").partition("/")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    own_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if own_endpoint or region.startswith(("cn-", "us-gov-", "us-iso")):
        return dg.MetadataValue.path(location)
    folder = quote(f"{prefix.strip('/')}/") if prefix.strip("/") else ""
    return dg.MetadataValue.url(f"https://s3.console.aws.amazon.com/s3/buckets/{quote(bucket)}?prefix={folder}")


def _file(written: Written | None) -> Metadata:
    if written is None:
        return {}
    return {
        "dagster/row_count": written.rows,
        "size_bytes": written.size_bytes,
        "path": dg.MetadataValue.path(written.path),
    }


def _drift_table(report: GenerationsReport) -> dg.TableMetadataValue:
    columns = [
        dg.TableColumn("field"),
        dg.TableColumn("found", description="JSON type that came"),
        dg.TableColumn("kind", description="unknown: not on the provider's page; type: another type than there"),
        dg.TableColumn("count", "int"),
        dg.TableColumn("example_task_id"),
    ]
    ordered = sorted(report.drift.values(), key=lambda drift: -drift.count)[:100]
    records = [
        dg.TableRecord(
            {
                "field": drift.field,
                "found": drift.found,
                "kind": "unknown" if drift.unknown else "type",
                "count": drift.count,
                "example_task_id": drift.example_task_id,
            }
        )
        for drift in ordered
    ]
    return dg.TableMetadataValue(records, dg.TableSchema(columns))


def _generations_preview(rows: Sequence[Mapping[str, Any]]) -> str:
    return _markdown(
        [
            {
                "task": row["task_id"],
                "state": row["state"] or row["outcome"],
                "prompt": _short(row["request_prompt"] or row["error_message"] or ""),
                "thumbnail": _Picture(row["thumbnail_url"]),
            }
            for row in rows
        ]
    )


class _Picture:
    """A cell that shows a picture. Signed links are not shown: the query that makes them work is a secret."""

    def __init__(self, url: str | None) -> None:
        self.url = url if url and url.startswith("https://") and redact_link(url) == url else None

    def __str__(self) -> str:
        return f"![]({quote(self.url, safe=':/?&=%@+,;~-._')})" if self.url else ""


def _markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    if not rows:
        return "*no rows*"
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    for row in rows:
        cells = (str(value) if isinstance(value, _Picture) else _plain(_short(value)) for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _short(value: object, length: int = 80) -> str:
    text = " ".join(str("" if value is None else value).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _plain(text: str) -> str:
    """Text with nothing in it that Markdown or HTML would read: prompts are written by strangers."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("|", "&#124;")):
        text = text.replace(character, entity)
    return "".join(f"\\{c}" if c in "\\`*_[]()!#~" else c for c in text)
