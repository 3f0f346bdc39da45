"""What a materialization shows: numbers that the UI plots, and a preview a person can read.

The UI shows a table of them in the order given here, so the few that matter come first. It sorts only the plots, by
name, and leaves a gap where a number is missing. What never changes is in the asset's definition and not here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg

from luma_pipeline.dataset import GenerationsVerdict, VideosVerdict, Written
from luma_pipeline.engine.generations import GenerationsReport
from luma_pipeline.engine.tasks import TasksReport
from luma_pipeline.engine.videos import VideosReport
from luma_pipeline.luma import State
from luma_pipeline.media import CopyStatus, redact_link

__all__ = ["generations_metadata", "left_metadata", "tasks_metadata", "videos_metadata"]

Metadata = dict[str, Any]

_MEGABYTE = 1_000_000
_OF_PICTURES = ("https://", "http://127.0.0.1:", "http://localhost:")
_LONGEST_ADDRESS = 400


def tasks_metadata(report: TasksReport) -> Metadata:
    """Metadata of a partition of luma_tasks."""
    return {
        **_rows(report.written, report.tasks),
        **_without_zeros(
            {
                "source_rows": report.source_rows if report.source_rows != report.tasks else 0,
                "blank_task_ids": report.blank_ids,
                "repeated_task_ids": report.repeated_ids,
                "task_ids_of_earlier_partitions": report.ids_of_earlier_partitions,
                "unreadable_values": report.unreadable_values,
                "unreadable_times": report.unreadable_times,
                "forgotten": report.forgotten,
            }
        ),
        "preview": dg.MetadataValue.md(_markdown(report.preview)),
        **_file(report.written),
    }


def generations_metadata(report: GenerationsReport, earlier: GenerationsVerdict | None = None) -> Metadata:
    """Metadata of a partition of luma_generations.

    `earlier` is what was wrong before the file was written again: a number that was something is shown as zero.
    """
    before = _found(earlier, not_found="not_found", in_error="in_error", drifted="schema_drift")
    states, outcomes = report.states, report.outcomes
    known = {state.value for state in State}
    is_open = sum(count for state, count in states.items() if state not in ("completed", "failed"))
    in_error = outcomes["invalid_response"] + outcomes["request_failed"]
    metadata: Metadata = {
        **_rows(report.written, sum(outcomes.values())),
        "completed": states[State.COMPLETED.value],
        "failed": states[State.FAILED.value],
        "open": is_open,
        **_without_zeros({"not_found": outcomes["not_found"], "in_error": in_error}, before),
        "asked": report.asked,
        "asked_again_later": report.open_tasks,
        **_without_zeros(
            {
                "columns_made_again": report.reflattened or 0,
                "without_readable_answer": report.without_answer or 0,
                "no_longer_in_source": report.dropped,
                "resumed": report.resumed,
                "unreadable_checkpoints": report.unreadable_checkpoints,
                "requests": report.requests if report.requests != report.asked else 0,
                "retries": report.retries,
                "throttled": report.throttled,
                "waited_for_limit_seconds": round(report.waited_seconds, 3),
                "schema_drift": sum(drift.count for drift in report.drift.values()),
            },
            before,
        ),
    }
    if report.drift:
        metadata["schema_drift_fields"] = _drift_table(report)
    unknown = sorted(state for state in states if state not in known)
    if unknown:
        metadata["unknown_states"] = ", ".join(unknown[:20])
    metadata["preview"] = dg.MetadataValue.md(_generations_preview(report.preview))
    metadata["seconds"] = round(report.seconds, 3)
    for name, quantile in (("latency_p50_seconds", 0.5), ("latency_p95_seconds", 0.95)):
        seconds = report.latency(quantile)
        if seconds is not None:
            metadata[name] = round(seconds, 4)
    return metadata | _file(report.written)


def videos_metadata(
    report: VideosReport,
    earlier: VideosVerdict | None = None,
    *,
    tasks: Iterable[Mapping[str, Any]] = (),
    link_of: Callable[[str], str | None] = lambda _: None,
) -> Metadata:
    """Metadata of a partition of luma_videos; `earlier` as in `generations_metadata`.

    `tasks` are the rows of the preview of luma_generations, and `link_of` gives the link to the object under a key.
    """
    before = _found(earlier, expired="expired", failed="failed")
    copied, present = (report.statuses[status.value] for status in (CopyStatus.COPIED, CopyStatus.ALREADY_PRESENT))
    metadata: Metadata = {
        **_rows(report.written, report.rows),
        "copied": copied,
        "already_present": present,
        **_without_zeros({name: report.statuses[name] for name in ("expired", "failed")}, before),
        "bytes_in_bucket": report.bytes_stored,
    }
    if report.first_failures:
        metadata["first_failures"] = dg.TableMetadataValue(
            [dg.TableRecord(row) for row in report.first_failures],
            dg.TableSchema([dg.TableColumn(name) for name in report.first_failures[0]]),
        )
    metadata["preview"] = dg.MetadataValue.md(_videos_preview(report, tasks, link_of))
    metadata["seconds"] = round(report.seconds, 3)
    if report.bytes_downloaded:
        metadata["bytes_downloaded"] = report.bytes_downloaded
        speed = report.bytes_downloaded / _MEGABYTE / max(report.seconds, 1e-9)
        metadata["megabytes_per_second"] = round(speed, 3)
    for name, quantile in (("copy_p50_seconds", 0.5), ("copy_p95_seconds", 0.95)):
        seconds = report.copy_quantile(quantile)
        if seconds is not None:
            metadata[name] = round(seconds, 4)
    return metadata | _file(report.written)


def left_metadata(written: Written) -> Metadata:
    """Metadata of a partition that a run has left as it is."""
    return {**_rows(written, written.rows), **_file(written)}


def _without_zeros(numbers: Mapping[str, float], before: Collection[str] = ()) -> Metadata:
    """Numbers of what happens rarely: zeros are left out, but for those that were something before."""
    return {name: number for name, number in numbers.items() if number or name in before}


def _found(earlier: GenerationsVerdict | VideosVerdict | None, **names: str) -> Collection[str]:
    """The numbers that were something before: of a verdict's counts, by the names that they have here."""
    return {name for count, name in names.items() if earlier is not None and getattr(earlier, count)}


