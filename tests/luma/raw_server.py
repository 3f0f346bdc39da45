"""Servers and a proxy made of plain sockets, for what a well-behaved server would never send."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request's head and leaves the rest to `answer`, called until it or the client ends."""
    with _listening(lambda connection, stopping: _repeat(answer, connection, stopping)) as port:
        yield f"http://127.0.0.1:{port}"


def once(answer: bytes) -> Callable[[socket.socket], None]:
    """Send these bytes and close."""

    def send(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    return send


def _repeat(answer: Callable[[socket.socket], None], connection: socket.socket, stopping: threading.Event) -> None:
    connection.recv(65536)
    while not stopping.is_set():
        answer(connection)


class Proxy:
    """A forwarding proxy that leads every host to one address; `heads` are the requests it was sent."""

    def __init__(self, port: int) -> None:
        self._origin = ("127.0.0.1", port)
        self.port = 0
        self.heads: list[str] = []

    @contextmanager
    def serving(self) -> Iterator[Proxy]:
        with _listening(self._serve) as self.port:
            yield self

    def _serve(self, client: socket.socket, _: threading.Event) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += client.recv(65536) or b"\r\n\r\n"
        head = received.decode("latin-1")
        self.heads.append(head)
        method, target, rest = head.split(" ", 2)
        with socket.create_connection(self._origin) as origin:
            if method == "CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = "/" + target.split("/", 3)[3]
                origin.sendall(f"{method} {path} {rest}".encode("latin-1"))
            back = threading.Thread(target=_pump, args=(origin, client), daemon=True)
            back.start()
            _pump(client, origin)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def _listening(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    stopping = threading.Event()

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            serve(connection, stopping)

    def accept() -> None:
        while not stopping.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def in_turn(*answers: bytes) -> Callable[[socket.socket], None]:
    """One of the answers for each connection, which is closed after it."""
    left = iter(answers)

    def send(connection: socket.socket) -> None:
        if connection.fileno() < 0:
            raise ConnectionError
        once(next(left))(connection)

    return send
