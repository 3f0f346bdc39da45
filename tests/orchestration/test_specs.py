"""What the UI says of the datasets' columns."""

from __future__ import annotations

import dagster as dg
import pyarrow as pa

from luma_pipeline.luma import GATEWAY, ProviderSpec
from luma_pipeline.luma.schema import Field
from luma_pipeline.orchestration.partitions import Frequency, partitions_definition
from luma_pipeline.orchestration.specs import asset_specs


def test_the_columns_of_a_provider_of_ones_own_are_listed() -> None:
    own = ProviderSpec("own", "/tasks/{task_id}", fields=(*GATEWAY.fields, Field("mood", ("mood",), pa.string())))
    partitions = partitions_definition(Frequency.DAILY, "2024-12-01", "UTC")
    specs = asset_specs("luma", [], partitions, freshness=None, provider=own)
    listed = specs["luma_generations"].metadata["dagster/column_schema"]
    assert isinstance(listed, dg.TableSchema)
    assert [column.name for column in listed.columns] == own.schema.names
    assert "mood" in own.schema.names
