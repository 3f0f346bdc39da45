"""The orchestration room: the database of a Dagster instance, for the limit that runs share."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from dagster._core.storage.runs import InMemoryRunStorage, SqliteRunStorage

from luma_pipeline.limit.account_table import SharedLimitSettingsError

__all__ = ["INSTANCE", "shared_limit_url"]

INSTANCE = "instance"
"""In the place of a URL: the database that the Dagster instance has."""


def shared_limit_url(setting: str | None, instance: dg.DagsterInstance | None) -> str | None:
    """The URL that the setting `provider.shared_limit` stands for; None where runs share nothing.

    An instance on SQLite gets a file beside its own, so that the two do not wait for each other.

    Raises:
        SharedLimitSettingsError: The instance has no database of its own, as in Dagster+.
    """
    if setting is None or setting.strip().lower() != INSTANCE:
        return setting
    if instance is None:
        raise SharedLimitSettingsError("provider.shared_limit is instance, but the client is made without one")
    storage = instance.run_storage
    for name in ("postgres_url", "mysql_url"):
        if url := getattr(storage, name, None):
            return str(url)
    if not isinstance(storage, SqliteRunStorage | InMemoryRunStorage):
        raise SharedLimitSettingsError(
            f"provider.shared_limit (LUMA_SHARED_LIMIT) is instance, but the Dagster instance keeps its runs in "
            f"{type(storage).__name__}, which has no database that can be used: write the URL of one"
        )
    folder = Path(instance.root_directory) / "storage"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'luma_pipeline_limits.db'}"
