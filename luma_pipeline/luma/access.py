"""The provider's room: whether a refusal concerns the token and the account, or one task."""

from __future__ import annotations

import math
import threading

from luma_pipeline.luma.errors import AuthenticationError, LumaError, QuotaExceededError
from luma_pipeline.luma.request import Request
from luma_pipeline.luma.responses import Response, ResponseAction

__all__ = ["AccessGuard"]

_CONFIRMED = frozenset({ResponseAction.STOP_TOKEN, ResponseAction.CONFIRM_TOKEN, ResponseAction.CONFIRM_QUOTA})


class AccessGuard:
    """Remembers what was answered with this token, and what was refused before anything was. Thread-safe.

    A refusal after a success is confirmed with a control: a request that has succeeded before is sent once more. If the
    control is refused as well, the refusal concerns all tasks.

    Args:
        host: The provider's host, for messages.
        refusals: Tasks that have to be refused with no success at all for the token to count as refused.
    """

    def __init__(self, host: str, refusals: int) -> None:
        self._host = host
        self._refusals = refusals
        self._refused: set[str] = set()
        self._lock = threading.Lock()
        self._success_sent_at = -math.inf
        self._last: Request | None = None
        self._before_last: Request | None = None
        self.confirming = threading.Lock()
        """Held while a control is asked for: one control answers for all threads."""

    def on_success(self, request: Request, sent_at: float) -> None:
        """Remember a request that the provider has answered. `sent_at` is in monotonic seconds."""
        self._success_sent_at = sent_at
        last = self._last
        if last is None or last.path != request.path:
            self._last, self._before_last = request, last

    def has_succeeded_since(self, moment: float) -> bool:
        """Whether a request that was sent after `moment` (monotonic seconds) has been answered."""
        return self._success_sent_at > moment

    def has_succeeded(self) -> bool:
        """Whether anything has been answered with this token."""
        return self._last is not None

    def control(self, refused: Request) -> Request | None:
        """A request other than `refused` that has been answered with this token; None where there is none."""
        last = self._last
        return self._before_last if last is not None and last.path == refused.path else last

    def is_refusal(self, response: Response) -> bool:
        """Whether an answer refuses the token or the account."""
        return response.action in _CONFIRMED

    def on_denied(self, request: Request, response: Response) -> LumaError | None:
        """Count a refusal that does not say of what. Returns the error to stop with once the token counts as refused.

        Only refusals before the first success count.
        """
        if self.has_succeeded():
            return None
        with self._lock:
            self._refused.add(request.path)
            if len(self._refused) < self._refusals:
                return None
        return AuthenticationError(
            f"{self._host} refused each of the first {self._refusals} tasks, and has answered none with this token: "
            f"{response.message} ({response.code}). Check LUMA_API_TOKEN (the `token` setting), and that it is the "
            "token of the account that has submitted these tasks."
        )

    def error(self, response: Response) -> LumaError:
        """The error that stops the run for a refusal."""
        said = f"{response.message} ({response.code})"
        if response.action is ResponseAction.CONFIRM_QUOTA:
            return QuotaExceededError(
                f"{self._host} answers that the account is out of quota: {said}. Top up the account, then run again: "
                "what was answered so far is kept."
            )
        return AuthenticationError(
            f"{self._host} refused the token: {said}. Check LUMA_API_TOKEN (the `token` setting) and that it belongs "
            "to this host."
        )
