"""What the three assets are: their keys, descriptions, columns and lineage in the UI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow as pa

from luma_pipeline.engine.partition import GENERATIONS, TASKS, VIDEOS
from luma_pipeline.engine.videos import VIDEOS_SCHEMA
from luma_pipeline.luma import GATEWAY, ProviderSpec
from luma_pipeline.luma.schema import FIELDS, TIMESTAMP
from luma_pipeline.orchestration.instance import UNNAMED, Instance
from luma_pipeline.orchestration.locations import NOWHERE, Locations

__all__ = ["Translate", "asset_specs", "table_schema"]

Translate = Callable[[str, dg.AssetSpec], dg.AssetSpec]
"""Gives an asset, by its plain name, another key, group, description, or what else a spec says."""

_TASKS_SCHEMA = pa.schema(
    [pa.field("task_id", pa.string(), nullable=False), pa.field("submitted_at", TIMESTAMP, nullable=False)]
)

_ORDER = (TASKS, GENERATIONS, VIDEOS)
_COLUMNS: Mapping[str, Mapping[str, Sequence[str]]] = {
    GENERATIONS: {"task_id": ["task_id"], "submitted_at": ["submitted_at"]},
    VIDEOS: {"task_id": ["task_id"], "source_url": ["video_download_url", "video_url"]},
}

_DESCRIPTIONS: Mapping[str, str] = {
    TASKS: """\
Task IDs from the source table with the time each was submitted, one row per distinct ID.""",
    GENERATIONS: """\
The provider's answer for every task: exactly one row each, every documented field a column, the whole body in
`raw_response`. Final tasks are not asked for again.

The numbers of a partition: `open` tasks are those that the provider has not finished. `asked_again_later` are those
that later runs will ask for: open tasks, and tasks not found or in error that are not yet too old. `asked` were asked
for in this run. Numbers of rare faults are left out while they are zero.""",
    VIDEOS: """\
The artifacts copied to S3, as a manifest: one row per task and artifact, with digest and key.

