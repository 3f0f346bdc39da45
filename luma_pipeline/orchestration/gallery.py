"""The asset luma_gallery: the pages of the partitions that a run has worked on, and the index over all.

It is a step of its own in the run of the videos. A run of its own would cost each tick a second start of a process,
and a blocking check that fails on luma_videos stops a step after it, but not a run.
"""

# No postponed annotations in this module: Dagster reads those of the op's function as types.

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import dagster as dg

from luma_pipeline.dataset import Dataset, DatasetError
from luma_pipeline.engine.partition import GENERATIONS, VIDEOS
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.gallery import Gallery, GallerySettings, PartitionPages
from luma_pipeline.orchestration.endings import cancelled_when_interrupted
from luma_pipeline.orchestration.instance import Instance
from luma_pipeline.orchestration.links import ObjectLinks
from luma_pipeline.orchestration.outputs import already_logged
from luma_pipeline.orchestration.partitions import folder_of
from luma_pipeline.orchestration.resources.bucket import VideoBucket
from luma_pipeline.orchestration.resources.dataset import LumaDataset

__all__ = ["GALLERY", "build_gallery"]

GALLERY = "luma_gallery"

_MOST_SHOWN = 3


def build_gallery(
    instance: Instance,
    partitions: dg.PartitionsDefinition[str],
    settings: GallerySettings,
    *,
    group: str = "luma",
    owners: Sequence[str] = (),
    partitions_per_run: int = 50,
) -> dg.AssetsDefinition:
    """The asset luma_gallery of an instance, downstream of its luma_videos and of the same partitions.

    It belongs to the definitions, and into the job (`build_job(..., gallery=True)`), where `settings.enabled`. It needs
    the resources `instance.dataset_key` and `instance.bucket_key`. `partitions_per_run` is that of the pipeline:
    assets of another number would be given runs of their own.
    """
    asset_key = instance.asset_key(GALLERY)

    @dg.multi_asset(
        name=instance.named(GALLERY),
        specs=[
            dg.AssetSpec(
                asset_key,
                deps=[instance.asset_key(VIDEOS)],
                description="A web page of each partition's videos, in the bucket beside them, and an index over all: "
                "they need no server, also as a copy in a folder.",
                kinds={"html", "s3"},
                group_name=group,
                owners=list(owners),
                partitions_def=partitions,
                skippable=True,  # or Dagster would make one more materialization of each partition: see `outputs`
            ).with_io_manager_key(instance.io_manager_key)
        ],
        required_resource_keys={instance.dataset_key, instance.bucket_key},
        backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=partitions_per_run),
    )
    def luma_gallery(context: dg.AssetExecutionContext) -> Iterator[dg.DagsterEvent]:
        dataset: LumaDataset = getattr(context.resources, instance.dataset_key)
        bucket: VideoBucket = getattr(context.resources, instance.bucket_key)
        if _is_dry_run(context, instance):
            context.log.info("dry run: the gallery is left as it is")
        else:
            with cancelled_when_interrupted(context), _failing_for_good():
                work = _GalleryRun(context, partitions, settings, asset_key, bucket, dataset.open())
                work.do()
        yield already_logged(context, asset_key)

    return luma_gallery


class _GalleryRun:
    """A run of the asset: each partition is written and logged by itself."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        partitions: dg.PartitionsDefinition[str],
        settings: GallerySettings,
        asset_key: dg.AssetKey,
        bucket: VideoBucket,
        dataset: Dataset,
    ) -> None:
        self._dataset = dataset
        self._tombstones = dataset.tombstones()
        self._context = context
        self._partitions = partitions
        self._settings = settings
        self._asset_key = asset_key
        self._videos = bucket.config()
        self._links = ObjectLinks.by_settings(self._videos.bucket)

    def do(self) -> None:
        """Write the pages of the run's partitions and then the index. Raises dg.Failure if a partition failed."""
        failures: dict[str, LumaPipelineError] = {}
        with Gallery(self._videos, self._settings) as gallery:
            for key in self._context.partition_keys:
                try:
                    pages = self._write(gallery, key)
                except LumaPipelineError as error:
                    failures[key] = error
                    self._context.log.exception(f"the gallery of partition {key} failed")
                else:
                    metadata = self._metadata(gallery, pages)
                    self._context.log_event(dg.AssetMaterialization(self._asset_key, partition=key, metadata=metadata))
            if len(failures) < len(self._context.partition_keys):
                gallery.write_index()
        if failures:
            raise _failure(failures, len(self._context.partition_keys))

    def _write(self, gallery: Gallery, key: str) -> PartitionPages:
        folder = folder_of(self._partitions, key)
        generations, videos = (self._dataset.partition(name, folder) for name in (GENERATIONS, VIDEOS))
        for file in (generations, videos):
            if not file.exists():
                raise DatasetError(f"{file.path} has not been written: materialize luma_videos of {key} first")
        while True:
            forgotten = self._tombstones.now()
            pages = gallery.write_partition(folder, generations, videos, forgotten)
            if not pages.written or self._tombstones.now() is forgotten:
                return pages

    def _metadata(self, gallery: Gallery, pages: PartitionPages) -> Mapping[str, Any]:
        counts = pages.counts
        rare = {name: counts[name] for name in ("missing", "open", "failed", "unknown") if counts[name]}
        return {
            "page": self._link(pages.key),
            "index": self._link(gallery.index_key),
            "tasks": counts["tasks"],
            "ready": counts["ready"],
            **rare,
            "pages": pages.pages,
            "pages_written": pages.written,
            "page_bytes": pages.size_bytes,
        }

    def _link(self, key: str) -> dg.UrlMetadataValue | dg.PathMetadataValue:
        if self._settings.public_url:
            below = key.removeprefix(self._videos.template.prefix)
            return dg.MetadataValue.url(f"{self._settings.public_url.rstrip('/')}/{quote(below)}")
        link = self._links.of(key)
        return (
            dg.MetadataValue.path(f"s3://{self._videos.bucket}/{key}") if link is None else dg.MetadataValue.url(link)
        )


@contextmanager
def _failing_for_good() -> Iterator[None]:
    """Fail the step without another try: what may pass has been tried again by boto3, and the next run tries again."""
    try:
        yield
    except LumaPipelineError as error:
        raise dg.Failure(f"the gallery was not written, the videos are not concerned. {error}") from error


def _failure(failures: Mapping[str, LumaPipelineError], partitions: int) -> dg.Failure:
    shown = "; ".join(f"{key}: {error}" for key, error in list(failures.items())[:_MOST_SHOWN])
    return dg.Failure(
        f"the gallery of {len(failures)} of {partitions} partitions was not written, the videos are not concerned. "
        f"{shown}"
    )


def _is_dry_run(context: dg.AssetExecutionContext, instance: Instance) -> bool:
    """Whether the pipeline's op in the same run was told to write nothing."""
    config: Any = context.run.run_config
    for name in ("ops", instance.op_name, "config", "dry_run"):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config is True
