"""The engine: the limit that a run's client keeps, where runs share one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from luma_pipeline.limit import SharedRateLimiter, account_name
from luma_pipeline.limit.account_table import AccountTable
from luma_pipeline.luma import InvalidSettingError, ProviderConfig
from luma_pipeline.luma.transport import parsed_base_url

_log = logging.getLogger(__name__)

__all__ = ["SharedLimitReport", "open_limiter"]


@dataclass(frozen=True)
class SharedLimitReport:
    """How the shared limit was kept. `lost_seconds`: how long the run had to go on without the database.

    >>> str(SharedLimitReport(0.0)), str(SharedLimitReport(12.3))
    ('kept', 'lost for 12 s')
    """

    lost_seconds: float

    def __str__(self) -> str:
        return f"lost for {self.lost_seconds:.0f} s" if self.lost_seconds else "kept"


def open_limiter(
    provider: ProviderConfig, shared_limit: str | None, tell: Callable[[str], None] = _log.warning
) -> SharedRateLimiter | None:
    """The limiter by which a run shares `requests_per_second` with the others of its token; None where it shares none.

    Nothing is connected yet: a database that cannot be reached is told, and the run goes on without it.

    Raises:
        SharedLimitSettingsError: `shared_limit` is no URL of a database that can be used.
        InvalidSettingError: There is no `requests_per_second` to share.
    """
    if shared_limit is None:
        return None
    if provider.requests_per_second is None:
        raise InvalidSettingError(
            "shared_limit (LUMA_SHARED_LIMIT) shares requests_per_second (LUMA_REQUESTS_PER_SECOND) among the runs: "
            "set that too, or leave both out to have the limit found"
        )
    host = parsed_base_url(provider.base_url).netloc
    return SharedRateLimiter(
        AccountTable(shared_limit),
        account_name(host, provider.token),
        provider.requests_per_second,
        provider.burst,
        tell=tell,
    )