The numbers of a partition: `copied` and `already_present` artifacts are in the bucket. The links of `expired` ones were
dead, and the provider gave no others. Numbers of what is not in the bucket are left out while they are zero.""",
}

_COLUMN_DESCRIPTIONS: Mapping[str, str] = {
    "task_id": "The provider's task ID, as the source table has it.",
    "submitted_at": "When the task was submitted (UTC).",
    "outcome": "resolved, not_found, invalid_response or request_failed.",
    "http_status": "Status of the last answer; null where no answer came.",
    "error_code": "What went wrong, as a word.",
    "error_message": "What went wrong, as a sentence.",
    "attempts": "Tries for this task in the run that asked last.",
    "polled_at": "When the answer came (UTC).",
    "raw_response": "The whole body as the provider sent it.",
    "artifact": "video, video_raw, thumbnail or last_frame.",
    "status": "copied, already_present, expired or failed.",
    "source_url": "Where it was copied from, without the query.",
    "bucket": "S3 bucket.",
    "key": "S3 key.",
    "size_bytes": "Size of the object in bytes.",
    "content_type": "Type read from the object's first bytes.",
    "sha256": "SHA-256 of the object in hex, taken while it was copied.",
    "etag": "The store's ETag.",
    "copied_at": "When the object was stored (UTC).",
    "width": "Width in pixels as shown, read from the file: after a rotation that it asks for, pixels not stretched.",
    "height": "Height in pixels as shown, read from the file.",
    "duration_seconds": "Seconds that the video track lasts, read from the file; null for pictures.",
    "codec": "Codec of the video track by ffprobe's name, such as h264, hevc or av1; null for pictures.",
    "frame_rate": "Frames a second of the video track, on average; null for pictures.",
    **{field.name: f"`{'.'.join(field.path)}` of the provider's answer." for field in FIELDS},
}


def asset_specs(
    group: str,
    owners: Sequence[str],
    partitions: dg.PartitionsDefinition[str],
    *,
    freshness: dg.FreshnessPolicy | None,
    provider: ProviderSpec = GATEWAY,
    instance: Instance = UNNAMED,
    locations: Locations = NOWHERE,
    translate: Translate = lambda _, spec: spec,
) -> dict[str, dg.AssetSpec]:
    """The three assets by their plain names, in the order of the data.

    `provider` gives the columns of luma_generations. `locations` tells the source table, upstream of luma_tasks, and
    where the data lie. `translate` may change all of a spec but its partitions. Deps that it gives are added to ours,
    and the three find each other by their new keys.

    Raises:
        ValueError: `translate` gives two assets one key, or other partitions.
    """
    common: dict[str, Any] = {
        "group_name": group,
        "owners": list(owners),
        "partitions_def": partitions,
        "freshness_policy": freshness,
    }
    plain = {
        TASKS: dg.AssetSpec(
            instance.asset_key(TASKS),
            description=_DESCRIPTIONS[TASKS],
            kinds={"parquet", locations.storage_kind},
            metadata={"dagster/column_schema": table_schema(_TASKS_SCHEMA)},
            **common,
        ),
        GENERATIONS: dg.AssetSpec(
            instance.asset_key(GENERATIONS),
            description=_DESCRIPTIONS[GENERATIONS],
            kinds={"parquet", locations.storage_kind},
            metadata={"dagster/column_schema": table_schema(provider.schema)},
            **common,
        ),
        VIDEOS: dg.AssetSpec(
            instance.asset_key(VIDEOS),
            description=_DESCRIPTIONS[VIDEOS],
            kinds={"s3", "parquet"},
            metadata={"dagster/column_schema": table_schema(VIDEOS_SCHEMA)},
            **common,
        ),
    }
    specs = {name: translate(name, spec) for name, spec in plain.items()}
    instance = instance.with_keys(specs)
    _check_translated(specs, partitions)
    return {name: _linked(name, spec, instance, locations) for name, spec in specs.items()}


def _check_translated(specs: Mapping[str, dg.AssetSpec], partitions: dg.PartitionsDefinition[str]) -> None:
    keys = [spec.key.to_user_string() for spec in specs.values()]
    if len(set(keys)) < len(keys):
        raise ValueError(
            f"the translation must give each of {', '.join(specs)} a key of its own, not {', '.join(keys)}"
        )
    for name, spec in specs.items():
        if spec.partitions_def != partitions:
            raise ValueError(f"the translation must not change the partitions of {name}: they are set by `partitions`")


def _linked(name: str, spec: dg.AssetSpec, instance: Instance, locations: Locations) -> dg.AssetSpec:
    """A spec with what it has by its place among the three: deps, column lineage, addresses and IO manager."""
    upstream = _upstream(name, instance, locations)
    columns = locations.source_columns if name == TASKS else _COLUMNS[name]
    metadata = locations.metadata(name, instance)
    if columns:
        metadata["dagster/column_lineage"] = _column_lineage(upstream, columns)
    storage = {"dagster/storage_kind": "s3" if name == VIDEOS else locations.storage_kind}
    spec = spec.replace_attributes(
        deps=[*spec.deps, upstream], metadata={**metadata, **spec.metadata}, tags={**storage, **spec.tags}
    )
    if name == TASKS and locations.source_asset is None:
        spec = spec.replace_attributes(automation_condition=_ignoring(spec.automation_condition, upstream))
    return spec.with_io_manager_key(instance.io_manager_key)


def _ignoring(condition: dg.AutomationCondition[Any] | None, source: dg.AssetKey) -> dg.AutomationCondition[Any] | None:
    """A condition that does not wait for the source table: nothing ever materializes it."""
    ignore = getattr(condition, "ignore", None)
    return ignore(dg.AssetSelection.assets(source)) if ignore is not None else condition


def _upstream(name: str, instance: Instance, locations: Locations) -> dg.AssetKey:
    return locations.source_key(instance) if name == TASKS else instance.asset_key(_ORDER[_ORDER.index(name) - 1])


def _column_lineage(upstream: dg.AssetKey, columns: Mapping[str, Sequence[str]]) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {name: [dg.TableColumnDep(upstream, source) for source in sources] for name, sources in columns.items()}
    )


def table_schema(schema: pa.Schema) -> dg.TableSchema:
    """An Arrow schema as the UI shows it."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                field.name,
                str(field.type),
                description=_COLUMN_DESCRIPTIONS.get(field.name),
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )
