"""The datasets' root as a resource: settings in, a `Dataset` out."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from luma_pipeline.dataset import Dataset

__all__ = ["LumaDataset"]


class LumaDataset(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where the Parquet datasets are. S3 is reached with the standard AWS settings."""

    url: str = Field(description="A folder, or s3://bucket/prefix.")

    def open(self) -> Dataset:
        """The datasets under `url`; nothing is read or written yet."""
        return Dataset(url=self.url)
