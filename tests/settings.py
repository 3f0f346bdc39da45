"""A component by the short names of its settings, which are those of the environment variables."""

from __future__ import annotations

from typing import Any

from luma_pipeline.component import ENVIRONMENT, LumaPipelineComponent

_PATHS = {variable.removeprefix("LUMA_").lower(): path for path, variable in ENVIRONMENT.items()}


def component_with(**settings: Any) -> LumaPipelineComponent:
    """The component with these settings: `s3_bucket` is the setting of LUMA_S3_BUCKET, `videos.bucket`."""
    return LumaPipelineComponent(**grouped(settings))


def grouped(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, by their short names, as the component takes them: group by group."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        *groups, last = _PATHS[name].split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return values


def setting(component: LumaPipelineComponent, name: str) -> Any:
    """The value of a setting by its short name."""
    return component.at(_PATHS[name])
