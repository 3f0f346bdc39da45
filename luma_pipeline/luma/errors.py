"""The provider's room: its errors. A `LumaError` stops everything; one bad task is never one, it is an `Outcome`."""

from __future__ import annotations

__all__ = ["AuthenticationError", "LinkUnavailableError", "LumaError", "ProviderUnavailableError", "QuotaExceededError"]


class LumaError(Exception):
    """Asking the provider any further is pointless; the message says what happened and what to do."""


class AuthenticationError(LumaError):
    """The provider refused the token (HTTP 401 or 403)."""


class QuotaExceededError(LumaError):
    """The account behind the token has no money or quota left (HTTP 402, or a quota code at any status)."""


class ProviderUnavailableError(LumaError):
    """Requests for many tasks have failed for a while and none has succeeded: the provider is down or unreachable."""


class LinkUnavailableError(Exception):
    """The provider could not be asked for a link at the moment. It concerns one artifact and passes."""
