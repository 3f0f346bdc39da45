"""The engine: what a run has opened, and the order in which it is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Protocol

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.learnt import LimitMemory
from luma_pipeline.engine.threads import end_all, start
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.luma import LumaClient
from luma_pipeline.media import MediaCopier
from luma_pipeline.source.table import SourceTable

__all__ = ["OpenResources"]

_STOP_SECONDS = 13.0
"""Seconds after which a stop abandons the threads that have not ended."""
_STOP_SECONDS_EACH = 2.0
"""Seconds that the client has to end before the copier is told to, and so on."""


class Stoppable(Protocol):
    """Something that has connections."""

    def stop(self) -> None:
        """Break off what is under way; returns at once."""

    def close(self) -> None:
        """Close the connections."""


class OpenResources:
    """The client, the copier, the source and the datasets of a run, and its threads. Thread-safe.

    What is opened after the stop, by a thread that was slow to hear of it, is closed at once.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        """Set when no further partition is to be begun."""
        self._client: LumaClient | None = None
        self._limit: LimitMemory | None = None
        self._copier: MediaCopier | None = None
        self._source: SourceTable | None = None
        self._dataset: Dataset | None = None
        self._store: Stoppable | None = None
        self._threads: list[Future[Any]] = []
        self._is_stopped = False
        self._lock = threading.Lock()

    def keep_client(self, client: LumaClient) -> LumaClient:
        """Close the client when the run ends."""
        with self._lock:
            self._client = client
        self._refuse_if_stopped(client.close)
        return client

    def keep_limit(self, limit: LimitMemory) -> LimitMemory:
        """Leave the limit to the other runs when the run ends."""
        with self._lock:
            self._limit = limit
        self._refuse_if_stopped(limit.close)
        return limit

    def keep_copier(self, copier: MediaCopier) -> MediaCopier:
        """Close the copier when the run ends."""
        with self._lock:
            self._copier = copier
        self._refuse_if_stopped(partial(copier.close, cancel=True))
        return copier

    def keep_store(self, store: Stoppable) -> None:
        """Close what else speaks to a store when the run ends."""
        with self._lock:
            self._store = store
        self._refuse_if_stopped(store.stop)

    def keep_source(self, source: SourceTable) -> SourceTable:
        """Close the source when the run ends."""
        with self._lock:
            self._source = source
        self._refuse_if_stopped(source.close)
        return source

    def keep_dataset(self, dataset: Dataset) -> Dataset:
        """Close the connections of the datasets' root when the run ends."""
        with self._lock:
            self._dataset = dataset
        self._refuse_if_stopped(dataset.stop)
        return dataset

    def keep_thread(self, thread: Future[Any]) -> None:
        """Wait for the thread when the run is stopped."""
        self._threads.append(thread)

    def ask_nothing_more(self) -> None:
        """Begin no further partition, and close the client: those under way end with what they have."""
        self.stopping.set()
        if self._client is not None:
            self.keep_thread(start(self._client.close, "luma-close"))

    def close(self) -> None:
        """Close everything, when all partitions have ended."""
        for each in (self._client, self._limit, self._copier, self._source, self._store, self._dataset):
            if each is not None:
                each.close()

    def stop(self) -> list[str]:
        """Break everything off, in bounded time; returns what did not end and is abandoned."""
        self.stopping.set()
        with self._lock:
            if self._is_stopped:
                return []
            self._is_stopped = True
        closings: list[tuple[str, Callable[[], object]]] = []
        # The client first: copies may be waiting for its answers.
        if self._client is not None:
            closings.append(("the provider's client", self._client.close))
        if self._limit is not None:
            closings.append(("the shared limit", self._limit.close))
        if self._copier is not None:
            closings.append(("the copier", partial(self._copier.close, cancel=True)))
        if self._source is not None:
            closings.append(("the source table", self._source.cancel))
        if self._store is not None:
            closings.append(("the store", self._store.stop))
        # Last, since answers are kept as checkpoints there.
        if self._dataset is not None:
            closings.append(("the datasets", self._dataset.stop))
        closings.append(("the partitions", self._wait_for_threads))
        return end_all(closings, seconds=_STOP_SECONDS, seconds_each=_STOP_SECONDS_EACH)

    def _wait_for_threads(self) -> None:
        wait(list(self._threads))
        if self._store is not None:
            self._store.close()
        if self._dataset is not None:
            self._dataset.close()

    def _refuse_if_stopped(self, close: Callable[[], object]) -> None:
        if self._is_stopped:
            close()
            raise LumaPipelineError("the run was stopped while it opened its connections")
