"""The gallery's room: web pages about a partition's videos, written beside them into the bucket. Knows no Dagster."""

from luma_pipeline.gallery.gallery import FOLDER, Gallery, GalleryError, PartitionPages
from luma_pipeline.gallery.settings import GallerySettings, GallerySettingsError

__all__ = ["FOLDER", "Gallery", "GalleryError", "GallerySettings", "GallerySettingsError", "PartitionPages"]
