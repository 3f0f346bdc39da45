"""The provider's room: its errors. A `LumaError` stops everything; one bad task never is one, but a `TaskResult`."""

from __future__ import annotations

from luma_pipeline.errors import ConfigurationError, ItemError, LumaPipelineError, PassingError

__all__ = [
    "AuthenticationError",
    "ClientClosedError",
    "InvalidSettingError",
    "LinkUnavailableError",
    "LumaError",
    "ProviderUnavailableError",
    "QuotaExceededError",
]


class LumaError(LumaPipelineError):
    """Asking the provider any further is pointless; the message says what happened and what to do."""


class AuthenticationError(LumaError, ConfigurationError):
    """The provider refused the token, not just one task (HTTP 401 or 403)."""


class QuotaExceededError(LumaError, ConfigurationError):
    """The account behind the token has no money or quota left (HTTP 402, or a quota code at any status)."""


class ProviderUnavailableError(LumaError, PassingError):
    """Nothing has succeeded for long: the provider is down or unreachable, or asks to come back much later."""


class ClientClosedError(LumaError, RuntimeError):
    """The client was closed while requests were under way, or before. Nothing failed: somebody stopped the client."""


class InvalidSettingError(ConfigurationError, ValueError):
    """A setting is out of its range; the message names the setting."""


class LinkUnavailableError(ItemError):
    """Whether a task has a link without watermark could not be learnt. A later request may succeed."""
