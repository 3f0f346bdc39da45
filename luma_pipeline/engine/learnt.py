"""The engine: the provider's limit, shared with the runs of now, learnt from earlier runs and for later ones."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cached_property
from urllib.parse import urlsplit

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.peers import RunPeers
from luma_pipeline.limit import AdaptiveRateLimiter, LearntLimit, account_name
from luma_pipeline.luma import ProviderConfig

__all__ = ["LimitMemory"]


class LimitMemory:
    """Gives a run's limiter what is known of the limit and of the other runs, and keeps what the run has learnt.

    Nothing is read before the first request leaves. What was learnt is written only if it changed noticeably.
    """

    def __init__(self, dataset: Dataset, provider: ProviderConfig) -> None:
        self._limits = dataset.learnt_limits()
        self._provider = provider
        self._known: LearntLimit | None = None
        self._peers = RunPeers(dataset.peers(), lambda: self._account)
        self.limiter = self._peers.limiter = AdaptiveRateLimiter(learnt=self._read, board=self._peers)

    @cached_property
    def _account(self) -> str:
        return account_name(urlsplit(self._provider.base_url).netloc, self._provider.token)

    def _read(self) -> LearntLimit | None:
        now = datetime.now(UTC)
        self._known = self._limits.read(self._account, now)
        return self._known if self._known is not None and self._known.is_trusted(now) else None

    def keep(self) -> None:
        """Write what the limiter has learnt, if the next run has any use for it. Never raises for the storage."""
        learnt = self.limiter.learnt()
        kept = None if learnt is None else learnt.merged(self._known)
        if kept is not None:
            self._limits.write(self._account, kept)

    def close(self) -> None:
        """Leave the limit to the other runs. Takes two seconds at most."""
        self._peers.close()
