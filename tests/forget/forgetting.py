"""A world whose tasks are forgotten, and what is left of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from tests.world import World

DAY, NEXT_DAY = "2024-12-24", "2024-12-25"


def submit(world: World, *task_ids: str, day: str = DAY, **generation: Any) -> None:
    world.submit(*((task_id, f"{day}T{number:02}:00:00Z") for number, task_id in enumerate(task_ids)), **generation)


def forget(
    world: World, *task_ids: str, settings: dict[str, Any] | None = None, **config: Any
) -> dg.ExecuteInProcessResult:
    """Run the job luma_forget."""
    job = world.component(**(settings or {})).definitions().resolve_job_def("luma_forget")
    return job.execute_in_process(
        instance=world.instance,
        run_config={"ops": {"luma_forget": {"config": {"task_ids": list(task_ids), **config}}}},
        raise_on_error=False,
    )


def numbers(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the op, also of one that failed."""
    for event in result.all_node_events:
        if event.is_successful_output:
            return {name: value.value for name, value in event.step_output_data.metadata.items()}
        if event.is_step_failure and event.step_failure_data.user_failure_data is not None:
            found = event.step_failure_data.user_failure_data.metadata
            return {name: value.value for name, value in found.items()}
    raise AssertionError("the op has not ended")


def said(world: World, result: dg.ExecuteInProcessResult) -> str:
    """What the run's log says to people."""
    return "\n".join(entry.user_message for entry in world.instance.all_logs(result.run_id))


def versions(world: World, bucket: str | None = None) -> set[tuple[str, str]]:
    """Key and version of every version and delete marker in the bucket."""
    pages = world.store.client().get_paginator("list_object_versions").paginate(Bucket=bucket or world.bucket)
    return {
        (item["Key"], item["VersionId"])
        for page in pages
        for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
    }


def keep_versions(world: World) -> None:
    world.store.client().put_bucket_versioning(Bucket=world.bucket, VersioningConfiguration={"Status": "Enabled"})


def ids(world: World, dataset: str) -> set[str]:
    return {row["task_id"] for row in world.rows(dataset)}


def traces(world: World, text: str) -> list[str]:
    """Where a text still is: in a file of the data root or its name, or in an object of the bucket or its key."""
    root = world.directory / "data"
    found = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and _has(path, text)]
    objects = world.objects()
    return found + [key for key, body in objects.items() if text in key or text.encode() in body]


def _has(path: Path, text: str) -> bool:
    if text in path.name:
        return True
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            return bool(re.search(re.escape(text), str(file.read().to_pylist())))
    return text.encode() in path.read_bytes()


def records(world: World) -> list[dict[str, Any]]:
    return world.rows("luma_forgotten")
