"""The engine: what a run is told, as frozen data classes. Every default of the engine stands here."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from luma_pipeline.luma import ProviderConfig
from luma_pipeline.media import DEFAULT_LINK_PREFERENCE, Artifact, LinkSource, TransferConfig
from luma_pipeline.source.table import SourceTable

__all__ = ["EngineSettings", "Policies", "RunOptions"]


@dataclass(frozen=True)
class Policies:
    """How every run decides, before its own options. Ages and delays are seconds.

    artifacts: What is copied of each finished task.
    link_preference: Which of a video's links is taken first.
    give_up_after_seconds: Tasks older than this are no longer awaited when not found or not copied.
    checkpoint_seconds: Age up to which the answers of a broken run are taken up.
    late_rows_seconds: Seconds after a window's end until which rows of it may still be committed to the source table.
    orphans_older_than_seconds: Age from which uploads that killed runs left below our prefix are aborted.
    objects_checked: Objects of a run that are looked up in the store, at its beginning and at its end; None: all.
    verify_after_seconds: Seconds after which a run looks up all objects of a partition in the store again.
    """

    artifacts: tuple[Artifact, ...] = (Artifact.VIDEO,)
    link_preference: tuple[LinkSource, ...] = DEFAULT_LINK_PREFERENCE
    give_up_after_seconds: float = 72 * 3600.0
    checkpoint_seconds: float = 6 * 3600.0
    late_rows_seconds: float = 15 * 60.0
    orphans_older_than_seconds: float = 24 * 3600.0
    objects_checked: int | None = 50
    verify_after_seconds: float = 24 * 3600.0


@dataclass(frozen=True)
class EngineSettings:
    """Where a run reads, asks, copies and writes.

    source: The source table. A run opens its connections and closes them.
    provider: How the provider is asked.
    videos: The bucket of the videos, and how they are copied.
    data_url: Root of the Parquet datasets: a folder or s3://bucket/prefix.
    policies: How every run decides.
    shared_limit: SQLAlchemy URL of the database through which runs share `provider.requests_per_second`; None: each
        run has it to itself.
    """

    source: SourceTable
    provider: ProviderConfig
    videos: TransferConfig
    data_url: str
    policies: Policies = Policies()
    shared_limit: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class RunOptions:
    """What one run does differently. The defaults ask only for what is still open.

    refresh: Ask for every task again, also those in a final state.
    retry_failed: Try again what was given up: tasks not found and videos expired or failed, whatever their age.
    artifacts: Copy these instead of the configured ones.
    limit: Ask for at most this many tasks in each partition; the others say so in a row.
    overwrite: Copy again what is in the bucket already.
    allow_empty: Empty partitions that have rows but no task in the source any more; without it they fail.
    verify: Look up every object in the store, and copy again what is lost or damaged.
    reflatten: Make the columns of luma_generations again from the answers that its rows keep, and do nothing else: no
        task is asked for, no row comes or goes, and no object is copied. Of the other options only `dry_run` goes with
        it.
    dry_run: Ask, copy and write nothing; the report says what would be done.

    Raises:
        ValueError: Options contradict each other.
    """

    refresh: bool = False
    retry_failed: bool = False
    artifacts: tuple[Artifact, ...] | None = None
    limit: int | None = None
    overwrite: bool = False
    allow_empty: bool = False
    verify: bool = False
    reflatten: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        idle = {"reflatten", "dry_run"}
        others = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        if self.reflatten and not idle.issuperset(others):
            raise ValueError(
                f"`reflatten` asks for nothing and copies nothing: it does not go with "
                f"{', '.join(sorted(set(others) - idle))}. Do the one in this run and the other in the next"
            )
