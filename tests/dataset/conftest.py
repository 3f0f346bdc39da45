"""Fixtures of the dataset tests: the S3 stores of the media tests, each as what the standard AWS settings lead to."""

from __future__ import annotations

import itertools

import pytest

from tests.media.conftest import moto, rclone, seaweedfs
from tests.media.stores import Store

__all__ = ["moto", "rclone", "seaweedfs"]

_buckets = itertools.count(1)


@pytest.fixture
def at_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """A root in a bucket of its own."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    bucket = f"lake-{store.name}-{next(_buckets)}"
    store.client().create_bucket(Bucket=bucket)
    return f"s3://{bucket}/luma"


@pytest.fixture(params=["seaweedfs", "moto", "rclone"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found
