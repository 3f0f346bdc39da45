"""Requests are taken no faster than they are worked on, and one that waits for its turn hears of the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from luma_pipeline.media import Artifact, BucketError, CopyCancelled, CopyRequest, CopyResult, CopyStatus, MediaCopier
from luma_pipeline.media.buffers import BufferPool
from tests.media import samples
from tests.media.conftest import Area
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest

SMALL = samples.mp4(30_000)
MOST = 4


class Submitter:
    """Submits one more request in a thread of its own."""

    def __init__(self, copier: MediaCopier, request: CopyRequest) -> None:
        self.future: Future[CopyResult] | None = None
        self.error: Exception | None = None
        self._copier, self._request = copier, request
        self._thread = threading.Thread(target=self._submit)
        self._thread.start()

    def _submit(self) -> None:
        try:
            self.future = self._copier.submit(self._request)
        except (BucketError, CopyCancelled) as error:
            self.error = error

    def is_waiting(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return self._thread.is_alive()


@contextmanager
def held(area: Area, cdn: FaultyCdn, fault: Fault) -> Iterator[tuple[MediaCopier, list[CopyRequest], threading.Event]]:
    """A copier of one worker whose store answers its listings once the event is set, and as many requests as it takes
    with one more."""
    go_on = threading.Event()

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if request.method == "GET" and "list-type" in request.query:
            go_on.wait(30)
            return fault
        return None

    link = cdn.add(Answer(SMALL))
    requests = [CopyRequest(f"task-{n}", Artifact.VIDEO, link) for n in range(MOST + 1)]
    with FaultyStore(area.store.port, rule) as proxy:
        yield area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), max_workers=1), requests, go_on


def test_one_request_too_many_waits_for_its_turn(area: Area, cdn: FaultyCdn) -> None:
    with held(area, cdn, Fault(passes=True)) as (copier, requests, go_on), copier:
        futures = [copier.submit(request) for request in requests[:MOST]]
        one_more = Submitter(copier, requests[MOST])
        assert one_more.is_waiting(0.2)
        assert copier.submit(requests[0]) is futures[0]
        go_on.set()
        assert not one_more.is_waiting(30)
        assert one_more.future is not None
        results = [future.result() for future in [*futures, one_more.future]]

    assert {result.status for result in results} == {CopyStatus.COPIED}
    assert len(area.objects()) == MOST + 1


def test_one_that_waits_hears_that_nothing_can_be_copied(area: Area, cdn: FaultyCdn) -> None:
    with held(area, cdn, Fault(403, "AccessDenied")) as (copier, requests, go_on), copier:
        for request in requests[:MOST]:
            copier.submit(request)
        one_more = Submitter(copier, requests[MOST])
        assert one_more.is_waiting(0.2)
        go_on.set()
        assert not one_more.is_waiting(30)

    assert isinstance(one_more.error, BucketError)


def test_one_that_waits_hears_that_the_copier_is_closed(area: Area, cdn: FaultyCdn) -> None:
    with held(area, cdn, Fault(passes=True)) as (copier, requests, go_on):
        futures = [copier.submit(request) for request in requests[:MOST]]
        one_more = Submitter(copier, requests[MOST])
        assert one_more.is_waiting(0.2)
        closing = threading.Thread(target=copier.close, kwargs={"cancel": True})
        closing.start()
        assert not one_more.is_waiting(30)
        go_on.set()
        closing.join()
        endings = [type(future.exception()) for future in futures]

    assert isinstance(one_more.error, CopyCancelled)
    assert endings == [CopyCancelled] * MOST
    with pytest.raises(CopyCancelled):
        copier.submit(requests[0])
    assert cdn.asked == []


def test_a_small_one_is_written_while_the_next_is_fetched(area: Area, cdn: FaultyCdn) -> None:
    fetched_meanwhile: list[bool] = []

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        if request.method == "PUT" and not fetched_meanwhile:
            deadline = time.monotonic() + 20
            while len(cdn.asked) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            fetched_meanwhile.append(len(cdn.asked) == 2)
        return None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), max_workers=1) as copier,
    ):
        requests = [CopyRequest(f"task-{n}", Artifact.VIDEO, cdn.add(Answer(SMALL))) for n in range(2)]
        results = [future.result() for future in [copier.submit(request) for request in requests]]

    assert fetched_meanwhile == [True]
    assert {result.status for result in results} == {CopyStatus.COPIED}


def test_no_more_are_fetched_at_once_than_there_are_workers(area: Area, cdn: FaultyCdn) -> None:
    requests = [CopyRequest(f"task-{n}", Artifact.VIDEO, cdn.add(Answer(SMALL, pause_before=0.1))) for n in range(8)]
    with area.copier(max_workers=2) as copier:
        results = [future.result() for future in [copier.submit(request) for request in requests]]

    assert {result.status for result in results} == {CopyStatus.COPIED}
    assert cdn.most_at_once == 2


def test_what_waits_for_its_turn_does_not_use_up_its_time(area: Area, cdn: FaultyCdn) -> None:
    slow = Answer(SMALL, pause_before=1.2)
    requests = [CopyRequest(f"task-{n}", Artifact.VIDEO, cdn.add(slow)) for n in range(3)]
    with area.copier(max_workers=1, max_seconds=2.2) as copier:
        results = [future.result() for future in [copier.submit(request) for request in requests]]

    assert [result.error_code for result in results] == [None] * 3
    assert max(result.seconds for result in results) < 2.2


def test_a_buffer_that_somebody_still_looks_into_is_replaced_by_a_whole_one() -> None:
    pool = BufferPool(10, own=1, spare=0)
    buffer = pool.take()
    del buffer[4:]
    view = memoryview(buffer)
    pool.give(buffer)
    again = pool.take()
    assert (len(again), again is buffer, view.nbytes) == (10, False, 4)
    pool.give(again)
    assert pool.take() is again
    del again[4:]
    pool.give(again)
    assert (len(pool.take()), pool.take_spare()) == (10, None)
