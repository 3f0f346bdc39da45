"""A copier from settings given flat, as the tests give them: each goes to the configuration object that has it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from luma_pipeline.media import MediaCopier, TransferConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client

    from luma_pipeline.media import Artifact

_RENAMED = {"max_video_bytes": "max_bytes"}


def transfer_config(**settings: Any) -> TransferConfig:
    """The configuration with these settings, whichever of its objects has them."""
    settings = {_RENAMED.get(name, name): value for name, value in settings.items()}
    whole = TransferConfig(bucket="any-bucket")
    own = {field.name for field in fields(whole)}
    nested: dict[str, Any] = {}
    for name in ("objects", "limits"):
        inner = getattr(whole, name)
        known = {field.name for field in fields(inner)} - own
        nested[name] = replace(inner, **{key: settings.pop(key) for key in list(settings) if key in known})
    return replace(whole, **nested, **settings)


def make_copier(
    *,
    s3_client: S3Client | None = None,
    refresh: Callable[[str, Artifact], str | None] | None = None,
    **settings: Any,
) -> MediaCopier:
    """A copier with these settings."""
    return MediaCopier(transfer_config(**settings), s3_client=s3_client, refresh=refresh)
