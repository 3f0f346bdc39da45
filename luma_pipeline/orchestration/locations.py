"""Where the data are, as the UI shows it: names, addresses without secrets, links, and the kinds that have icons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from luma_pipeline.engine.partition import VIDEOS
from luma_pipeline.orchestration.instance import Instance
from luma_pipeline.orchestration.links import ObjectLinks
from luma_pipeline.source.url import address_of

__all__ = ["NOWHERE", "Locations", "source_spec"]

# Where no icon of Dagster's has the dialect's own name.
_KINDS: Mapping[str, str] = {
    "postgresql": "postgres",
    "mssql": "sqlserver",
    "clickhousedb": "clickhouse",
    "exa": "exasol",
    "teradatasql": "teradata",
    "ibm_db_sa": "db2",
    "db2": "db2",
    "awsathena": "athena",
    "spanner+spanner": "spanner",
    "hana": "sap",
}
_OWN_NAMES = frozenset(
    {
        *("athena", "bigquery", "clickhouse", "cockroachdb", "databricks", "denodo", "doris", "dremio", "duckdb"),
        *("impala", "mariadb", "mysql", "oracle", "presto", "redshift", "snowflake", "spanner", "sqlite", "starrocks"),
        "trino",
    }
)
# Dagster makes the name of an input out of a key.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Locations:
    """Where an instance's data are. What is None is not known before a run starts, and is not shown.

    `source_columns` has the columns of the source table by those of luma_tasks. `source_asset` is the key of an asset
    of the user's own that is the source table.
    """

    source_url: str | None = None
    source_table: str | None = None
    source_columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    source_asset: dg.AssetKey | None = None
    data_url: str | None = None
    bucket: str | None = None
    prefix: str | None = None

    def source_key(self, instance: Instance) -> dg.AssetKey:
        """The key of the source table as an asset: the table's name, with its schema, below the instance's prefix."""
        if self.source_asset is not None:
            return self.source_asset
        parts = [_NOT_IN_NAMES.sub("_", part).strip("_") for part in (self.source_table or "").split(".")]
        return dg.AssetKey([*instance.key_prefix, *([part for part in parts if part] or ["luma_source"])])

    @property
    def storage_kind(self) -> str:
        """What the datasets lie in."""
        return "s3" if (self.data_url or "").startswith("s3://") else "file"

    def metadata(self, dataset: str, instance: Instance) -> dict[str, Any]:
        """Name and addresses of a dataset. The address of luma_videos is that of the objects in the bucket."""
        found: dict[str, Any] = {"dagster/table_name": ".".join(instance.asset_key(dataset).path)}
        # Keys of an account stand nowhere in a root that can be used; one that holds some is refused by the run.
        has_secret = "://" in (self.data_url or "") and "@" in (self.data_url or "")
        folder = f"{self.data_url.rstrip('/')}/{dataset}" if self.data_url and not has_secret else None
        if dataset != VIDEOS:
            return found | ({"dagster/uri": folder} if folder else {})
        if self.bucket:
            found["dagster/uri"] = "/".join(["s3:/", self.bucket, *_parts(self.prefix), ""])
            link = ObjectLinks.by_settings(self.bucket).of_folder(self.prefix or "")
            if link:
                found["objects"] = dg.MetadataValue.url(link)
        return found | ({"manifest": dg.MetadataValue.path(folder)} if folder else {})


NOWHERE = Locations()
"""Of data of which nothing is known yet."""


def source_spec(instance: Instance, locations: Locations, *, group: str) -> dg.AssetSpec | None:
    """The source table as an asset that is made elsewhere: upstream of luma_tasks, and never materialized here.

    None where an asset of the user's own is the source table: then it is defined by whoever makes it.
    """
    if locations.source_asset is not None:
        return None
    url = locations.source_url
    address = address_of(url) if url else None
    metadata: dict[str, Any] = {}
    kind = "sql"
    if address is not None:
        kind = _KINDS.get(address.dialect, address.dialect if address.dialect in _OWN_NAMES else "sql")
        metadata["dagster/uri"] = address.uri
    if locations.source_table:
        database = (address.database or "").split("/") if address is not None else []
        metadata["dagster/table_name"] = ".".join([*filter(None, database), locations.source_table])
    return dg.AssetSpec(
        locations.source_key(instance),
        description="The table in which the product keeps its task IDs. It is read here, and written elsewhere.",
        kinds={kind, "table"},
        tags={"dagster/storage_kind": kind},
        group_name=group,
        metadata=metadata,
    )


def _parts(prefix: str | None) -> Sequence[str]:
    return [part for part in (prefix or "").split("/") if part]
