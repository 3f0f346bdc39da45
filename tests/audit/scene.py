"""A world whose tasks are copied, and what a hand can do to its bucket and its manifests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from luma_pipeline.audit import AuditOptions, AuditSettings, audit_dataset
from luma_pipeline.dataset import AuditSummary, Dataset
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
from luma_pipeline.engine.partition import Partition
from luma_pipeline.engine.run import PipelineRun
from luma_pipeline.engine.settings import EngineSettings, Policies, RunOptions
from luma_pipeline.luma import ProviderConfig
from luma_pipeline.media import TransferConfig
from luma_pipeline.sandbox.provider import TOKEN
from luma_pipeline.sandbox.s3 import ObjectStore
from luma_pipeline.source.table import SourceTable
from tests.world import World

DAY = "2024-12-24"

Row = dict[str, Any]


@dataclass
class Scene:
    """What an audit looks at. Objects and rows are named by their task."""

    world: World

    @property
    def client(self) -> Any:
        return _client(self.world.store)

    def keys(self) -> set[str]:
        """The keys of the bucket."""
        return set(self.listed())

    def listed(self) -> dict[str, Any]:
        """ETag and time of each object by its key."""
        items = self.client.list_objects_v2(Bucket=self.world.bucket)["Contents"]
        return {item["Key"]: (item["ETag"], item["LastModified"]) for item in items}

    @property
    def root(self) -> str:
        return str(self.world.directory / "data")

    def engine(self) -> EngineSettings:
        audit = self.settings()
        assert audit.provider is not None
        source = SourceTable(url=self.world.source_url, table="generations")
        return EngineSettings(source, audit.provider, audit.videos, self.root, Policies(give_up_after_seconds=1e10))

    def run(self, options: RunOptions, *days: str) -> None:
        """Run the pipeline over days."""
        starts = [datetime.fromisoformat(day).replace(tzinfo=UTC) for day in days or (DAY,)]
        with PipelineRun(self.engine(), options) as run:
            assert not run.do([Partition.of(start, start + timedelta(days=1)) for start in starts], lambda _: None)

    def settings(self, **settings: Any) -> AuditSettings:
        return AuditSettings(
            **{
                "data_url": self.root,
                "videos": TransferConfig(bucket=self.world.bucket, allow_private_addresses=True),
                "read_within_days": 0.0,
                "young_seconds": 0.0,
                "provider": ProviderConfig(token=TOKEN, base_url=self.world.provider.base_url),
                **settings,
            }
        )

    def audit(
        self, options: AuditOptions | None = None, tell: Callable[[str], None] = lambda _: None, **settings: Any
    ) -> AuditSummary:
        return audit_dataset(self.settings(**settings), options, tell=tell)

    def report(self, summary: AuditSummary) -> list[Row]:
        rows: list[Row] = pq.ParquetFile(summary.path).read().to_pylist()
        return rows

    # -- by hand ------------------------------------------------------------------------------------------------------

    def put(self, task_id: str, body: bytes, **arguments: Any) -> None:
        """Write over the object of a task; its metadata is lost, as by hand."""
        arguments = {"ContentType": "video/mp4", **arguments}
        self.client.put_object(Bucket=self.world.bucket, Key=f"{task_id}/video.mp4", Body=body, **arguments)

    def delete(self, task_id: str) -> None:
        self.client.delete_object(Bucket=self.world.bucket, Key=f"{task_id}/video.mp4")

    def body(self, task_id: str) -> bytes:
        return bytes(self._get(task_id)["Body"].read())

    def metadata(self, task_id: str) -> dict[str, str]:
        return dict(self._get(task_id)["Metadata"])

    def _get(self, task_id: str) -> Any:
        return self.client.get_object(Bucket=self.world.bucket, Key=f"{task_id}/video.mp4")

    def row(self, task_id: str) -> Row:
        (row,) = (row for row in self.world.rows("luma_videos") if row["task_id"] == task_id)
        return row

    def edit(self, change: Callable[[list[Row]], list[Row]], day: str = DAY) -> None:
        """Write a manifest by hand."""
        file = Dataset(url=self.root).partition("luma_videos", f"date={day}")
        rows = change(file.read().to_pylist() if file.exists() else [])
        file.replace(VIDEOS_SCHEMA, [pa.Table.from_pylist(rows, VIDEOS_SCHEMA)])

    def edit_rows(self, changes: Mapping[str, Mapping[str, Any]], day: str = DAY) -> None:
        """Give rows other values, by task."""
        self.edit(lambda rows: [{**row, **changes.get(row["task_id"], {})} for row in rows], day)

    def manifest_path(self, day: str) -> Path:
        return Path(self.root) / "luma_videos" / f"date={day}" / "part-0.parquet"


@cache
def _client(store: ObjectStore) -> Any:
    """To make one costs a quarter of a second."""
    return store.client()


def found(rows: list[Row]) -> dict[str, list[str]]:
    """The findings of a report: for each kind the tasks, or the keys or partitions where there is no task."""
    by_kind: dict[str, list[str]] = {}
    for row in rows:
        what = row["key"].partition("/")[0] if row["key"] else row["task_id"] or row["partition"]
        by_kind.setdefault(row["kind"], []).append(what)
    return {kind: sorted(names) for kind, names in by_kind.items()}


@contextmanager
def copied(world: World, *tasks: str, days: Mapping[str, str] | None = None) -> Iterator[Scene]:
    """A scene in which these tasks, all of one day but for those in `days`, are copied."""
    days = days or {}
    world.submit(*((task_id, f"{days.get(task_id, DAY)}T01:00:00Z") for task_id in tasks))
    all_days = sorted({days.get(task_id, DAY) for task_id in tasks})
    scene = Scene(world)
    scene.run(RunOptions(), *all_days)
    yield scene
