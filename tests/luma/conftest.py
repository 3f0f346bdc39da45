"""A provider with sixty tasks, and clients of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from luma_pipeline.luma import LumaClient, ProviderConfig
from luma_pipeline.sandbox.provider import TOKEN, Generation, ProviderServer

IDS = [f"task-{number}" for number in range(60)]


@pytest.fixture
def provider() -> Iterator[ProviderServer]:
    with ProviderServer([Generation(task_id) for task_id in IDS]) as server:
        yield server


def client(provider: ProviderServer, **settings: Any) -> LumaClient:
    return LumaClient(
        ProviderConfig(**{"token": TOKEN, "base_url": provider.base_url, "max_retry_seconds": 30.0, **settings})
    )
