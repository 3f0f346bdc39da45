"""What both clients lean on: exact requests, bounds that hold, connections that are kept, and no secret shown."""

from __future__ import annotations

import http.client
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from luma_pipeline.http.deadline import Watch
from luma_pipeline.http.guard import Guard, parse_target
from luma_pipeline.luma.transport import HttpAnswer, HttpTransport, TransportError
from luma_pipeline.media.transport import Transport
from tests.luma.raw_server import Proxy, once, raw_server
from tests.luma.test_secrets import chain

SECRET = "sk-9f8e7d6c5b4a39281706"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def transport(base_url: str, **settings: Any) -> HttpTransport:
    limits = {"connect_timeout": 5.0, "read_timeout": 20.0, "deadline": 30.0, "max_body_bytes": 100_000, **settings}
    return HttpTransport(base_url, {"Authorization": f"Bearer {SECRET}"}, **limits)


class Server:
    """Answers every request in the same way; `heads` are the requests, `ports` the connections they came over."""

    def __init__(self, answer: Callable[[Server, socket.socket], None]) -> None:
        self.heads: list[str] = []
        self.ports: list[int] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def serving(self) -> Iterator[Server]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, (_, port) = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, port), daemon=True).start()

    def _serve(self, connection: socket.socket, port: int) -> None:
        with connection:
            while request := self._received(connection):
                self.heads.append(request.decode("latin-1"))
                self.ports.append(port)
                try:
                    self._answer(self, connection)
                except OSError:
                    return

    @staticmethod
    def _received(connection: socket.socket) -> bytes:
        """A whole request; what came of it when the client has gone. A TLS handshake counts as one."""
        request = connection.recv(65536)
        length = re.search(rb"Content-Length: (\d+)\r\n", request)
        while length and len(request.partition(b"\r\n\r\n")[2]) < int(length[1]):
            request += connection.recv(65536) or bytes(int(length[1]))
        return request


def answering(_: Server, connection: socket.socket) -> None:
    connection.sendall(OK)


