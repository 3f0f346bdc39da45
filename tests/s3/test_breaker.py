"""A copier that is closed with cancel ends within seconds, whatever the store does, and aborts its uploads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from luma_pipeline.media import Artifact, BucketError, CopyCancelled, CopyRequest, MediaCopier
from luma_pipeline.s3 import make_client
from luma_pipeline.s3.breaker import RequestBreaker
from tests.media import samples
from tests.media.conftest import PART, Area
from tests.media.copiers import make_copier
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest

SMALL = samples.mp4(300_000)
LARGE = samples.mp4(2 * PART + 123_456)
LONGEST = 14.0


class StallingStore:
    """Stalls the requests of a kind, and every abort after the first of them, until `is_over` is set.

    A stalled abort reaches the store then. The others do not: a store drops what it has not taken in when the
    connection goes.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.begun = threading.Event()
        self.is_over = threading.Event()

    def rule(self, request: StoreRequest, nth: int) -> Fault | None:
        kinds = {
            "listing": request.is_listing,
            "beginning": request.method == "POST" and "uploads" in request.query,
            "part": request.is_part,
            "completion": request.is_completion,
            "small": request.method == "PUT" and not request.is_part,
            "looking": request.method == "HEAD",
        }
        is_stalled = kinds[self.kind] or (self.begun.is_set() and request.method == "DELETE")
        if is_stalled and not self.is_over.is_set():
            self.begun.set()
            self.is_over.wait(60)
            return None if request.method == "DELETE" else Fault(0)
        return None


@contextmanager
def stalled(area: Area, kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[MediaCopier, StallingStore]]:
    store = StallingStore(kind)
    with FaultyStore(area.store.port, store.rule) as proxy:
        for name, value in {**area.store.environment(), "AWS_ENDPOINT_URL_S3": proxy.endpoint}.items():
            monkeypatch.setenv(name, value)
        try:
            yield area.copier(s3_client=None), store
        finally:
            store.is_over.set()


@pytest.mark.parametrize("kind", ["listing", "beginning", "part", "completion", "small", "looking"])
def test_a_store_that_stalls_delays_the_end_by_seconds(
    area: Area, cdn: FaultyCdn, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with stalled(area, kind, monkeypatch) as (copier, store):
        body = SMALL if kind == "small" else LARGE
        futures = [copier.submit(CopyRequest(f"t{n}", Artifact.VIDEO, cdn.add(Answer(body)))) for n in range(6)]
        assert store.begun.wait(30)
        started = time.monotonic()
        copier.close(cancel=True)
        seconds = time.monotonic() - started
        endings = {type(future.exception()) for future in futures}

    assert seconds < LONGEST
    assert endings <= {CopyCancelled, type(None)}
    time.sleep(0.5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("media-", "s3-breaker"))]


@pytest.mark.parametrize("kind", ["part", "completion"])
def test_a_store_that_answers_again_in_time_keeps_no_upload(
    area: Area, cdn: FaultyCdn, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with stalled(area, kind, monkeypatch) as (copier, store):
        for n in range(3):
            copier.submit(CopyRequest(f"t{n}", Artifact.VIDEO, cdn.add(Answer(LARGE))))
        assert store.begun.wait(30)
        threading.Timer(4.5, store.is_over.set).start()
        copier.close(cancel=True)
        # An abort that the proxy has taken may reach a busy store a little later.
        deadline = time.monotonic() + 20
        while area.uploads() and time.monotonic() < deadline:
            time.sleep(0.1)

    assert area.uploads() == []


def test_a_listing_of_many_is_broken_off(area: Area, cdn: FaultyCdn, monkeypatch: pytest.MonkeyPatch) -> None:
    with stalled(area, "listing", monkeypatch) as (copier, store):
        errors: list[Exception] = []

        def load() -> None:
            try:
                copier.look_for([(f"t{n}", Artifact.VIDEO) for n in range(500)])
            except BucketError as error:
                errors.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        assert store.begun.wait(30)
        copier.close(cancel=True)
        thread.join(LONGEST)
        assert not thread.is_alive()
    assert errors


def test_a_quiet_store_is_not_waited_for(area: Area, cdn: FaultyCdn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in area.store.environment().items():
        monkeypatch.setenv(name, value)
    link = cdn.add(Answer(LARGE, pause_between=0.05, step=100_000))
    copier = make_copier(bucket="media-tests", prefix=area.prefix, allow_private_addresses=True, part_size_bytes=PART)
    future = copier.submit(CopyRequest("task", Artifact.VIDEO, link))
    while not area.uploads():
        time.sleep(0.02)
    started = time.monotonic()
    copier.close(cancel=True)

    assert time.monotonic() - started < 3
    assert isinstance(future.exception(), CopyCancelled)
    assert area.uploads() == []


def test_botocore_lets_its_connections_be_reached(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in area.store.environment().items():
        monkeypatch.setenv(name, value)
    client = make_client(max_connections=1, timeouts=(5.0, 5.0))
    breaker = RequestBreaker(client)
    client.list_buckets()
    assert len(breaker._connections) == 1
