"""A host that breaks the protocol, or is as slow as it can be, costs its own artifact a row, and others nothing."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from luma_pipeline.http.guard import Guard, parse_target
from luma_pipeline.media import Artifact, CopyCancelled, CopyRequest, CopyResult, CopyStatus, ErrorCode
from luma_pipeline.media.transport import Transport
from tests.luma.raw_server import in_turn, once, raw_server
from tests.media import samples
from tests.media.conftest import PART, Area
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest

SMALL = samples.mp4(300_000)
LARGE = samples.mp4(2 * PART + 123_456)
FINE = Answer(SMALL)


def copy_then_another(area: Area, cdn: FaultyCdn, link: str) -> CopyResult:
    """The result for the link; the same worker has to copy a good file after it."""
    with area.copier(max_workers=1, max_seconds=1.0, read_timeout=0.3) as copier:
        bad = copier.submit(CopyRequest("bad", Artifact.VIDEO, link)).result()
        good = copier.submit(CopyRequest("good", Artifact.VIDEO, cdn.add(FINE))).result()
    assert good.status is CopyStatus.COPIED
    assert area.objects() == {"good/video.mp4": SMALL}
    return bad


def ok(headers: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{headers}\r\n\r\n".encode() + body


RETRY_AFTER = "Retry-After: Mon, 01 Jan 2020 00:00:00 +99999999999999999999"
MALFORMED = {
    "a length of 5000 digits": (ok(f"Content-Length: {'9' * 5000}", SMALL), ErrorCode.WRONG_LENGTH),
    "a length of 30 digits": (ok(f"Content-Length: {'9' * 30}", SMALL), ErrorCode.WRONG_LENGTH),
    "a date that is none": (
        f"HTTP/1.1 503 No\r\n{RETRY_AFTER}\r\nContent-Length: 0\r\n\r\n".encode(),
        ErrorCode.HTTP_STATUS,
    ),
    "a chunk of negative size": (ok("Transfer-Encoding: chunked", b"-1\r\n" + LARGE), ErrorCode.CONNECTION),
    "a chunk of no size": (ok("Transfer-Encoding: chunked", b"size\r\n" + SMALL), ErrorCode.WRONG_LENGTH),
    "no HTTP": (b"220 ready\r\n", ErrorCode.CONNECTION),
}


@pytest.mark.parametrize(("answer", "code"), MALFORMED.values(), ids=MALFORMED.keys())
def test_an_answer_that_makes_no_sense_is_a_row(area: Area, cdn: FaultyCdn, answer: bytes, code: ErrorCode) -> None:
    with raw_server(once(answer)) as host:
        result = copy_then_another(area, cdn, f"{host}/x.mp4")

    assert (result.status, result.error_code) == (CopyStatus.FAILED, code.value), result.error_message


def test_a_range_of_thousands_of_digits_is_not_taken_for_the_rest(area: Area, cdn: FaultyCdn) -> None:
    first = ok(f'ETag: "v1"\r\nContent-Length: {len(SMALL)}', SMALL[:1000])
    second = f"HTTP/1.1 206 OK\r\nContent-Range: bytes 1000-{'9' * 5000}/{'9' * 5000}\r\nContent-Length: 9\r\n\r\n"
    with raw_server(in_turn(first, second.encode())) as host:
        result = copy_then_another(area, cdn, f"{host}/x.mp4")

    assert (result.status, result.error_code) == (CopyStatus.FAILED, ErrorCode.CONNECTION.value)


@pytest.mark.parametrize("comes", ["at once", "with the next answer"])
def test_a_range_with_more_than_it_says_ends_where_the_file_does(area: Area, comes: str) -> None:
    half, other = len(SMALL) // 2, samples.mp4(len(SMALL), seed=2)
    rest, more = SMALL[half:], ok(f"Content-Length: {len(other)}", other)
    said = f"Content-Range: bytes {half}-{len(SMALL) - 1}/{len(SMALL)}\r\nContent-Length: {len(rest) + len(more)}"
    head = f'HTTP/1.1 206 OK\r\nETag: "v1"\r\n{said}\r\n\r\n'.encode()
    left = iter(
        [
            (ok(f'ETag: "v1"\r\nContent-Length: {len(SMALL)}', SMALL[:half]), b""),
            (head + rest + more, b"") if comes == "at once" else (head + rest, more),
            (ok(f"Content-Length: {len(SMALL)}", SMALL), b""),
        ]
    )

    def answer(connection: socket.socket) -> None:
        if connection.fileno() < 0:
            raise ConnectionError
        now, later = next(left)
        connection.sendall(now)
        if later and connection.recv(65536):
            connection.sendall(later)
        connection.close()

    with raw_server(answer) as host, area.copier(max_workers=1) as copier:
        first, second = [copier.copy(CopyRequest(task, Artifact.VIDEO, f"{host}/x.mp4")) for task in ("a", "b")]

    assert (first.status, first.attempts, first.bytes_downloaded) == (CopyStatus.COPIED, 2, len(SMALL))
    assert (second.status, second.attempts) == (CopyStatus.COPIED, 1)
    assert area.objects() == {"a/video.mp4": SMALL, "b/video.mp4": SMALL}


def dripping(start: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    """Send the start once for each connection, then the piece again and again."""
    begun: set[socket.socket] = set()

    def send(connection: socket.socket) -> None:
        connection.sendall(piece if connection in begun else start)
        begun.add(connection)
        time.sleep(0.02)

    return send


CHUNKED = ok("Transfer-Encoding: chunked", f"{len(SMALL):x}\r\n".encode() + SMALL + b"\r\n")
SLOW = {
    "a head that never ends": (dripping(b"HTTP/1.1 200 OK\r\nX: ", b"a"), ErrorCode.CONNECTION),
    "nothing but interim answers": (dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), ErrorCode.CONNECTION),
    "trailers that never end": (dripping(CHUNKED + b"0\r\n", b"X: y\r\n"), ErrorCode.STALLED),
    "a chunk's size that never ends": (dripping(CHUNKED, b"0"), ErrorCode.STALLED),
}


@pytest.mark.parametrize(("answer", "code"), SLOW.values(), ids=SLOW.keys())
def test_a_host_that_drips_is_given_up(
    area: Area, cdn: FaultyCdn, answer: Callable[[socket.socket], None], code: ErrorCode
) -> None:
    with raw_server(answer) as host:
        result = copy_then_another(area, cdn, f"{host}/x.mp4")

    assert (result.status, result.error_code) == (CopyStatus.FAILED, code.value), result.error_message


def silent(connection: socket.socket) -> None:
    time.sleep(0.02)


HOLDING = {
    "a head that never ends": ("http", dripping(b"HTTP/1.1 200 OK\r\nX: ", b"a")),
    "trailers that never end": ("http", dripping(CHUNKED + b"0\r\n", b"X: y\r\n")),
    "a body that stops": ("http", dripping(ok("Content-Length: 900000", SMALL), b"")),
    "no answer": ("http", silent),
    "no handshake": ("https", silent),
}


@pytest.mark.parametrize(("scheme", "answer"), HOLDING.values(), ids=HOLDING.keys())
def test_a_copier_closes_whatever_its_host_does(
    area: Area, scheme: str, answer: Callable[[socket.socket], None]
) -> None:
    asked = threading.Event()

    def answering(connection: socket.socket) -> None:
        answer(connection)
        asked.set()

    with raw_server(answering) as host:
        copier = area.copier(read_timeout=3600.0, connect_timeout=3600.0)
        future = copier.submit(CopyRequest("task", Artifact.VIDEO, f"{host}/x.mp4".replace("http", scheme)))
        assert asked.wait(30)
        begun = time.monotonic()
        copier.close(cancel=True)
        seconds = time.monotonic() - begun

        with pytest.raises(CopyCancelled):
            future.result(0)
    assert area.objects() == {}
    assert seconds < 3  # a second is promised, of a machine that is not busy


@pytest.mark.parametrize("waits", ["for a name", "for its turn"])
def test_a_copier_closes_while_nothing_is_under_way(
    area: Area, cdn: FaultyCdn, waits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, asked, answered = socket.getaddrinfo, threading.Event(), threading.Event()

    def resolving(host: str, *args: Any, **options: Any) -> Any:
        if host == "stalled.example":
            asked.set()
            answered.wait(60)
        return resolve(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    busy = cdn.add(Answer(b"busy", 503, headers={"Retry-After": "30"}))
    copier = area.copier()
    future = copier.submit(
        CopyRequest("task", Artifact.VIDEO, "http://stalled.example/x.mp4" if waits == "for a name" else busy)
    )
    while not (asked.is_set() or cdn.asked):
        time.sleep(0.01)
    begun = time.monotonic()
    copier.close(cancel=True)
    seconds = time.monotonic() - begun
    answered.set()

    with pytest.raises(CopyCancelled):
        future.result(0)
    assert seconds < 3


def test_a_copier_closes_while_it_reads_an_object_for_its_digest(area: Area, cdn: FaultyCdn) -> None:
    reading = threading.Event()

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if request.method != "GET" or not request.path.endswith(".mp4"):
            return None
        reading.set()
        return Fault(passes=True, drips=True)

    link = cdn.add(Answer(LARGE))
    with area.copier() as copier:
        assert copier.copy(CopyRequest("task", Artifact.VIDEO, link)).status is CopyStatus.COPIED
    with FaultyStore(area.store.port, rule) as proxy:
        copier = area.copier(s3_client=area.store.client(endpoint=proxy.endpoint))
        future = copier.submit(CopyRequest("task", Artifact.VIDEO, link))
        assert reading.wait(30)
        copier.close(cancel=True)

        with pytest.raises(CopyCancelled):
            future.result(0)


@contextmanager
def many_open_files() -> Iterator[None]:
    """Every file and socket opened meanwhile has a number over 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in {-1, resource.RLIM_INFINITY} and hard < 2048:
        pytest.skip("this machine lets no process have so many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        yield
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_are_kept_in_a_process_with_a_thousand_open_files(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(FINE)
    with many_open_files(), area.copier(max_workers=1) as copier:
        results = [copier.copy(CopyRequest(f"task-{n}", Artifact.VIDEO, link)) for n in range(3)]

    assert {(result.status, result.attempts) for result in results} == {(CopyStatus.COPIED, 1)}


def test_idle_connections_are_few_over_all_hosts_and_the_oldest_go_first(cdn: FaultyCdn) -> None:
    """A new host for each video: a process of 256 files and sockets has to copy them all."""
    path = urlsplit(cdn.add(FINE)).path
    buffer = memoryview(bytearray(len(SMALL)))

    with FaultyCdn(address="0.0.0.0") as everywhere:
        everywhere.add(FINE, path=path)
        transport = Transport(Guard(allow_private_addresses=True), (5.0, 5.0), 4, threading.Event())

        def fetch(number: int) -> None:
            target = parse_target(f"http://127.0.0.{number}:{everywhere.port}{path}")
            response = transport.get(target, {}, time.monotonic() + 10)
            while response.readinto(buffer):
                pass
            response.release()

        before = len(os.listdir("/proc/self/fd"))
        for number in range(2, 122):
            fetch(number)
        opened = len(os.listdir("/proc/self/fd")) - before
        made = everywhere.connections
        fetch(121)
        kept, made = everywhere.connections - made, everywhere.connections
        fetch(2)
        transport.close()

    assert opened < 60  # both ends of a connection are in this process
    assert (kept, everywhere.connections - made) == (0, 1)
