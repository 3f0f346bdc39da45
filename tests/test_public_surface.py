"""What is public is small and changes on purpose only."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "luma_pipeline": [
        "ConfigurationError",
        "EngineSettings",
        "ItemError",
        "LumaClient",
        "LumaPipelineComponent",
        "LumaPipelineError",
        "MediaCopier",
        "PartitionReport",
        "PassingError",
        "Policies",
        "Progress",
        "ProviderConfig",
        "RunOptions",
        "SourceTable",
        "TransferConfig",
        "__version__",
        "plan_partition",
        "run_partition",
    ],
    "luma_pipeline.luma": [
        "AuthenticationError",
        "ClientClosedError",
        "DEFAULT_BASE_URL",
        "Drift",
        "FINAL_STATES",
        "Flattened",
        "GATEWAY",
        "GENERATIONS_SCHEMA",
        "InvalidSettingError",
        "LUMA",
        "LinkUnavailableError",
        "LumaClient",
        "LumaError",
        "Outcome",
        "ProviderConfig",
        "ProviderSpec",
        "ProviderUnavailableError",
        "QuotaExceededError",
        "SCHEMA_VERSION",
        "SPECS",
        "State",
        "TaskResult",
        "flatten",
        "spec_named",
        "to_table",
    ],
    "luma_pipeline.media": [
        "Artifact",
        "BucketError",
        "BucketNameError",
        "CopyCancelled",
        "CopyError",
        "CopyRequest",
        "CopyResult",
        "CopyStatus",
        "DEFAULT_LINK_PREFERENCE",
        "DownloadLimits",
        "ErrorCode",
        "KnownObject",
        "LinkSource",
        "MediaCopier",
        "MediaError",
        "MediaFacts",
        "MediaKind",
        "MediaSettingsError",
        "ObjectSettings",
        "StoreUnavailableError",
        "TransferConfig",
        "expires_at",
        "preferred_link",
        "redact_link",
    ],
    "luma_pipeline.component": [
        "CheckSettings",
        "ENVIRONMENT",
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
    ],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == PUBLIC[module]
    for name in PUBLIC[module]:
        thing = getattr(loaded, name)
        assert not callable(thing) or thing.__doc__, name
