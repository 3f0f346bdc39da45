"""The dataset's room: its errors."""

from __future__ import annotations

from luma_pipeline.errors import ConfigurationError, LumaPipelineError, PassingError

__all__ = [
    "DatasetError",
    "DatasetSettingsError",
    "DatasetUnavailableError",
    "StaleVersionError",
    "UnreadableFileError",
]


class DatasetError(LumaPipelineError):
    """The datasets cannot be read or written; the message says what to check."""


class DatasetSettingsError(DatasetError, ConfigurationError):
    """The root does not work until a setting, a permission or the storage changes."""


class DatasetUnavailableError(DatasetError, PassingError):
    """The storage failed for now: a full disk, a store that is down."""


class UnreadableFileError(DatasetError, ConfigurationError):
    """A file of the datasets is damaged, is not ours or may not be read. The message has its path and the remedy."""


class StaleVersionError(DatasetError, PassingError):
    """Another run has replaced the file, or removed the checkpoint, that this run had read. Read again."""
