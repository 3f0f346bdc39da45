"""The provider's room: the one signal that ends all requests of a client."""

from __future__ import annotations

import threading
from typing import NoReturn

from luma_pipeline.luma.errors import ClientClosedError, LumaError

__all__ = ["StopSignal"]


class StopSignal:
    """Says that no further request is sent, and why. Wakes every thread that sleeps. Thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._error: LumaError | None = None

    @property
    def error(self) -> LumaError | None:
        """The error that stopped the client; None while nothing has."""
        return self._error

    def stop(self, error: LumaError) -> NoReturn:
        """Stop everything with this error, unless another error came first. Raises the first one."""
        raise self._set(error)

    def close(self) -> LumaError:
        """Stop everything because the client is closed. Returns the error that requests end with."""
        return self._set(ClientClosedError("the client was closed while requests were under way, or before"))

    def raise_if_stopped(self) -> None:
        """Raise the error that stopped the client, if one has."""
        if self._error is not None:
            raise self._error

    def sleep(self, seconds: float) -> None:
        """Sleep, and raise as soon as the client is stopped."""
        if seconds > 0:
            self._event.wait(seconds)
        self.raise_if_stopped()

    def _set(self, error: LumaError) -> LumaError:
        if self._error is None:
            self._error = error
        self._event.set()
        return self._error