def _rows(written: Written | None, rows: int) -> Metadata:
    return {"dagster/partition_row_count": written.rows if written is not None else rows}


def _file(written: Written | None) -> Metadata:
    if written is None:
        return {}
    return {"size_bytes": written.size_bytes, "path": dg.MetadataValue.path(written.path)}


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


def _videos_preview(
    report: VideosReport, tasks: Iterable[Mapping[str, Any]], link_of: Callable[[str], str | None]
) -> str:
    """The first artifacts, with a link to each object. Pictures are the provider's: their bytes would be stored with
    every materialization. The whole is about 3 KiB, and never more than 24.
    """
    known = {task["task_id"]: task for task in tasks}
    shown = []
    for row in report.preview:
        task = known.get(row["task_id"], {})
        shown.append(
            {
                "task": row["task_id"],
                "artifact": row["artifact"],
                "status": row["status"],
                "object": _Link(row["key"], link_of(row["key"]) if row["key"] else None),
                "megabytes": "" if row["size_bytes"] is None else f"{row['size_bytes'] / _MEGABYTE:.2f}",
                "prompt": task.get("request_prompt") or "",
                "thumbnail": _Picture(task.get("thumbnail_url")),
            }
        )
        known.pop(row["task_id"], None)  # its other artifacts follow
    return _markdown(shown)


class _Picture:
    """A cell that shows a picture. Signed links are not shown: the query that makes them work is a secret.

    Plain HTTP is for the sandbox alone: a browser shows no such picture on a page that came by HTTPS.
    """

    def __init__(self, url: str | None) -> None:
        self.url = _address(url) if url and url.startswith(_OF_PICTURES) and redact_link(url) == url else None

    def __str__(self) -> str:
        return f"![]({self.url})" if self.url else ""


class _Link:
    """A cell that leads to an object, or names it where there is no address."""

    def __init__(self, key: str | None, url: str | None) -> None:
        self.name = (key or "").rpartition("/")[2]
        self.url = _address(url) if url else None

    def __str__(self) -> str:
        name = _plain(_short(self.name, 40))
        return f"[{name}]({self.url})" if self.url else name


def _address(url: str) -> str | None:
    """An address as Markdown takes it; None for one that is too long to be stored with every materialization."""
    quoted = quote(url, safe=":/?&=%@+,;~-._")
    return quoted if len(quoted) <= _LONGEST_ADDRESS else None


def _markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    if not rows:
        return "*no rows*"
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    for row in rows:
        cells = (
            str(value) if isinstance(value, (_Picture, _Link)) else _plain(_short(value)) for value in row.values()
        )
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
