"""The provider's room: the requests of the client."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Request", "RequestKind"]


class RequestKind(StrEnum):
    """What a request asks for."""

    GENERATION = "generation"
    BATCH = "batch"
    PROBE = "probe"
    """The first batch, where it is not known whether the provider has them. It is tried once."""
    LINK = "link"
    """A feature that the account may not have."""

    @property
    def is_optional(self) -> bool:
        """Whether failures say nothing about the provider."""
        return self in (RequestKind.LINK, RequestKind.PROBE)


class Request(NamedTuple):
    """A request to the provider. `task_id` is empty for a batch, `absent` are statuses that say: no such feature."""

    method: str
    path: str
    body: bytes | None = None
    kind: RequestKind = RequestKind.GENERATION
    task_id: str = ""
    absent: frozenset[int] = frozenset()
