"""The provider's room: the errors that stop everything. One bad task is never one of them: it is an `Outcome`."""

from __future__ import annotations

__all__ = ["AuthenticationError", "LumaError", "ProviderUnavailableError", "QuotaExceededError"]


class LumaError(Exception):
    """Asking the provider any further is pointless; the message says what happened and what to do."""


class AuthenticationError(LumaError):
    """The provider refused the token (HTTP 401 or 403)."""


class QuotaExceededError(LumaError):
    """The account behind the token has no money or quota left (HTTP 402, or a quota code at any status)."""


class ProviderUnavailableError(LumaError):
    """Many tasks in a row failed after all their retries and none succeeded: the provider is down or unreachable."""
