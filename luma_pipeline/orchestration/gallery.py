"""The asset luma_gallery: the pages of the partitions that a run has worked on, and the index over all."""

# No postponed annotations in this module: Dagster reads those of the op's function as types.

from collections.abc import Sequence

import dagster as dg

from luma_pipeline.gallery import GallerySettings
from luma_pipeline.orchestration.instance import Instance

__all__ = ["GALLERY", "build_gallery"]

GALLERY = "luma_gallery"


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

    Add it to the assets where `settings.enabled`, and its key, `instance.asset_key(GALLERY)`, to the selection of the
    job: it then runs as a second op of the same run. It needs the resources `instance.dataset_key` and
    `instance.bucket_key`.
    """
    raise NotImplementedError
