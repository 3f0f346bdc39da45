"""The bucket as a resource: settings in, a `MediaCopier` out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import dagster as dg
from pydantic import Field

from luma_pipeline.media import Artifact, MediaCopier, ObjectSettings, TransferConfig

__all__ = ["VideoBucket"]

# Only for its defaults.
_DEFAULTS = TransferConfig(bucket="any-bucket")


class VideoBucket(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where videos go. Credentials, region and endpoint are found by the standard AWS chain (AWS_ENDPOINT_URL_S3)."""

    bucket: str = Field(description="Name of the bucket; it must exist.")
    prefix: str = Field(default=_DEFAULTS.prefix, description="Prefix of every key.")
    key_template: str = Field(default=_DEFAULTS.key_template, description="The key below the prefix.")
    max_workers: int = Field(default=_DEFAULTS.max_workers, description="Artifacts fetched at the same time.")
    allowed_media_hosts: list[str] = Field(default=[], description="Hosts to copy from (`*.host` too); empty: any.")
    allow_private_media: bool = Field(default=False, description="Copy from private addresses too: for the sandbox.")
    max_video_bytes: int = Field(default=_DEFAULTS.limits.max_bytes, description="Larger artifacts are refused.")
    part_size_bytes: int = Field(
        default=_DEFAULTS.part_size_bytes, description="Bytes of a part of a multipart upload."
    )
    max_seconds: float = Field(default=_DEFAULTS.limits.max_seconds, description="Seconds for one artifact as a whole.")
    overwrite: bool = Field(default=False, description="Copy again what is in the bucket already.")
    server_side_encryption: str | None = Field(default=None, description="AES256 or aws:kms.")
    sse_kms_key_id: str | None = Field(default=None, description="KMS key for aws:kms.")
    storage_class: str | None = Field(default=None, description="Such as STANDARD_IA.")
    acl: str | None = Field(default=None, description="Canned ACL.")
    tags: dict[str, str] = Field(default={}, description="Tags of every object.")

    def config(self, *, overwrite: bool | None = None) -> TransferConfig:
        """The copier's settings. `overwrite` takes the place of the setting.

        Raises BucketNameError or MediaSettingsError for settings that cannot work.
        """
        return TransferConfig(
            bucket=self.bucket,
            prefix=self.prefix,
            key_template=self.key_template,
            max_workers=self.max_workers,
            part_size_bytes=self.part_size_bytes,
            overwrite=self.overwrite if overwrite is None else overwrite,
            objects=ObjectSettings(
                server_side_encryption=self.server_side_encryption,
                sse_kms_key_id=self.sse_kms_key_id,
                storage_class=self.storage_class,
                acl=self.acl,
                tags=self.tags,
            ),
            limits=replace(_DEFAULTS.limits, max_bytes=self.max_video_bytes, max_seconds=self.max_seconds),
            allowed_media_hosts=tuple(self.allowed_media_hosts),
            allow_private_addresses=self.allow_private_media,
        )

    def copier(self, refresh: Callable[[str, Artifact], str | None], *, overwrite: bool | None = None) -> MediaCopier:
        """A copier for one run, to be closed by its `with` block; `refresh` asks the provider for a living link.

        `overwrite` takes the place of the setting.
        """
        return MediaCopier(self.config(overwrite=overwrite), refresh=refresh)
