"""The provider's room: the two APIs that give a generation, the gateway's and Luma's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luma_pipeline.luma.errors import InvalidSettingError
from luma_pipeline.luma.spec import BatchRequest, LinkRequest, ProviderSpec

__all__ = ["GATEWAY", "LUMA", "SPECS", "spec_named"]


GATEWAY = ProviderSpec(
    name="gateway",
    path="/luma/generations/{task_id}",
    batch=BatchRequest("/luma/tasks"),
    unwatermarked=LinkRequest("/luma/generations/{task_id}/download_video_url"),
)
"""The gateway's API, whose answers have the shape of the provider's page."""


# What the gateway's page has under another name or not at all; any other field of Luma's is left where it is, and the
# flattening counts it as drift.
_LUMA_RENAMED = frozenset({"assets"})
_LUMA_ASSETS = frozenset({"video", "image"})


def _read_luma(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Luma's own answer: links are plain strings under `assets`."""
    generation: dict[str, Any] = {key: value for key, value in answer.items() if key not in _LUMA_RENAMED}
    assets = answer.get("assets")
    if isinstance(assets, Mapping):
        if assets.get("video"):
            generation["video"] = {"url": assets["video"]}
        if assets.get("image"):
            generation["thumbnail"] = {"url": assets["image"], "media_type": "image"}
        rest = {key: value for key, value in assets.items() if key not in _LUMA_ASSETS and value is not None}
        if rest:
            generation["assets"] = rest
    elif assets is not None:
        generation["assets"] = assets
    return generation


LUMA = ProviderSpec(
    name="luma",
    path="/dream-machine/v1/generations/{task_id}",
    states={"queued": "pending", "dreaming": "processing"},
    read=_read_luma,
)
"""Luma's own API, by its public description."""


SPECS: Mapping[str, ProviderSpec] = {spec.name: spec for spec in (GATEWAY, LUMA)}
"""The providers that the setting `dialect` can name."""


def spec_named(name: str) -> ProviderSpec:
    """The provider that the setting `dialect` names.

    Raises:
        InvalidSettingError: There is no provider of that name.

    >>> spec_named("luma").path
    '/dream-machine/v1/generations/{task_id}'
    """
    try:
        return SPECS[name]
    except KeyError:
        raise InvalidSettingError(f"the dialect (LUMA_DIALECT) must be {' or '.join(SPECS)}, not {name!r}") from None
