"""The engine: Python's garbage collector while many objects come and go."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["imports_left_out"]

_lock = threading.Lock()
_users = 0


@contextmanager
def imports_left_out() -> Iterator[None]:
    """Leave what is in memory now out of the collector's rounds, until the last such block ends.

    Answers are many objects, so full rounds come often. Each would walk through all that the process has imported. It
    is a fifth of the CPU of asking in batches. Where the caller has frozen objects, nothing is done.
    """
    global _users
    with _lock:
        is_ours = _users > 0 or not gc.get_freeze_count()
        if is_ours:
            _users += 1
            gc.freeze()
    try:
        yield
    finally:
        with _lock:
            if is_ours:
                _users -= 1
                if not _users:
                    gc.unfreeze()
