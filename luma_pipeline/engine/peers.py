"""The engine: a run's place among the other runs of its account, which see one another through the data root."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from heapq import nlargest
from typing import Protocol, TypeVar

from luma_pipeline.dataset import PeerEntries
from luma_pipeline.dataset.errors import DatasetError
from luma_pipeline.limit import LookTimes, Peer, PeerError, PeerWatch

__all__ = ["RunPeers"]

_PATIENCE = 3.0
"""Seconds for which the first request waits for the first look."""
_CLOSE_SECONDS = 2.0
_QUIET = 0.25
"""Seconds without a request after which a run that has told nothing yet has nothing to tell."""
_AWAY = 5.0
"""Seconds without a request after which a run leaves its part to the others."""
_MOST_READ = 64
"""Runs that are read at a look at most: those that have told something last."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


class _Limiter(Protocol):
    @property
    def idle_seconds(self) -> float:
        """Seconds for which nobody has wanted to send anything."""

    @property
    def has_asked_much(self) -> bool:
        """Whether more than a few requests have left."""

    def peer(self, beat: int) -> Peer:
        """What to tell the others."""

    def meet(self, run: str, others: Mapping[str, Peer]) -> None:
        """Take in what the others have told."""

    def leave(self) -> None:
        """The others no longer see this run."""


class RunPeers:
    """Looks at the other runs, and tells them of this one, in a daemon thread that begins with the first request.

    No request waits for it but the first one, for three seconds at most. What cannot be read or written is told once,
    as a warning: the run goes on by refusals alone. `limiter` has to be set before the first request.
    """

    limiter: _Limiter

    def __init__(self, entries: PeerEntries, account: Callable[[], str]) -> None:
        self.run = secrets.token_hex(8)
        self._entries = entries
        self._account_name = account
        self._watch = PeerWatch()
        self._others: Mapping[str, Peer] = {}
        self._beat = 0
        self._is_seen = False
        self._is_told_of_fault = False
        self._has_looked = threading.Event()
        self._wake = threading.Event()
        self._is_hurried = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="luma-peers", daemon=True)

    def begin(self) -> Mapping[str, Peer]:
        """See `PeerBoard.begin`."""
        if self._is_closed:
            return {}
        self._thread.start()
        return self._others if self._has_looked.wait(_PATIENCE) else {}

    def hurry(self) -> None:
        """See `PeerBoard.hurry`."""
        self._is_hurried = True
        self._wake.set()

    def close(self) -> None:
        """Leave the account to the other runs. Takes two seconds at most."""
        self._is_closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._account = self._account_name()
        others = self._tried(self._look) or {}
        self._others = others
        self._has_looked.set()
        times = LookTimes(time.monotonic())
        if others:
            times.hurry(time.monotonic())
        while self._waited(times):
            self._tried(self._exchange if self._is_at_work() else self._leave)
            times.looked(time.monotonic())
        self._tried(self._leave)

    def _waited(self, times: LookTimes) -> bool:
        """Wait for the next look. False: the run has ended."""
        while not self._is_closed:
            if self._is_hurried:
                self._is_hurried = False
                times.hurry(time.monotonic())
            if (seconds := times.wait(time.monotonic())) == 0.0:
                return True
            self._wake.wait(seconds)
            self._wake.clear()
        return False

    def _is_at_work(self) -> bool:
        if self._is_seen:
            return self.limiter.idle_seconds < _AWAY
        return self.limiter.has_asked_much and self.limiter.idle_seconds < _QUIET

    def _exchange(self) -> None:
        """Look at the others and tell them. Whoever was not seen yet tells first: two who begin see each other so."""
        if not self._is_seen:
            self._tell()
        told_at = self._entries.told_at(self._account)
        own_at = told_at.pop(self.run, None)
        self.limiter.meet(self.run, self._read(told_at, own_at))
        self._tell()
        if own_at is not None and (old := self._watch.old(told_at, own_at)):
            self._entries.remove(self._account, old)

    def _tried(self, step: Callable[[], T]) -> T | None:
        try:
            return step()
        except (DatasetError, OSError) as error:
            self._say(f"the other runs of this account are not seen, so the limit is shared by refusals alone: {error}")
            return None

    def _say(self, message: str) -> None:
        if not self._is_told_of_fault and not self._is_closed:
            self._is_told_of_fault = True
            _log.warning("%s", message)

    def _look(self) -> Mapping[str, Peer]:
        """Look for the first time. Our clock stands for the store's, which is good enough for what is hours old."""
        told_at = self._entries.told_at(self._account)
        for name in self._watch.old(told_at, datetime.now(UTC)):
            del told_at[name]
        return self._read(told_at, None)

    def _read(self, told_at: dict[str, datetime], own_at: datetime | None) -> dict[str, Peer]:
        alive = self._watch.alive(told_at, own_at, time.monotonic())
        read = {}
        for name in nlargest(_MOST_READ, alive, key=told_at.__getitem__):
            try:
                peer = self._entries.read(self._account, name)
            except PeerError as error:
                self._say(f"what another run of this account tells is not used: {error}")
            else:
                if peer is not None:
                    read[name] = peer
        return read

    def _tell(self) -> None:
        self._beat += 1
        self._is_seen = True
        self._entries.tell(self._account, self.run, self.limiter.peer(self._beat))

    def _leave(self) -> None:
        if self._is_seen:
            self._is_seen = False
            self.limiter.leave()
            self._entries.remove(self._account, [self.run])
