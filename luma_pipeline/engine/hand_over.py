"""The engine: new answers handed on in a thread of their own, so that taking answers waits for nothing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime

from luma_pipeline.luma import TaskResult

__all__ = ["HandOver", "OnAnswer"]

OnAnswer = Callable[[TaskResult, datetime], None]

_FULL, _ROOM = 64, 16


class HandOver:
    """Calls `on_answer` with one answer after the other, in a thread; to be used in a `with` block.

    `on_answer` may wait as long as it likes: the copier lets it wait while enough copies are queued. Whoever asks stops
    asking once `is_full`, takes the answers that are still to come, and then waits for `room`. So asking waits for
    copying, and no answer lies untaken meanwhile.

    The end of the block waits until all answers are handed on. An exception does not wait. What `on_answer` raised is
    raised by the next call.
    """

    def __init__(self, on_answer: OnAnswer) -> None:
        self._on_answer = on_answer
        self._waiting: deque[tuple[TaskResult, datetime]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="luma-hand-over", daemon=True)

    def __enter__(self) -> HandOver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._changed:
            self._is_closed = True
            if kind is not None:
                self._waiting.clear()
            self._changed.notify_all()
        if kind is None:
            self._thread.join()
            self._raise_failure()

    def put(self, answers: Iterable[tuple[TaskResult, datetime]]) -> None:
        """Have answers handed on. Never waits."""
        with self._changed:
            self._raise_failure()
            self._waiting.extend(answers)
            self._changed.notify_all()

    def is_full(self) -> bool:
        """Whether no more should be asked for now."""
        return len(self._waiting) >= _FULL

    def wait_for_room(self) -> None:
        """Wait until most answers are handed on."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) <= _ROOM or self._failure is not None)
            self._raise_failure()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                answer = self._waiting.popleft()
                self._changed.notify_all()
            try:
                self._on_answer(*answer)
            except BaseException as error:  # noqa: BLE001 - it is raised again where answers are put
                with self._changed:
                    self._failure = error
                    self._waiting.clear()
                    self._changed.notify_all()
                return

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
