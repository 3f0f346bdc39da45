"""The provider as a resource: settings in, a `LumaClient` out."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from luma_pipeline.luma import DEFAULT_BASE_URL, LumaClient

__all__ = ["LumaProvider"]


class LumaProvider(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How to ask the provider. The fields are those of `LumaClient`."""

    token: str = Field(
        repr=False, json_schema_extra={"dagster__is_secret": True}, description="The provider's bearer token."
    )
    base_url: str = Field(default=DEFAULT_BASE_URL, description="Scheme and host of the provider.")
    dialect: str = Field(default="gateway", description="`gateway`, or `luma` for Luma's own API.")
    max_concurrency: int = Field(default=16, description="Most requests under way at one moment.")
    requests_per_second: float | None = Field(default=None, description="The provider's limit; found out if not set.")
    burst: int = Field(default=1, description="Requests that may leave at once under requests_per_second.")
    batch_size: int | None = Field(default=None, description="Ask for this many tasks in one request (gateway).")
    max_attempts: int = Field(default=5, description="Tries for one task.")
    max_retry_seconds: float = Field(
        default=180.0, description="Seconds for one task over all its tries; a Retry-After that is longer ends the run."
    )
    deadline: float = Field(default=60.0, description="Seconds for one request as a whole.")
    unavailable_seconds: float = Field(
        default=60.0, description="Seconds without any success after which the provider counts as down."
    )

    def client(self) -> LumaClient:
        """A client for one run, to be closed by its `with` block. Raises ValueError for a setting out of range."""
        return LumaClient(
            token=self.token,
            base_url=self.base_url,
            dialect=self.dialect,
            max_concurrency=self.max_concurrency,
            requests_per_second=self.requests_per_second,
            burst=self.burst,
            batch_size=self.batch_size,
            max_attempts=self.max_attempts,
            max_retry_seconds=self.max_retry_seconds,
            deadline=self.deadline,
            unavailable_seconds=self.unavailable_seconds,
        )
