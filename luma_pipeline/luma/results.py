"""The provider's room: the result of asking for one task."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

__all__ = ["FINAL_STATES", "Outcome", "State", "TaskResult", "comparable_id", "printable", "same_id"]


class Outcome(StrEnum):
    """How asking for a task ended."""

    RESOLVED = "resolved"
    """The provider sent a generation."""
    NOT_FOUND = "not_found"
    """The provider does not know the task (yet)."""
    INVALID_RESPONSE = "invalid_response"
    """What came back is neither a generation nor an error the provider documents; `raw_response` holds it."""
    REQUEST_FAILED = "request_failed"
    """No usable answer within the budget of attempts and time, or the provider reported an error for this task."""

    def __str__(self) -> str:
        return self.value


class State(StrEnum):
    """The states on the provider's page. Any other word is a state too: one that is still open."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


FINAL_STATES = frozenset({State.COMPLETED.value, State.FAILED.value})
"""A closed set: a task in one of these states is never asked for again unless a run says so."""


@dataclass(frozen=True)
class TaskResult:
    """The one result of asking for one task.

    `generation` is the provider's answer in the shape of the gateway's page, whichever dialect was spoken. It is only
    present when `outcome` is RESOLVED. `raw_response` is the body as it came, as text. `polled_at` is an aware UTC
    time. `attempts` counts the tries for this task. `requests` counts the HTTP requests that were sent for it: the
    tasks of one batch share a request, and only the first of them counts it. `seconds` is the time from sending the
    last request to the last byte of its answer. `waited_seconds` is the time spent waiting for the rate limit, and
    `throttled` the number of answers "too fast".

    >>> TaskResult("t", Outcome.RESOLVED, datetime.now(), generation={"id": "t", "state": "completed"}).is_final
    True
    """

    task_id: str
    outcome: Outcome
    polled_at: datetime
    attempts: int = 1
    requests: int = 1
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    generation: Mapping[str, Any] | None = field(default=None, repr=False)
    raw_response: str | None = field(default=None, repr=False)
    seconds: float = 0.0
    waited_seconds: float = 0.0
    throttled: int = 0

    @property
    def state(self) -> str | None:
        """The generation's state word, or None when there is no generation or its state is not text."""
        if self.generation is None:
            return None
        state = self.generation.get("state")
        return state if isinstance(state, str) and state else None

    @property
    def is_final(self) -> bool:
        """Whether the provider will never answer otherwise: the state is one of FINAL_STATES."""
        return self.state in FINAL_STATES


_UUID = re.compile(r"\{?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}\}?", re.IGNORECASE)


def comparable_id(task_id: str) -> str:
    """A task ID in the form in which two spellings of the same ID are equal.

    White space around it does not count. A UUID may have either case, hyphens or none, and braces.

    >>> comparable_id(" E70FDF3C-CE95-4DD1-A967-220CE957AFF5") == comparable_id("e70fdf3cce954dd1a967220ce957aff5")
    True
    >>> comparable_id("Task-1") == comparable_id("task-1")
    False
    """
    text = task_id.strip()
    return text.strip("{}").replace("-", "").lower() if _UUID.fullmatch(text) else text


def same_id(asked: str, named: str) -> bool:
    """Whether an answer that names `named` is the answer for the task `asked`."""
    return asked == named or comparable_id(asked) == comparable_id(named)


def printable(text: str) -> str:
    """Text that UTF-8 can say: half a surrogate pair, which JSON can hold, is shown as `?`."""
    return text.encode("utf-8", "replace").decode()
