"""Everything a run talks to: a provider, a CDN, an S3 store and a source table of a test's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from luma_pipeline.component import LumaPipelineComponent
from luma_pipeline.sandbox.cdn import CdnServer
from luma_pipeline.sandbox.provider import TOKEN, Generation, ProviderServer
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.settings import component_with


@dataclass
class World:
    """Everything a run talks to."""

    directory: Path
    provider: ProviderServer
    cdn: CdnServer
    store: ObjectStore
    bucket: str
    settings: dict[str, Any] = field(default_factory=dict)
    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)

    @property
    def source_url(self) -> str:
        return f"sqlite:///{self.directory / 'source.db'}"

    def submit(self, *tasks: tuple[str | None, str], known: bool = True, **generation: Any) -> None:
        """Put tasks, as ID and time of submission, into the source table, and the provider in the know of them."""
        engine = sa.create_engine(self.source_url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS generations (task_id TEXT, submitted_at TIMESTAMP)")
            for task_id, submitted_at in tasks:
                connection.exec_driver_sql("INSERT INTO generations VALUES (?, ?)", (task_id, submitted_at))
                if known and task_id:
                    self.provider.add(replace(Generation(task_id).published(self.cdn), **generation))
        engine.dispose()

    def unsubmit_all(self) -> None:
        """Take every task out of the source table."""
        engine = sa.create_engine(self.source_url)
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM generations")
        engine.dispose()

    def component(self, **settings: Any) -> LumaPipelineComponent:
        defaults: dict[str, Any] = {
            "api_token": TOKEN,
            "base_url": self.provider.base_url,
            "source_url": self.source_url,
            "source_table": "generations",
            "data_url": str(self.directory / "data"),
            "s3_bucket": self.bucket,
            "allow_private_media": True,
            "partitions_start": "2024-12-01",
            "retry_delay_seconds": 0.0,
            "give_up_after_hours": 24 * 365 * 100,
        }
        return component_with(**{**defaults, **self.settings, **settings})

    def environment(self, **settings: str) -> dict[str, str]:
        """The settings of `component` as the variables of another process."""
        return {
            "LUMA_API_TOKEN": TOKEN,
            "LUMA_BASE_URL": self.provider.base_url,
            "LUMA_SOURCE_URL": self.source_url,
            "LUMA_SOURCE_TABLE": "generations",
            "LUMA_DATA_URL": str(self.directory / "data"),
            "LUMA_S3_BUCKET": self.bucket,
            "LUMA_ALLOW_PRIVATE_MEDIA": "true",
            "LUMA_PARTITIONS_START": "2024-12-01",
            "LUMA_RETRY_DELAY_SECONDS": "0",
            "LUMA_GIVE_UP_AFTER_HOURS": str(24 * 365 * 100),
            **self.store.environment(),
            **settings,
        }

    def run(
        self,
        first: str,
        last: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        only: Sequence[str] | None = None,
        tags: dict[str, str] | None = None,
        **settings: Any,
    ) -> dg.ExecuteInProcessResult:
        """Run the assets over the partitions from `first` to `last` in one run."""
        job = self.component(**settings).definitions().resolve_implicit_global_asset_job_def()
        partitions = {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last or first,
        }
        return job.execute_in_process(
            instance=self.instance,
            tags={**partitions, **(tags or {})},
            run_config={"ops": {"luma_pipeline": {"config": config}}} if config else None,
            asset_selection=[dg.AssetKey(name) for name in only] if only else None,
            raise_on_error=False,
        )

    def re_execute_from_failure(self, run_id: str, **settings: Any) -> dg.DagsterRun:
        """Run again, as the UI's button does, what a run has left; returns the new run."""
        parent = self.instance.get_run_by_id(run_id)
        assert parent is not None
        in_process = dg.Definitions(executor=dg.in_process_executor)
        definitions = dg.Definitions.merge(self.component(**settings).definitions(), in_process)
        job = definitions.resolve_implicit_global_asset_job_def()
        run = self.instance.create_run_for_job(
            job,
            tags={**parent.tags, "dagster/is_resume_retry": "true"},
            parent_run_id=parent.run_id,
            root_run_id=parent.run_id,
        )
        execute_run(InMemoryJob(job), run, self.instance)
        return run

    def rows(self, dataset: str, **settings: Any) -> list[dict[str, Any]]:
        """All rows of a dataset, in the order of its files."""
        files = sorted((self.directory / "data" / dataset).rglob("*.parquet"))
        tables = [pq.ParquetFile(file).read() for file in files]
        return pa.concat_tables(tables).to_pylist() if tables else []

    def object_keys(self) -> set[str]:
        """The keys of all objects of the bucket."""
        pages = self.store.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {item["Key"] for page in pages for item in page.get("Contents", [])}

    def objects(self) -> dict[str, bytes]:
        """Every object of the bucket by its key."""
        client = self.store.client()
        keys = sorted(self.object_keys())
        return {key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}


@contextmanager
def running_world(directory: Path, store: ObjectStore, bucket: str) -> Iterator[World]:
    """A world with servers of its own and a new bucket in `store`."""
    store.create_bucket(bucket)
    with CdnServer() as cdn, ProviderServer(cdn=cdn) as provider:
        yield World(directory, provider, cdn, store, bucket)


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Why a run failed, as its step says it."""
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data is not None:
                return data.user_failure_data.description or ""
            return str(data.error)
    return ""


def materialized(world: World, run_id: str) -> list[tuple[str, str]]:
    """Asset and partition of each materialization of a run."""
    records = world.instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    found = []
    for record in records:
        event = record.event_log_entry.dagster_event
        assert event is not None
        assert event.asset_key is not None
        found.append((event.asset_key.to_user_string(), event.partition or ""))
    return sorted(found)


def evaluations(world: World, run_id: str) -> dict[str, dg.AssetCheckEvaluation]:
    """The latest evaluation of each check in a run, by the check's name."""
    of_type = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    records = world.instance.get_records_for_run(run_id, of_type=of_type).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    return {found.check_name: found for event in events if (found := event.asset_check_evaluation_data)}


def metadata(world: World, run_id: str, asset: str, partition: str) -> dict[str, Any]:
    """The metadata of one partition's materialization."""
    for record in world.instance.get_records_for_run(run_id).records:
        entry = record.event_log_entry
        event = entry.dagster_event
        if event is not None and event.is_step_materialization and entry.asset_materialization is not None:
            found = entry.asset_materialization
            if found.asset_key.to_user_string() == asset and found.partition == partition:
                return {key: value.value for key, value in found.metadata.items()}
    raise AssertionError(f"no materialization of {asset} {partition}")
