"""A client that is closed ends at once, whatever stalls, and says that it was closed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from luma_pipeline.luma import ClientClosedError, LumaClient, LumaError, ProviderConfig
from luma_pipeline.luma.transport import HttpAnswer, HttpTransport
from luma_pipeline.sandbox.provider import TOKEN, Answer, ProviderServer
from tests.luma.conftest import IDS, client
from tests.luma.raw_server import raw_server

BOUND = 3.0
"""Seconds: two of them are the client's own bound for what nothing can wake."""


def silent(_: socket.socket) -> None:
    threading.Event().wait(0.1)


@contextmanager
def stalled(how: str, provider: ProviderServer) -> Iterator[LumaClient]:
    """A client whose requests all stall."""
    if how == "a silent server":
        with raw_server(silent) as base_url:
            yield LumaClient(ProviderConfig(token=TOKEN, base_url=base_url, read_timeout=300.0, deadline=300.0))
        return
    settings: dict[str, Any] = {}
    if how == "a slow server":
        provider.latency_seconds = 20.0
    elif how == "Retry-After":
        provider.outage = Answer(429, {"Retry-After": "25"})
    elif how == "a low rate":
        settings = {"requests_per_second": 0.01}
    elif how == "an outage":
        provider.outage = Answer(503)
    yield client(provider, **settings)


STALLS = ["a silent server", "a slow server", "Retry-After", "a low rate", "an outage"]


@pytest.mark.parametrize("ask", ["fetch", "fetch_one", "unwatermarked_link"])
@pytest.mark.parametrize("how", STALLS)
def test_closing_ends_whatever_stalls(provider: ProviderServer, how: str, ask: str) -> None:
    raised: list[BaseException] = []
    with stalled(how, provider) as luma:
        asks: dict[str, Callable[[], object]] = {
            "fetch": lambda: list(luma.fetch(IDS)),
            "fetch_one": lambda: [luma.fetch_one(task_id) for task_id in IDS],
            "unwatermarked_link": lambda: [luma.unwatermarked_link(task_id) for task_id in IDS],
        }

        def run() -> None:
            try:
                asks[ask]()
            except LumaError as error:
                raised.append(error)

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        started = time.monotonic()
        luma.close()
        for thread in threads:
            thread.join(10.0)
        assert time.monotonic() - started < BOUND
        assert [type(error) for error in raised] == [ClientClosedError] * 3


def test_a_thread_that_nothing_can_wake_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the look-up of a host's name."""
    release = threading.Event()

    def request(self: HttpTransport, method: str, path: str, body: bytes | None = None) -> HttpAnswer:
        release.wait(30.0)
        raise AssertionError

    monkeypatch.setattr(HttpTransport, "request", request)
    luma = LumaClient(ProviderConfig(token=TOKEN, base_url="http://127.0.0.1:9"))
    threading.Timer(0.3, luma.close).start()
    started = time.monotonic()
    with pytest.raises(ClientClosedError):
        list(luma.fetch(IDS))
    luma.close()
    assert time.monotonic() - started < 2 * BOUND
    release.set()


def test_a_closed_client_can_be_told_from_a_fault(provider: ProviderServer) -> None:
    luma = client(provider)
    luma.close()
    asks: list[Callable[[], object]] = [lambda: luma.fetch_one("task-1"), lambda: next(luma.fetch(IDS))]
    for ask in asks:
        with pytest.raises(ClientClosedError, match="closed") as caught:
            ask()
        assert isinstance(caught.value, LumaError)
    assert provider.total == 0


def test_what_was_answered_before_the_end_is_handed_over(provider: ProviderServer) -> None:
    provider.latency_seconds = 0.05
    provider.script("task-5", [Answer(401)])
    with client(provider, max_concurrency=1) as luma:
        answers = luma.fetch(IDS)
        found = [next(answers).task_id]
        time.sleep(1.0)  # the run has ended by now
        with pytest.raises(LumaError, match="refused the token"):
            found.extend(result.task_id for result in answers)
    assert found == IDS[:5]


def test_no_thread_outlives_the_client(provider: ProviderServer) -> None:
    before = threading.active_count()
    with client(provider) as luma:
        list(luma.fetch(IDS))
        provider.latency_seconds = 5.0
        answers = luma.fetch(IDS)
        threading.Timer(0.3, luma.close).start()
        with pytest.raises(ClientClosedError):
            next(answers)
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("luma-")]
    assert names == []
    assert threading.active_count() <= before + 20
