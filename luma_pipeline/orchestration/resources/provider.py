"""The provider as a resource: settings in, a `LumaClient` out."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from luma_pipeline.engine.client import open_limiter
from luma_pipeline.luma import LumaClient, ProviderConfig, spec_named
from luma_pipeline.luma.config import AUTO
from luma_pipeline.orchestration.shared_limit import shared_limit_url

__all__ = ["LumaProvider"]

_OTHERS = frozenset({"dialect", "shared_limit"})
"""Settings that are none of `ProviderConfig`."""


class LumaProvider(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How to ask the provider. The fields are those of `ProviderConfig`, which has the defaults."""

    token: str = Field(
        repr=False, json_schema_extra={"dagster__is_secret": True}, description="The provider's bearer token."
    )
    base_url: str = Field(default=ProviderConfig.base_url, description="Scheme and host of the provider.")
    dialect: str = Field(default=ProviderConfig.spec.name, description="`gateway`, or `luma` for Luma's own API.")
    max_concurrency: int = Field(
        default=ProviderConfig.max_concurrency, description="Most requests under way at one moment."
    )
    requests_per_second: float | None = Field(
        default=ProviderConfig.requests_per_second, description="The provider's limit; found out if not set."
    )
    burst: int = Field(
        default=ProviderConfig.burst, description="Requests that may leave at once under requests_per_second."
    )
    shared_limit: str | None = Field(
        default=None,
        repr=False,
        json_schema_extra={"dagster__is_secret": True},
        description="SQLAlchemy URL of a database through which all runs share requests_per_second; `instance`: that "
        "of the Dagster instance.",
    )
    batch_size: int | None = Field(
        default=None,
        description="Ask for this many tasks in one request (gateway). 0: find out whether that is possible.",
    )
    max_attempts: int = Field(default=ProviderConfig.max_attempts, description="Tries for one task.")
    max_retry_seconds: float = Field(
        default=ProviderConfig.max_retry_seconds,
        description="Seconds for one task over all its tries; a Retry-After that is longer ends the run.",
    )
    deadline: float = Field(default=ProviderConfig.deadline, description="Seconds for one request as a whole.")
    unavailable_seconds: float = Field(
        default=ProviderConfig.unavailable_seconds,
        description="Seconds without any success after which the provider counts as down.",
    )
    verify_task_id: bool = Field(
        default=ProviderConfig.verify_task_id,
        description="Take an answer only if it names the task that was asked for, or none. False: for gateways whose "
        "answers have IDs of their own.",
    )

    def config(self) -> ProviderConfig:
        """The client's settings. Raises InvalidSettingError for one out of range."""
        settings = {name: getattr(self, name) for name in type(self).model_fields if name not in _OTHERS}
        if self.batch_size == 0:
            settings["batch_size"] = AUTO
        return ProviderConfig(**settings, spec=spec_named(self.dialect))

    def client(self, instance: dg.DagsterInstance | None = None) -> LumaClient:
        """A client for one run, to be closed by its `with` block. It keeps the shared limit, if there is one.

        `instance` is needed where `shared_limit` is `instance`. Raises as `config`, and SharedLimitSettingsError.
        """
        config = self.config()
        return LumaClient(config, open_limiter(config, self.shared_limit_url(instance)))

    def shared_limit_url(self, instance: dg.DagsterInstance | None) -> str | None:
        """The URL of the database through which runs share the limit; None where they share none.

        Raises SharedLimitSettingsError: the setting is `instance`, and there is none that could be used.
        """
        return shared_limit_url(self.shared_limit, instance)
