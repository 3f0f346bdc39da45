"""The base of every error of this package, and the three kinds by which a caller decides what to do.

An error of a room has a name of its own and one of these kinds among its parents.
"""

from __future__ import annotations

__all__ = ["ConfigurationError", "ItemError", "LumaPipelineError", "PassingError"]


class LumaPipelineError(Exception):
    """Base of every error that this package raises on purpose. The message says what happened and what to do."""


class ConfigurationError(LumaPipelineError):
    """A setting, an account or a permission is wrong. The same run fails again until somebody changes it."""


class PassingError(LumaPipelineError):
    """A server or a connection failed for now. A later run may succeed with the same settings."""


class ItemError(LumaPipelineError):
    """One task or one artifact failed. No other is concerned."""
