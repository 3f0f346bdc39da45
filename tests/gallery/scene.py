"""Partitions of a dataset and objects in a bucket, made directly: what a gallery is written of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from luma_pipeline.dataset import Dataset, PartitionFile
from luma_pipeline.engine.videos import VIDEOS_SCHEMA
from luma_pipeline.gallery import Gallery, GallerySettings, PartitionPages
from luma_pipeline.luma.schema import GENERATIONS_SCHEMA
from luma_pipeline.media import Artifact, ObjectSettings, TransferConfig
from luma_pipeline.sandbox import samples
from luma_pipeline.sandbox.s3 import ObjectStore

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FIRST = datetime(2024, 12, 24, 9, 0, tzinfo=UTC)


@dataclass
class Scene:
    """A bucket of a real store, a dataset in a folder, and the gallery between them."""

    directory: Path
    store: ObjectStore
    bucket: str
    prefix: str = "luma"
    template: str = "{task_id}/{artifact}.{extension}"
    settings: GallerySettings = field(default_factory=GallerySettings)
    objects: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def client(self) -> S3Client:
        return self.store.client()

    @property
    def videos(self) -> TransferConfig:
        return TransferConfig(
            bucket=self.bucket,
            prefix=self.prefix,
            key_template=self.template,
            objects=ObjectSettings(**self.objects),
        )

    @property
    def dataset(self) -> Dataset:
        return Dataset(url=str(self.directory / "data"))

    def gallery(self) -> Gallery:
        return Gallery(self.videos, self.settings)

    def put(self, folder: str, generations: Sequence[Mapping[str, Any]], videos: Sequence[Mapping[str, Any]]) -> None:
        """Write the datasets of a partition."""
        for name, schema, rows in (
            ("luma_generations", GENERATIONS_SCHEMA, [generation(**row) for row in generations]),
            ("luma_videos", VIDEOS_SCHEMA, [{"bucket": self.bucket, **row} for row in videos]),
        ):
            self.dataset.partition(name, folder).replace(schema, [pa.Table.from_pylist(rows, schema)])

    def put_with_facts(
        self, folder: str, generations: Sequence[Mapping[str, Any]], videos: Sequence[Mapping[str, Any]]
    ) -> None:
        """As `put`, with the columns of the files' own facts."""
        self.put(folder, generations, [])
        facts = [
            pa.field("width", pa.int64()),
            pa.field("height", pa.int64()),
            pa.field("duration_seconds", pa.float64()),
        ]
        known = [column for column in VIDEOS_SCHEMA if column.name not in {fact.name for fact in facts}]
        schema = pa.schema([*known, *facts])
        self.dataset.partition("luma_videos", folder).replace(schema, [pa.Table.from_pylist(list(videos), schema)])

    def upload(self, task_id: str, *artifacts: str) -> list[dict[str, Any]]:
        """Put a task's sample files into the bucket; their rows of luma_videos."""
        rows = []
        for artifact in artifacts or ("video",):
            body = _BODIES[artifact](task_id)
            is_video = artifact.startswith("video")
            key = self.videos.template.key(task_id, _ARTIFACTS[artifact], "mp4" if is_video else "jpg")
            content_type = "video/mp4" if is_video else "image/jpeg"
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)
            rows.append(
                {
                    "task_id": task_id,
                    "artifact": artifact,
                    "status": "copied",
                    "bucket": self.bucket,
                    "key": key,
                    "size_bytes": len(body),
                    "content_type": content_type,
                }
            )
        return rows

    def write(self, *folders: str) -> list[PartitionPages]:
        """Write the pages of partitions and the index."""
        with self.gallery() as gallery:
            pages = [gallery.write_partition(folder, *self.files(folder)) for folder in folders]
            gallery.write_index()
        return pages

    def files(self, folder: str) -> tuple[PartitionFile, PartitionFile]:
        """The datasets' files of a partition."""
        dataset = self.dataset
        return dataset.partition("luma_generations", folder), dataset.partition("luma_videos", folder)

    def page(self, folder: str, name: str = "index.html") -> str:
        """A page of a partition as it is in the bucket."""
        return self.read(f"_gallery/{folder}/{name}")

    def index(self) -> str:
        return self.read("_gallery/index.html")

    def read(self, key: str) -> str:
        return self.client.get_object(Bucket=self.bucket, Key=self.key(key))["Body"].read().decode()

    def key(self, below_prefix: str) -> str:
        return f"{self.prefix}/{below_prefix}" if self.prefix else below_prefix

    def object_keys(self) -> set[str]:
        listed = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {item["Key"] for page in listed for item in page.get("Contents", [])}

    def publish(self) -> None:
        """Let everybody read the bucket, as a website's."""
        self.store.let_everybody_read(self.bucket)

    def url(self, below_prefix: str) -> str:
        return f"{self.store.endpoint_url}/{self.bucket}/{self.key(below_prefix)}"

    def download(self, directory: Path) -> Path:
        """A copy of the bucket in a folder, as `aws s3 sync` makes it; the folder that the prefix leads to."""
        for key in self.object_keys():
            path = directory / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        return directory / self.prefix


def generation(task_id: str, number: int = 0, **values: Any) -> dict[str, Any]:
    """A row of luma_generations, completed unless told otherwise."""
    at = FIRST + timedelta(minutes=number)
    row = {
        "task_id": task_id,
        "submitted_at": at,
        "outcome": "resolved",
        "attempts": 1,
        "polled_at": at,
        "state": "completed",
        "created_at": at,
        "request_prompt": f"prompt of {task_id}",
    }
    return row | values


_ARTIFACTS = {artifact.value: artifact for artifact in Artifact}
_BODIES = {
    "video": samples.video,
    "video_raw": samples.video,
    "thumbnail": samples.thumbnail,
    "last_frame": samples.last_frame,
}
