"""The provider's room: the settings of a client, each with its default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from luma_pipeline.luma.dialects import GATEWAY
from luma_pipeline.luma.errors import InvalidSettingError
from luma_pipeline.luma.responses import shortened
from luma_pipeline.luma.spec import ProviderSpec

__all__ = ["AUTO", "DEFAULT_BASE_URL", "ProviderConfig"]

DEFAULT_BASE_URL = "https://api.gpt.ge"
"""The host of the provider's page."""

AUTO: Final = "auto"
"""A `batch_size` that is found out."""

_AT_LEAST: dict[str, float] = {
    "max_concurrency": 1,
    "burst": 1,
    "batch_size": 1,
    "max_attempts": 1,
    "max_body_bytes": 1,
    "unavailable_after": 1,
    "max_retry_seconds": 0,
    "unavailable_seconds": 0,
}
_ABOVE_ZERO = ("connect_timeout", "read_timeout", "deadline")


@dataclass(frozen=True)
class ProviderConfig:
    """How a `LumaClient` asks the provider. Times are in seconds.

    Args:
        token: The bearer token. It is sent to the host of `base_url` alone and never shown.
        base_url: Scheme, host and an optional path before the API's own.
        spec: The API that is spoken: `GATEWAY`, `LUMA`, or a `ProviderSpec` of your own.
        max_concurrency: Threads at most, which is also the most requests under way at one moment.
        requests_per_second: The provider's limit. None finds it: full speed until the first 429, then close below it.
        burst: Requests that may leave at once under `requests_per_second`.
        connect_timeout: Time for the connection to be made.
        read_timeout: Time from the request until its answer begins.
        deadline: Time for one request as a whole.
        max_attempts: Tries for one task. An answer "too fast" is not counted. Nor is an outage (no connection, no
            answer in time, 502 to 504, 520 and above, a firewall's page) while nobody else is answered either: an
            outage is waited out for `unavailable_seconds`.
        max_retry_seconds: Time for one task over all its tries, without waits for the rate limit. 0: one try. A
            `Retry-After` that is longer ends the run.
        max_body_bytes: Largest answer that is read, after decompression.
        batch_size: Ask for this many tasks in one request, where the provider has such a request. None asks singly.
            "auto" tries one such request, and asks singly if its answers are not as good as single ones.
        unavailable_after: Tasks that have to be failing, with none succeeding, for the provider to count as down. Also
            tasks that have to be refused, with none ever answered, for the token to count as refused.
        unavailable_seconds: Time that failing has to last. It is ten times as long for errors that may be the tasks'
            own, and a quarter where the host's name or certificate has been wrong from the start.
        verify_task_id: Take an answer only if it names the task that was asked for, or names none. False is for
            gateways whose answers have IDs of their own.

    Raises:
        InvalidSettingError: A setting is out of its range. The error is a ValueError too.

    >>> ProviderConfig(token="sk-secret", max_concurrency=4)
    ProviderConfig(base_url='https://api.gpt.ge', spec='gateway', max_concurrency=4)
    """

    token: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    spec: ProviderSpec = GATEWAY
    max_concurrency: int = 16
    requests_per_second: float | None = None
    burst: int = 1
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    deadline: float = 60.0
    max_attempts: int = 5
    max_retry_seconds: float = 180.0
    max_body_bytes: int = 8 * 1024 * 1024
    batch_size: int | Literal["auto"] | None = None
    unavailable_after: int = 10
    unavailable_seconds: float = 60.0
    verify_task_id: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", _checked_token(self.token))
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            # Said this way round, so that a NaN is refused too.
            if value not in (None, AUTO) and not value >= least:
                raise InvalidSettingError(f"{name} (LUMA_{name.upper()}) must be at least {least}, not {value}")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise InvalidSettingError(f"{name} must be above 0, not {getattr(self, name)}")
        rate = self.requests_per_second
        if rate is not None and not 0 < rate < math.inf:
            raise InvalidSettingError(
                f"requests_per_second (LUMA_REQUESTS_PER_SECOND) must be above 0, not {rate}; leave it out to have the "
                "limit found"
            )
        if self.batch_size not in (None, AUTO) and self.spec.batch is None:
            raise InvalidSettingError(
                f"batch_size (LUMA_BATCH_SIZE) does not work with the dialect {self.spec.name} (LUMA_DIALECT): it has "
                "no request for many tasks"
            )

    def __repr__(self) -> str:
        return (
            f"ProviderConfig(base_url={shortened(self.base_url)!r}, spec={self.spec.name!r}, "
            f"max_concurrency={self.max_concurrency})"
        )


def _checked_token(token: str) -> str:
    """The token without the white space around it: one that was read from a file ends with the line's end."""
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidSettingError(
            "the token (LUMA_API_TOKEN) must be non-empty ASCII without spaces or control characters"
        )
    return token
