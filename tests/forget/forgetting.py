"""A world whose tasks are forgotten, and what is left of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from luma_pipeline.forget import ForgetReport, ForgetRequest, ForgetSettings, forget_tasks
from luma_pipeline.gallery import GallerySettings
from luma_pipeline.media import TransferConfig
from tests.world import World

DAY, NEXT_DAY = "2024-12-24", "2024-12-25"
DATASETS = ("luma_tasks", "luma_generations", "luma_videos")


def submit(world: World, *task_ids: str, day: str = DAY, **generation: Any) -> None:
    world.submit(*((task_id, f"{day}T{number:02}:00:00Z") for number, task_id in enumerate(task_ids)), **generation)


def run_job(world: World, **config: Any) -> dg.ExecuteInProcessResult:
    """Run the job luma_forget."""
    job = world.component().definitions().resolve_job_def("luma_forget")
    run_config = {"ops": {"luma_forget_op": {"config": config}}}
    return job.execute_in_process(instance=world.instance, run_config=run_config, raise_on_error=False)


def settings_of(world: World, **videos: Any) -> ForgetSettings:
    """The settings that the job makes of the world's component."""
    root = world.settings.get("data_url", str(world.directory / "data"))
    return ForgetSettings(root, TransferConfig(bucket=world.bucket, **videos), GallerySettings())


def forget(world: World, *task_ids: str, **options: Any) -> ForgetReport:
    """Forget tasks without Dagster."""
    return forget_tasks(settings_of(world), ForgetRequest.of(task_ids, **options))


def numbers(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The metadata of the job's op, also of one that failed."""
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


def versions(world: World, bucket: str | None = None) -> dict[tuple[str, str], bytes]:
    """Every version, and every delete marker, in the bucket: its bytes by its key and version."""
    client, name = world.store.client(), bucket or world.bucket
    found = {}
    for page in client.get_paginator("list_object_versions").paginate(Bucket=name):
        for item in page.get("Versions", []):
            body = client.get_object(Bucket=name, Key=item["Key"], VersionId=item["VersionId"])["Body"].read()
            found[item["Key"], item["VersionId"]] = body
        found |= {(item["Key"], item["VersionId"]): b"" for item in page.get("DeleteMarkers", [])}
    return found


def keep_versions(world: World, bucket: str | None = None) -> None:
    world.store.client().put_bucket_versioning(
        Bucket=bucket or world.bucket, VersioningConfiguration={"Status": "Enabled"}
    )


def task_ids(world: World, dataset: str) -> list[str]:
    return [row["task_id"] for row in world.rows(dataset)]


def traces(world: World, text: str, *buckets: str) -> list[str]:
    """Where a text still is: in files of the data root, and in versions of objects in the buckets, keys and bytes."""
    root = world.directory / "data"
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for bucket in (world.bucket, *buckets):
        files |= {f"{bucket}/{key} {version}": body for (key, version), body in versions(world, bucket).items()}
    return [name for name, body in files.items() if text in name or text in _text(name, body)]


def _text(name: str, body: bytes) -> str:
    if ".parquet" in name and body:
        with pq.ParquetFile(io.BytesIO(body)) as file:
            return str(file.read().to_pylist())
    return body.decode("utf-8", "replace")


def records(world: World) -> Sequence[dict[str, Any]]:
    return world.rows("luma_forgotten")
