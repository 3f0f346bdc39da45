"""The audit's room: what an audit counts and tells beside its findings."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

__all__ = ["Tally"]


class Tally:
    """Counts by name, and what could not be looked at, in words. Thread-safe."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def count(self, name: str, by: int = 1) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += by

    def problem(self, what: str, why: object) -> None:
        """Something was not looked at, or not done that was asked for."""
        with self._lock:
            self.problems.append(f"{what}: {why}")
        self._tell(f"{what}: {why}")

    def tell(self, words: str) -> None:
        """Say how far the audit is."""
        self._tell(words)

    @property
    def counts(self) -> dict[str, int]:
        """The counts that are not zero."""
        return {name: count for name, count in self._counts.items() if count}
