"""A way to a server that can be cut, and mended on the same port: a TCP port in front of a server's Unix socket."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

import sqlalchemy as sa

_PIECE = 65536


class Relay:
    """Passes bytes between a port of this machine and the PostgreSQL server of a URL, until `cut` and after `mend`."""

    def __init__(self, url: str) -> None:
        parsed = sa.make_url(url)
        self._server = f"{parsed.query['host']}/.s.PGSQL.{parsed.port or 5432}"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self.stalled = threading.Event()
        self.url = parsed.set(host="127.0.0.1", port=self._port, query={}).render_as_string(hide_password=False)

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def cut(self) -> None:
        """Refuse connections from now on, and break those that there are."""
        # A thread that waits in accept keeps a closed socket open.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Take connections again."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self.__enter__()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._connections += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                while self.stalled.is_set():
                    threading.Event().wait(0.05)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
