"""Fixtures of the media tests: one store of each kind a session, one CDN and one area of a bucket a test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from luma_pipeline.media import MediaCopier
from tests.media import stores
from tests.media.copiers import make_copier
from tests.media.faulty_cdn import FaultyCdn
from tests.media.stores import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "media-tests"
PART = 5 * 1024 * 1024

_areas = itertools.count(1)


@dataclass(frozen=True)
class Area:
    """A prefix of its own in a bucket of a store."""

    store: Store
    client: S3Client
    prefix: str

    def copier(self, **settings: Any) -> MediaCopier:
        """A copier into this area, impatient, and allowed to talk to loopback."""
        defaults: dict[str, Any] = {
            "bucket": BUCKET,
            "prefix": self.prefix,
            "s3_client": self.client,
            "max_workers": 4,
            "part_size_bytes": PART,
            "max_video_bytes": 1 << 30,
            "allow_private_addresses": True,
            "max_attempts": 2,
            "backoff_seconds": 0.01,
            "read_timeout": 5.0,
        }
        return make_copier(**{**defaults, **settings})

    def objects(self) -> dict[str, bytes]:
        """Every object of the area, by its key without the prefix."""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=self.prefix + "/").get("Contents", [])
        keys = [item["Key"] for item in listed]
        return {
            key.removeprefix(self.prefix + "/"): self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            for key in keys
        }

    def uploads(self) -> list[str]:
        """The keys of the area's multipart uploads that are not finished."""
        try:
            answer = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=self.prefix + "/")
        except self.client.exceptions.NoSuchUpload:  # What rclone says when there is none.
            return []
        return [upload["Key"] for upload in answer.get("Uploads", [])]


def make_area(store: Store) -> Area:
    """A new area of the store."""
    return Area(store, store.client(), f"area-{next(_areas)}")


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with stores.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as store:
        store.client().create_bucket(Bucket=BUCKET)
        yield store


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with stores.moto(tmp_path_factory.mktemp("moto")) as store:
        store.client().create_bucket(Bucket=BUCKET)
        yield store


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with stores.rclone(tmp_path_factory.mktemp("rclone")) as store:
        store.client().create_bucket(Bucket=BUCKET)
        yield store


@pytest.fixture
def area(seaweedfs: Store) -> Area:
    return make_area(seaweedfs)


@pytest.fixture(params=["seaweedfs", "moto", "rclone"])
def any_area(request: pytest.FixtureRequest) -> Area:
    return make_area(request.getfixturevalue(request.param))


@pytest.fixture
def cdn() -> Iterator[FaultyCdn]:
    with FaultyCdn() as server:
        yield server
