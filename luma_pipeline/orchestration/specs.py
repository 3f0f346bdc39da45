"""What the three assets are: their keys, descriptions, columns and lineage in the UI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import dagster as dg
import pyarrow as pa

from luma_pipeline.engine.partition import GENERATIONS, TASKS, VIDEOS
from luma_pipeline.engine.videos import VIDEOS_SCHEMA
from luma_pipeline.luma import GATEWAY, ProviderSpec
from luma_pipeline.luma.schema import FIELDS, TIMESTAMP

__all__ = ["GENERATIONS_LINEAGE", "IO_MANAGER_KEY", "VIDEOS_LINEAGE", "asset_specs", "table_schema"]

IO_MANAGER_KEY = "luma_parquet"

_TASKS_SCHEMA = pa.schema(
    [pa.field("task_id", pa.string(), nullable=False), pa.field("submitted_at", TIMESTAMP, nullable=False)]
)

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
    freshness: timedelta | None,
    provider: ProviderSpec = GATEWAY,
) -> list[dg.AssetSpec]:
    """The three assets, in the order of the data. `provider` gives the columns of luma_generations."""
    policy = dg.FreshnessPolicy.time_window(fail_window=freshness) if freshness else None
    common: dict[str, object] = {
        "group_name": group,
        "owners": list(owners),
        "partitions_def": partitions,
        "freshness_policy": policy,
    }
    specs = [
        dg.AssetSpec(
            TASKS,
            description="Task IDs from the source table with the time each was submitted, one row per distinct ID.",
            kinds={"sql", "parquet"},
            metadata={"dagster/column_schema": table_schema(_TASKS_SCHEMA)},
            **common,  # type: ignore[arg-type]
        ),
        dg.AssetSpec(
            GENERATIONS,
            deps=[TASKS],
            description="The provider's answer for every task: exactly one row each, every documented field a column, "
            "the whole body in `raw_response`. Final tasks are not asked for again.",
            kinds={"luma", "parquet"},
            metadata={
                "dagster/column_schema": table_schema(provider.schema),
                "dagster/column_lineage": GENERATIONS_LINEAGE,
            },
            **common,  # type: ignore[arg-type]
        ),
        dg.AssetSpec(
            VIDEOS,
            deps=[GENERATIONS],
            description="Manifest of the artifacts copied to S3: one row per task and artifact, with digest and key.",
            kinds={"s3", "parquet"},
            metadata={
                "dagster/column_schema": table_schema(VIDEOS_SCHEMA),
                "dagster/column_lineage": VIDEOS_LINEAGE,
            },
            **common,  # type: ignore[arg-type]
        ),
    ]
    return [spec.with_io_manager_key(IO_MANAGER_KEY) for spec in specs]


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


def _lineage(
    upstream: str, same: Sequence[str], others: Mapping[str, Sequence[str]] | None = None
) -> dg.TableColumnLineage:
    columns = {name: [name] for name in same} | {name: list(names) for name, names in (others or {}).items()}
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(upstream), name) for name in names]
            for column, names in columns.items()
        }
    )


GENERATIONS_LINEAGE = _lineage(TASKS, ["task_id", "submitted_at"])
VIDEOS_LINEAGE = _lineage(GENERATIONS, ["task_id"], {"source_url": ["video_download_url", "video_url"]})
