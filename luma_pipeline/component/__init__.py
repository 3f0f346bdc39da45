"""The component: every setting in one place, and the one function that turns them into Dagster definitions."""

from luma_pipeline.component.component import LumaPipelineComponent
from luma_pipeline.component.environment import ENVIRONMENT
from luma_pipeline.component.faults import SettingsError
from luma_pipeline.component.settings import (
    CheckSettings,
    GallerySettings,
    PartitionSettings,
    ProviderSettings,
    ScheduleSettings,
    SettingRow,
    SourceSettings,
    VideoSettings,
    setting_rows,
)

__all__ = [
    "ENVIRONMENT",
    "CheckSettings",
    "GallerySettings",
    "LumaPipelineComponent",
    "PartitionSettings",
    "ProviderSettings",
    "ScheduleSettings",
    "SettingRow",
    "SettingsError",
    "SourceSettings",
    "VideoSettings",
    "setting_rows",
]
