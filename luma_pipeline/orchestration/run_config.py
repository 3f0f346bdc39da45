"""What a single run can be told in the Launchpad."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

__all__ = ["LumaRunConfig"]


class LumaRunConfig(dg.Config):
    """Options of one run. The defaults do what schedules do: only what is still open costs a request."""

    refresh: bool = Field(default=False, description="Ask for every task again, also those in a final state.")
    retry_failed: bool = Field(
        default=False,
        description="Try again what was given up: tasks not found and videos expired or failed, whatever their age.",
    )
    artifacts: list[str] | None = Field(
        default=None,
        description="Copy these instead of the configured ones: video, video_raw, thumbnail, last_frame.",
    )
    limit: int | None = Field(
        default=None, ge=0, description="Ask for at most this many tasks in each partition; the others say so in a row."
    )
    overwrite: bool = Field(default=False, description="Copy again what is in the bucket already, in this run.")
    allow_empty: bool = Field(
        default=False,
        description="Empty partitions that have rows but no task in the source any more; without it they fail.",
    )
    verify: bool = Field(
        default=False, description="Look up every object in the store, and copy again what is lost or damaged."
    )
    reflatten: bool = Field(
        default=False,
        description="Make the columns of luma_generations again from raw_response, and nothing else: asks for nothing.",
    )
    dry_run: bool = Field(
        default=False, description="Ask, copy and write nothing; say in the log and the metadata what would be done."
    )
