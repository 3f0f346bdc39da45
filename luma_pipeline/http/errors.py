"""The HTTP room: its errors."""

from __future__ import annotations

from enum import Enum

from luma_pipeline.errors import ItemError

__all__ = ["TargetRefusedError", "TargetRefusedReason"]


class TargetRefusedReason(str, Enum):
    """Why a link is not followed."""

    BAD_SCHEME = "bad_scheme"
    """Neither http nor https, or no readable URL."""
    FORBIDDEN_HOST = "forbidden_host"
    """The host is not among the allowed ones."""
    FORBIDDEN_ADDRESS = "forbidden_address"
    """The host's address is private, loopback, link-local, a cloud's metadata service, or not a host's address."""

    def __str__(self) -> str:
        return self.value


class TargetRefusedError(ItemError):
    """A link that must not be followed; `reason` tells why. The message holds no query of a link."""

    def __init__(self, reason: TargetRefusedReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
