"""The S3 room: its errors."""

from __future__ import annotations

from luma_pipeline.errors import ConfigurationError

__all__ = ["S3SettingsError"]


class S3SettingsError(ConfigurationError):
    """No S3 client can be made from the AWS settings; the message says which of them is wrong."""