PATHS = [
    "/a%2Fb",
    "/a%2fb",
    "/%2E%2E",
    "/%2e%2e/x",
    "/../x",
    "/./x",
    "//x",
    "/a;b=c",
    "/%7Etilde",
    "/~tilde",
    "/a%20b?c=%2F",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_sent_as_it_is(path: str) -> None:
    with Server(answering).serving() as server:
        luma = transport(f"{server.base_url}/v1")
        luma.request("GET", path)
        luma.close()
        media = Transport(Guard(allow_private_addresses=True), (5.0, 5.0), 1, threading.Event())
        media.get(parse_target(f"{server.base_url}/v1{path}&sig=%2f%2F+x"), {}, time.monotonic() + 5).close()
        media.close()
    assert [head.split("\r\n")[0] for head in server.heads] == [
        f"GET /v1{path} HTTP/1.1",
        f"GET /v1{path}&sig=%2f%2F+x HTTP/1.1",
    ]


SENT_HEADERS = {"Host", "Accept-Encoding", "Authorization", "Content-Length", "User-Agent"}


def test_only_the_headers_that_are_set_are_sent_and_the_body_with_its_length() -> None:
    with Server(answering).serving() as server:
        luma = transport(server.base_url)
        luma.request("POST", "/x", b'{"ids": []}')
        luma.close()
    (request,) = server.heads
    _, *headers, blank, body = request.split("\r\n")
    assert {header.partition(":")[0] for header in headers} == SENT_HEADERS
    assert (blank, body) == ("", '{"ids": []}')


def test_the_environment_is_read_once_and_netrc_never(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password netrcsecret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with Server(answering).serving() as server:
        luma = transport(server.base_url)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        assert luma.request("GET", "/x").status == 200
        luma.close()
    assert f"Authorization: Bearer {SECRET}\r\n" in server.heads[0]


def test_the_connection_that_was_used_last_is_used_next() -> None:
    together = threading.Barrier(3)

    def answer(server: Server, connection: socket.socket) -> None:
        if len(server.heads) <= 3:
            together.wait(10)
        connection.sendall(OK)

    with Server(answer).serving() as server:
        luma = transport(server.base_url)
        threads = [threading.Thread(target=luma.request, args=("GET", "/x")) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(4):
            luma.request("GET", "/x")
        luma.close()
    assert len(set(server.ports)) == 3
    assert len(set(server.ports[3:])) == 1


def test_a_request_that_meets_a_closed_connection_is_sent_again_over_a_new_one() -> None:
    together, served = threading.Barrier(3), set[int]()

    def answer(server: Server, connection: socket.socket) -> None:
        if connection.fileno() in served:
            raise ConnectionResetError
        served.add(connection.fileno())
        if len(server.heads) <= 3:
            together.wait(10)
        connection.sendall(OK)

    with Server(answer).serving() as server:
        luma = transport(server.base_url)
        threads = [threading.Thread(target=luma.request, args=("GET", "/x")) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert luma.request("GET", "/x").status == 200
        luma.close()
    assert (len(server.heads), len(set(server.ports))) == (5, 4)


def test_a_new_connection_that_is_closed_is_a_failure() -> None:
    with raw_server(once(b"")) as base_url, pytest.raises(TransportError) as caught:
        transport(base_url).request("GET", "/x")
    assert caught.value.code == "connection"


def silent(_: Server, connection: socket.socket) -> None:
    connection.recv(1)


def half(_: Server, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{")
    connection.recv(1)


def endless(_: Server, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n{")
    connection.recv(1)


WAITS = {"head": ("http", silent), "handshake": ("https", silent), "body": ("http", half), "end": ("http", endless)}


@pytest.mark.parametrize(("scheme", "answer"), WAITS.values(), ids=WAITS.keys())
def test_closing_wakes_every_request_at_once(scheme: str, answer: Callable[[Server, socket.socket], None]) -> None:
    results: list[HttpAnswer | TransportError] = []

    def ask() -> None:
        try:
            results.append(luma.request("GET", "/x"))
        except TransportError as error:
            results.append(error)

    with Server(answer).serving() as server:
        luma = transport(
            server.base_url.replace("http", scheme), connect_timeout=60.0, read_timeout=60.0, deadline=60.0
        )
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(server.heads) < 4:
            time.sleep(0.01)
        time.sleep(0.1)
        begun = time.monotonic()
        luma.close()
        for thread in threads:
            thread.join(10)
        seconds = time.monotonic() - begun
    assert [type(result) for result in results] == [TransportError] * 4
    assert seconds < 3


def test_a_name_that_nobody_resolves_is_waited_for_no_longer_than_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(60) and [])
    luma = transport("http://stalled.example", deadline=0.3)
    begun = time.monotonic()
    with pytest.raises(TransportError) as caught:
        luma.request("GET", "/x")
    seconds = time.monotonic() - begun
    answered.set()
    luma.close()
    assert caught.value.code == "deadline"
    assert seconds < 5


def test_a_watch_that_has_been_removed_cuts_nothing() -> None:
    with Server(answering).serving() as server:
        luma = transport(server.base_url, deadline=0.2, read_timeout=0.1)
        for _ in range(3):
            assert luma.request("GET", "/x").status == 200
            time.sleep(0.4)
        luma.close()
    assert len(set(server.ports)) == 1


ECHOES = {
    "a head that cannot be parsed": f"HTTP/1.1 200 OK\r\nBearer {SECRET}\r\nContent-Length: 2\r\n\r\n{{}}",
    "a status that is none": f"HTTP/1.1 {SECRET}\r\n\r\n",
    "a version that is none": f"{SECRET} 200 OK\r\n\r\n",
    "lengths that do not agree": f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: {SECRET}\r\n\r\n{{}}",
    "a transfer coding": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {SECRET}\r\n\r\n{{}}",
    "an encoding": f"HTTP/1.1 200 OK\r\nContent-Encoding: {SECRET}\r\nContent-Length: 2\r\n\r\n{{}}",
    "a body that is cut": f"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{SECRET}",
    "nothing": "",
}


@pytest.mark.parametrize("wire", ECHOES.values(), ids=ECHOES.keys())
def test_neither_logs_nor_errors_show_the_token_or_a_signed_query(
    wire: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    shown: list[BaseException] = []
    with raw_server(once(wire.encode())) as base_url:
        luma = transport(base_url)
        media = Transport(Guard(allow_private_addresses=True), (5.0, 5.0), 1, threading.Event())
        target = parse_target(f"{base_url}/x.mp4?X-Amz-Signature={SECRET}")

        def fetch() -> None:
            response = media.get(target, {}, time.monotonic() + 5)
            try:
                while response.readinto(memoryview(bytearray(9))):
                    pass
            finally:
                response.close()

        for ask in (lambda: luma.request("GET", f"/x?key={SECRET}"), fetch):
            try:
                ask()
            except TransportError as error:
                shown.extend(chain(error))
        luma.close()
        media.close()
    assert any(record.name.startswith("urllib3") for record in caplog.records)
    printed = capsys.readouterr()
    seen = [f"{error!r} {error.args} {error.__dict__}" for error in shown]
    seen += [f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records]
    assert [text for text in [*seen, caplog.text, printed.out, printed.err] if SECRET in text] == []
    # The original of an error may quote the request: it is not even the context.
    assert all(isinstance(error, TransportError) for error in shown)


def test_a_proxy_that_refuses_learns_no_token_and_its_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(once(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.replace("http://", "http://me:passw0rd@"))
        luma = transport("https://provider.invalid")
        with pytest.raises(TransportError) as caught:
            luma.request("GET", "/x")
        luma.close()
    assert "407" in str(caught.value)
    assert "passw0rd" not in "".join(f"{error!r} {error.args}" for error in chain(caught.value))


def test_a_tunnel_is_asked_for_again_after_its_connection_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(silent).serving() as origin, Proxy(int(origin.base_url.rpartition(":")[2])).serving() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        luma = transport("https://provider.invalid", connect_timeout=0.3)
        for _ in range(2):
            with pytest.raises(TransportError):
                luma.request("GET", "/x")
        luma.close()
    assert [head.split(" ")[:2] for head in proxy.heads] == [["CONNECT", "provider.invalid:443"]] * 2
    assert SECRET not in "".join([*proxy.heads, *origin.heads])


def test_a_watch_bounds_a_wait_within_the_whole() -> None:
    now = time.monotonic()
    watch = Watch(now + 5)
    watch.allow(60)
    assert watch.until == watch.ends_at
    watch.allow(1)
    assert now + 1 <= watch.until < now + 5
