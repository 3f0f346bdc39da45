"""Fixtures of the engine tests: a world of a test's own, on one store for each module."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from luma_pipeline.sandbox.s3 import ObjectStore
from tests.world import World, running_world

_buckets = itertools.count(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    with running_world(tmp_path, store, f"videos-{next(_buckets)}") as world:
        yield world
