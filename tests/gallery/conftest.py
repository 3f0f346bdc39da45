"""A bucket of its own for each test, and one browser for each module."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from luma_pipeline.sandbox.s3 import ObjectStore
from tests.e2e.browser import Browser
from tests.gallery.scene import Scene

_buckets = itertools.count(1)


@pytest.fixture
def scene(tmp_path: Path, s3_environment: ObjectStore) -> Scene:
    bucket = f"films-{next(_buckets)}"
    s3_environment.create_bucket(bucket)
    return Scene(tmp_path, s3_environment, bucket)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("screenshots"), width=1300, height=900) as browser:
        yield browser
