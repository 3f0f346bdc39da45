"""The HTTP room: TLS that is read in large pieces.

Python's own TLS sockets ask the kernel twice for each record of at most 16 KiB. This one takes all that has come, and
decrypts from memory.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Any, cast

__all__ = ["TLSSocket"]

_READ_BYTES = 1 << 18


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.view = memoryview(bytearray(_READ_BYTES))


_scratch = _Scratch()
"""What is still encrypted: of a thread and not of a connection, of which some hundreds may be idle."""


class TLSSocket(socket.socket):
    """A client's TLS connection, which takes over a connected socket. Raises SSLError when the handshake fails."""

    def __init__(self, context: ssl.SSLContext, connected: socket.socket, server_hostname: str | None = None) -> None:
        timeout = connected.gettimeout()
        super().__init__(connected.family, connected.type, connected.proto, connected.detach())
        self.settimeout(timeout)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        try:
            self._handshake()
        except BaseException:
            with contextlib.suppress(OSError):
                self._flush()  # says to the server what is wrong with it
            self.close()
            raise

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._receive()
            else:
                self._flush()
                return

    def read_into(self, view: memoryview) -> int:
        """Put what has come at the start of `view`; waits for at least one byte. 0 at the end."""
        filled, most = 0, len(view)
        while filled < most:
            try:
                with view[filled:] as free:
                    count = cast("int", self._tls.read(most - filled, free))
            except ssl.SSLWantReadError:
                if filled:
                    break
                self._receive()
            except ssl.SSLEOFError:
                break
            else:
                filled += count
                if not count:
                    break
        return filled

    @property
    def has_unread(self) -> bool:
        """Whether bytes have been taken from the kernel that nobody has read."""
        return bool(self._tls.pending() or self._incoming.pending)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:  # noqa: ARG002
        """As a socket's."""
        with memoryview(buffer) as view, view[: nbytes or None] as wanted:
            return self.read_into(wanted)

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """As a socket's."""
        with memoryview(data) as view, view.cast("B") as left:
            sent = 0
            while sent < len(left):
                sent += self._tls.write(left[sent:])
                self._flush()

    def getpeercert(self, binary_form: bool = False) -> Any:
        """As an SSLSocket's."""
        return self._tls.getpeercert(binary_form)

    def _receive(self) -> None:
        self._flush()
        view = _scratch.view
        count = super().recv_into(view)
        if count:
            self._incoming.write(view[:count])
        else:
            self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            super().sendall(self._outgoing.read())
