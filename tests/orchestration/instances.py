"""Definitions of one instance of the component, and the folder and servers that it works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import sqlalchemy as sa

from luma_pipeline.engine.settings import Policies
from luma_pipeline.orchestration.assets import Execute, PipelineSettings, build_pipeline
from luma_pipeline.orchestration.automation import RevisitPolicy, build_job, build_schedule, build_sensor
from luma_pipeline.orchestration.checks import build_checks
from luma_pipeline.orchestration.instance import Instance
from luma_pipeline.orchestration.io_manager import LumaParquetIOManager
from luma_pipeline.orchestration.locations import Locations, source_spec
from luma_pipeline.orchestration.partitions import Frequency, partitions_definition
from luma_pipeline.orchestration.resources.bucket import VideoBucket
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from luma_pipeline.orchestration.resources.provider import LumaProvider
from luma_pipeline.orchestration.resources.source import LumaSource
from luma_pipeline.orchestration.specs import Translate, asset_specs
from luma_pipeline.sandbox.provider import TOKEN, Generation
from tests.world import World

EU, US = Instance("eu", ("eu",)), Instance("us", ("us",))
DAILY = partitions_definition(Frequency.DAILY, "2024-12-01", "UTC")


@dataclass
class Site:
    """An instance with a table, a root of datasets and a prefix in the bucket of its own."""

    instance: Instance
    root: Path
    world: World | None = None
    source_asset: dg.AssetKey | None = None
    translate: Translate = lambda _, spec: spec
    execute: Execute | None = None
    source_url: str = "sqlite:///nothing.db"
    table: str | None = None
    more: Sequence[Any] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        self.table = self.table or self.instance.named("generations")

    def submit(self, *tasks: tuple[str, str]) -> None:
        """Put tasks, as ID and time, into the instance's table, and let the provider know of them."""
        assert self.world is not None
        engine = sa.create_engine(self.world.source_url)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS {self.table} (task_id TEXT, submitted_at TIMESTAMP)"
            )
            for task_id, submitted_at in tasks:
                connection.exec_driver_sql(f"INSERT INTO {self.table} VALUES (?, ?)", (task_id, submitted_at))
                self.world.provider.add(Generation(task_id, urls=self.world.cdn.publish(task_id)))
        engine.dispose()

    def rows(self, dataset: str) -> list[str]:
        """The task IDs of a dataset."""
        files = sorted((self.root / dataset).rglob("*.parquet"))
        return [row["task_id"] for file in files for row in pq.ParquetFile(file).read().to_pylist()]

    def locations(self) -> Locations:
        return Locations(
            source_url=self.source_url,
            source_table=self.table,
            source_asset=self.source_asset,
            source_columns={"task_id": ["task_id"], "submitted_at": ["submitted_at"]},
            data_url=str(self.root),
            bucket="videos",
            prefix=self.instance.name,
        )

    def definitions(self) -> dg.Definitions:
        locations = self.locations()
        specs = asset_specs(
            "luma",
            [],
            DAILY,
            freshness=None,
            instance=self.instance,
            locations=locations,
            translate=self.translate,
        )
        self.instance = instance = self.instance.with_keys(specs)
        settings = PipelineSettings(Policies(give_up_after_seconds=10**10), retry_delay_seconds=0.0)
        job = build_job(instance)
        common: dict[str, Any] = {"partitions_per_run": 50, "running": True, "instance": instance}
        source = source_spec(instance, locations, group="luma")
        return dg.Definitions(
            assets=[
                build_pipeline(specs, DAILY, settings, instance, self.execute),
                *([source] if source is not None else []),
                *self.more,
            ],
            asset_checks=[build_checks(DAILY, settings.thresholds, objects=None, instance=instance)],
            jobs=[job],
            schedules=[build_schedule(job, DAILY, "*/10 * * * *", RevisitPolicy(), **common)],
            sensors=[build_sensor(job, DAILY, RevisitPolicy(10**10), **common)],
            resources=self._resources(instance),
        )

    def _resources(self, instance: Instance) -> dict[str, Any]:
        url, base_url, bucket = self.source_url, "http://127.0.0.1:9", "videos"
        if self.world is not None:
            url, base_url, bucket = self.world.source_url, self.world.provider.base_url, self.world.bucket
        dataset = LumaDataset(url=str(self.root))
        return {
            instance.source_key: LumaSource(url=url, table=self.table or ""),
            instance.provider_key: LumaProvider(token=TOKEN, base_url=base_url),
            instance.bucket_key: VideoBucket(bucket=bucket, prefix=instance.name, allow_private_media=True),
            instance.dataset_key: dataset,
            instance.io_manager_key: LumaParquetIOManager.of(instance, dataset),
        }


def beside(first: Site, second: Site, *more: Any) -> dg.Definitions:
    """Two instances, and assets of a user, in one deployment."""
    rest = dg.Definitions(assets=list(more), executor=dg.in_process_executor)
    return dg.Definitions.merge(first.definitions(), second.definitions(), rest)
