"""Waiting for what comes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    look: Callable[[], T],
    good: Callable[[T], bool],
    *,
    timeout: float = 60,
    or_tell: Callable[[], str] = lambda: "",
) -> T:
    """What `look` returns, as soon as it is `good`; raises TimeoutError with what `or_tell` says."""
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if good(seen):
            return seen
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {timeout:.0f} s still: {seen}\n{or_tell()}")
        time.sleep(0.25)
