"""Every artifact is in the bucket once: known objects are recognised, races end with one object, kills with none."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from luma_pipeline.media import Artifact, CopyRequest, CopyResult, CopyStatus, ErrorCode, KnownObject
from tests.media import samples
from tests.media.conftest import BUCKET, PART, Area
from tests.media.faulty_cdn import Answer, FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest

SMALL = samples.mp4(300_000)
LARGE = samples.mp4(2 * PART + 123_456)
ETAG = hashlib.md5(b"12345", usedforsecurity=False).hexdigest()
OTHERS = [(f"other-{number}", Artifact.VIDEO) for number in range(20)]
"""So many that a listing is worth its cost."""
BODIES = pytest.mark.parametrize("body", [SMALL, LARGE], ids=["small", "large"])


def known(result: CopyResult) -> KnownObject:
    assert result.key is not None
    assert result.size_bytes is not None
    assert result.sha256 is not None
    return KnownObject(result.key, result.size_bytes, result.sha256, result.etag, result.content_type, result.copied_at)


def put_all(area: Area, keys: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: area.client.put_object(Bucket=BUCKET, Key=key, Body=b"12345"), keys))


@BODIES
@pytest.mark.parametrize("in_bulk", [False, True], ids=["single look", "bulk look"])
@pytest.mark.parametrize("is_known", [False, True], ids=["killed before the manifest", "in the manifest"])
def test_what_is_in_the_bucket_is_not_fetched_again(
    area: Area, cdn: FaultyCdn, body: bytes, in_bulk: bool, is_known: bool
) -> None:
    link = cdn.add(Answer(body))
    task_id = "späte/../Aufgabe 7"
    with area.copier() as copier:
        before = copier.copy(CopyRequest(task_id, Artifact.VIDEO, link))
    with area.copier() as copier:
        if in_bulk:
            copier.look_for([(task_id, Artifact.VIDEO), *OTHERS])
        request = CopyRequest(task_id, Artifact.VIDEO, link, known(before) if is_known else None)
        after = copier.copy(request)

    assert (before.status, after.status) == (CopyStatus.COPIED, CopyStatus.ALREADY_PRESENT)
    assert (after.key, after.sha256, after.size_bytes) == (before.key, before.sha256, len(body))
    assert (after.content_type, after.attempts, after.bytes_downloaded) == ("video/mp4", 0, 0)
    assert after.copied_at is not None
    assert len(cdn.requests_for(link)) == 1
    assert len(area.objects()) == 1


def test_an_object_carries_task_digest_and_source(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(SMALL))
    with area.copier() as copier:
        result = copier.copy(CopyRequest("tâche/1", Artifact.VIDEO, f"{link}?X-Amz-Signature=secret#here"))

    metadata = area.client.head_object(Bucket=BUCKET, Key=result.key or "")["Metadata"]
    assert metadata.pop("luma-copy-id")
    assert metadata == {
        "luma-task-id": "t%C3%A2che%2F1",
        "luma-artifact": "video",
        "luma-sha256": hashlib.sha256(SMALL).hexdigest(),
        "luma-source": link,
    }


def test_a_known_object_that_is_gone_is_copied_again(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(SMALL))
    with area.copier() as copier:
        first = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
        area.client.delete_object(Bucket=BUCKET, Key=first.key or "")
        again = copier.copy(CopyRequest("task", Artifact.VIDEO, link, known(first)))

    assert again.status is CopyStatus.COPIED
    assert area.objects() == {"task/video.mp4": SMALL}


def test_a_known_object_of_another_size_is_damaged_and_replaced(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(SMALL))
    with area.copier() as copier:
        first = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
        metadata = area.client.head_object(Bucket=BUCKET, Key=first.key or "")["Metadata"]
        area.client.put_object(Bucket=BUCKET, Key=first.key or "", Body=SMALL[:1000], Metadata=metadata)
        again = copier.copy(CopyRequest("task", Artifact.VIDEO, link, known(first)))

    assert again.status is CopyStatus.COPIED
    assert area.objects() == {"task/video.mp4": SMALL}


def test_an_object_known_under_an_older_template_is_not_copied_again(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(SMALL))
    with area.copier(key_template="old/{artifact}-{task_id}.{extension}") as copier:
        first = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
    with area.copier() as copier:
        again = copier.copy(CopyRequest("task", Artifact.VIDEO, link, known(first)))

    assert again.status is CopyStatus.ALREADY_PRESENT
    assert list(area.objects()) == ["old/video-task.mp4"]


@BODIES
def test_anothers_object_under_the_key_is_kept_unless_overwriting(area: Area, cdn: FaultyCdn, body: bytes) -> None:
    area.client.put_object(Bucket=BUCKET, Key=f"{area.prefix}/task/video.mp4", Body=b"not ours")
    request = CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(body)))
    with area.copier() as copier:
        kept = copier.copy(request)
    assert (kept.status, kept.error_code) == (CopyStatus.FAILED, ErrorCode.KEY_TAKEN.value)
    assert area.objects() == {"task/video.mp4": b"not ours"}
    assert area.uploads() == []

    with area.copier(overwrite=True) as copier:
        assert copier.copy(request).status is CopyStatus.COPIED
    assert area.objects() == {"task/video.mp4": body}


def test_overwriting_copies_anew_what_is_known(area: Area, cdn: FaultyCdn) -> None:
    newer = samples.mp4(400_000, seed=2)
    link = cdn.add(Answer(SMALL), Answer(newer))
    with area.copier(overwrite=True) as copier:
        first = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
        second = copier.copy(CopyRequest("task", Artifact.VIDEO, link, known(first)))

    assert (first.status, second.status) == (CopyStatus.COPIED, CopyStatus.COPIED)
    assert area.objects() == {"task/video.mp4": newer}


def test_thousands_of_known_objects_cost_a_few_listings(area: Area) -> None:
    tasks = [f"{n:05}-task" for n in range(1100)]
    rows = {task_id: KnownObject(f"{area.prefix}/{task_id}/video.mp4", 5, "ab" * 32) for task_id in tasks}
    put_all(area, [row.key for row in rows.values()])
    with (
        FaultyStore(area.store.port, lambda request, nth: None) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), max_workers=1) as copier,
    ):
        seen = copier.seen([(row.key, row.size_bytes, ETAG) for row in rows.values()])
        again = copier.seen([(row.key, row.size_bytes, ETAG) for row in rows.values()])
        listed = listings(proxy)

    assert seen.all()
    assert again.all()
    assert listed == 2


def test_what_the_listing_does_not_have_just_so_is_not_seen(area: Area) -> None:
    keys = [f"{area.prefix}/{n:05}/video.mp4" for n in range(300)]
    put_all(area, keys[:200])
    found: list[tuple[str, int, str | None]] = [(key, 5, ETAG) for key in keys]
    found[0] = (keys[0], 6, ETAG)
    found[1] = (keys[1], 5, "another")
    found[2] = (keys[2], 5, None)
    with area.copier() as copier:
        assert np.flatnonzero(copier.seen(found)).tolist() == list(range(3, 200))


def test_a_few_objects_do_not_walk_a_large_bucket(area: Area) -> None:
    keys = [f"{area.prefix}/{n:05}/video.mp4" for n in range(1500)]
    put_all(area, keys)
    with (
        FaultyStore(area.store.port, lambda request, nth: None) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
    ):
        assert not copier.seen([(key, 5, ETAG) for key in keys[:10]]).any()
        assert listings(proxy) <= 1
        # What further partitions want adds up: by then the listing is worth its cost.
        for start in range(10, 50, 10):
            seen = copier.seen([(key, 5, ETAG) for key in keys[start : start + 10]])
        assert seen.all()


def test_strewn_objects_are_found_whatever_lies_between(area: Area, cdn: FaultyCdn) -> None:
    wanted = ["00100", "missing", "00390"]
    scattered = [f"{area.prefix}/{n:05}/video.mp4" for n in range(0, 400, 10)]
    put_all(area, [*scattered, f"{area.prefix}/missing/video.mp4.bak"])
    link = cdn.add(Answer(SMALL))
    with (
        FaultyStore(area.store.port, lambda request, nth: None) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
    ):
        copier.look_for([*((task_id, Artifact.VIDEO) for task_id in wanted), *OTHERS])
        listed = listings(proxy)
        copied = copier.copy(CopyRequest("missing", Artifact.VIDEO, link))
        assert listings(proxy) == listed == 1
        # Foreign objects under the keys: they are looked at before anything is fetched.
        results = [copier.copy(CopyRequest(task_id, Artifact.VIDEO, link)) for task_id in ("00100", "00390")]
    assert copied.status is CopyStatus.COPIED
    assert {result.error_code for result in results} == {ErrorCode.KEY_TAKEN.value}


def test_the_same_artifact_twice_in_a_run_is_copied_once(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(SMALL, pause_between=0.01, step=30_000))
    with area.copier() as copier:
        futures = [copier.submit(CopyRequest("task", Artifact.VIDEO, link)) for _ in range(5)]
        results = [future.result() for future in futures]

    assert {result.status for result in results} == {CopyStatus.COPIED}
    assert len(cdn.requests_for(link)) == 1


@BODIES
def test_two_runs_at_once_end_with_one_whole_object(any_area: Area, cdn: FaultyCdn, body: bytes) -> None:
    link = cdn.add(Answer(body, pause_between=0.01, step=len(body) // 10))
    request = CopyRequest("task", Artifact.VIDEO, link)
    with any_area.copier() as one, any_area.copier() as other:
        results = [future.result() for future in [one.submit(request), other.submit(request)]]

    copied = [result for result in results if result.status is CopyStatus.COPIED]
    assert {result.status for result in results} <= {CopyStatus.COPIED, CopyStatus.ALREADY_PRESENT}
    assert {result.sha256 for result in results} == {hashlib.sha256(body).hexdigest()}
    if any_area.store.name == "seaweedfs":  # rclone has no conditional writes, and moto's are not atomic.
        assert len(copied) == 1
    assert any_area.objects() == {"task/video.mp4": body}
    assert any_area.uploads() == []


RACER = """
import json, os, sys
from luma_pipeline.media import Artifact, CopyRequest
from tests.media.copiers import make_copier
from luma_pipeline.s3.client import make_client

bucket, prefix, part, link, racers = sys.argv[1:]
client = make_client(max_connections=4, timeouts=(10, 30))
start, go = os.pipe()
children = []
for _ in range(int(racers)):
    if not (child := os.fork()):
        os.close(go)
        os.read(start, 1)
        with make_copier(
            bucket=bucket, prefix=prefix, s3_client=client, part_size_bytes=int(part), max_video_bytes=1 << 30,
            max_workers=1, allow_private_addresses=True,
        ) as copier:
            result = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
        os.write(1, (json.dumps([result.status, result.sha256, result.error_message]) + "\\n").encode())
        os._exit(0)
    children.append(child)
os.close(go)
for child in children:
    os.waitpid(child, 0)
"""


def start(area: Area, script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, BUCKET, area.prefix, str(PART), *arguments],
        env={**os.environ, **area.store.environment(), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("body", [SMALL, samples.mp4(PART + 1000)], ids=["small", "multipart"])
def test_sixteen_processes_race_and_one_of_them_copies(area: Area, cdn: FaultyCdn, body: bytes) -> None:
    racers = start(area, RACER, cdn.add(Answer(body)), "16")
    output, _ = racers.communicate(timeout=120)

    rows = [json.loads(line) for line in output.splitlines()]
    counted = Counter(status for status, _, _ in rows)
    assert set(counted) == {"copied", "already_present"}, rows
    assert counted.total() == 16
    # SeaweedFS 4.48 checks the condition of a completion and completes in two steps, so that a few may pass.
    assert counted["copied"] == 1 or body is not SMALL, rows
    assert {sha256 for _, sha256, _ in rows} == {hashlib.sha256(body).hexdigest()}
    assert area.objects() == {"task/video.mp4": body}
    assert area.uploads() == []


def test_a_killed_run_leaves_an_orphan_that_the_next_sweep_takes(area: Area, cdn: FaultyCdn) -> None:
    slow = Answer(LARGE, pause_between=0.05, step=400_000)
    link = cdn.add(slow, Answer(LARGE))
    victim = start(area, RACER.replace("os.fork()", "0"), link, "1")
    try:
        deadline = time.monotonic() + 60
        while not area.uploads():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert victim.stdout is not None
        victim.stdout.close()
    assert area.objects() == {}

    with area.copier() as copier:
        assert copier.sweep_orphans(3600) == 0
        assert copier.sweep_orphans(0) == 1
        assert area.uploads() == []
        assert copier.copy(CopyRequest("task", Artifact.VIDEO, link)).status is CopyStatus.COPIED
    assert area.objects() == {"task/video.mp4": LARGE}


def test_the_sweep_touches_only_uploads_of_our_prefix_and_template(area: Area) -> None:
    ours = f"{area.prefix}/task/video.mp4"
    foreign = [f"{area.prefix}/task/video.mp4.part", f"{area.prefix}/report.csv", f"{area.prefix}-b/task/video.mp4"]
    for key in [ours, *foreign]:
        area.client.create_multipart_upload(Bucket=BUCKET, Key=key)
    with area.copier() as copier:
        assert copier.sweep_orphans(0) == 1

    left = {upload["Key"] for upload in area.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])}
    assert left >= set(foreign)
    assert ours not in left


@pytest.mark.parametrize(
    ("dead", "refreshed", "status", "asked"),
    [
        ("status", "alive", CopyStatus.COPIED, 2),
        ("status", "dead", CopyStatus.EXPIRED, 2),
        ("status", "same", CopyStatus.EXPIRED, 1),
        ("status", None, CopyStatus.EXPIRED, 1),
        ("own expiry", "alive", CopyStatus.COPIED, 1),
        ("own expiry", "expired", CopyStatus.EXPIRED, 0),
        ("own expiry", None, CopyStatus.EXPIRED, 0),
    ],
)
def test_a_dead_link_is_refreshed_once(
    area: Area, cdn: FaultyCdn, dead: str, refreshed: str | None, status: CopyStatus, asked: int
) -> None:
    gone = cdn.add(Answer(b"expired", 403))
    links = {
        "alive": f"{cdn.add(Answer(SMALL))}?X-Amz-Date={datetime.now(UTC):%Y%m%dT%H%M%SZ}&X-Amz-Expires=60",
        "dead": cdn.add(Answer(b"expired", 410)),
        "expired": f"{cdn.add(Answer(SMALL))}?Expires=1700000000",
        "same": gone,
        "status": gone,
        "own expiry": f"{cdn.add(Answer(SMALL))}?X-Amz-Date=20241224T180000Z&X-Amz-Expires=3600",
    }
    questions: list[tuple[str, Artifact]] = []

    def refresh(task_id: str, artifact: Artifact) -> str | None:
        questions.append((task_id, artifact))
        return None if refreshed is None else links[refreshed]

    with area.copier(refresh=refresh) as copier:
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, links[dead]))

    assert result.status is status
    assert result.error_code == (None if status is CopyStatus.COPIED else ErrorCode.LINK_EXPIRED.value)
    assert questions == [("task", Artifact.VIDEO)]
    assert len(cdn.asked) == asked
    assert area.objects() == ({"task/video.mp4": SMALL} if status is CopyStatus.COPIED else {})


def test_a_link_that_dies_in_the_middle_is_refreshed_and_the_rest_fetched(area: Area, cdn: FaultyCdn) -> None:
    dying = cdn.add(Answer(LARGE, sends=len(LARGE) // 2), Answer(b"expired", 403))
    fresh = cdn.add(Answer(LARGE))
    with area.copier(refresh=lambda task_id, artifact: fresh, max_attempts=4) as copier:
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, dying))

    assert result.status is CopyStatus.COPIED
    assert result.bytes_downloaded == len(LARGE)
    assert area.objects() == {"task/video.mp4": LARGE}


def test_a_store_without_conditional_writes_gets_plain_ones(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(501, "NotImplemented") if request.has_condition else None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), max_workers=1) as copier,
    ):
        for n, body in enumerate([SMALL, LARGE, SMALL]):
            result = copier.copy(CopyRequest(f"task-{n}", Artifact.VIDEO, cdn.add(Answer(body))))
            assert result.status is CopyStatus.COPIED
        conditions = [request for request in proxy.seen if request.has_condition]

    assert len(area.objects()) == 3
    assert len({request.path for request in conditions}) == 1


def listings(proxy: FaultyStore) -> int:
    return sum(request.method == "GET" and "list-type" in request.query for request in proxy.seen)


EMPTY_PAGE = "<ListBucketResult><IsTruncated>true</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"


def test_a_page_without_keys_is_not_taken_for_a_bucket_without_objects(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(SMALL))
    request = CopyRequest("task", Artifact.VIDEO, link)
    with area.copier() as copier:
        copier.copy(request)

    def rule(request: StoreRequest, nth: int) -> Fault | None:
        is_first = request.method == "GET" and nth <= 2 and "continuation-token" not in request.query
        return Fault(200, text=EMPTY_PAGE) if is_first else None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
    ):
        copier.look_for([("task", Artifact.VIDEO), *OTHERS])
        assert copier.copy(request).status is CopyStatus.ALREADY_PRESENT
    assert len(cdn.requests_for(link)) == 1


def test_a_listing_that_does_not_end_is_no_proof_of_absence(area: Area, cdn: FaultyCdn) -> None:
    def rule(request: StoreRequest, nth: int) -> Fault | None:
        return Fault(200, text=EMPTY_PAGE) if request.method == "GET" else None

    with (
        FaultyStore(area.store.port, rule) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint)) as copier,
    ):
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, cdn.add(Answer(SMALL))))

    assert (result.status, result.error_code) == (CopyStatus.FAILED, ErrorCode.STORE_ERROR.value)


def test_new_videos_need_few_listings_and_a_second_look_its_own(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(samples.mp4(3000)))
    requests = [CopyRequest(hashlib.sha256(bytes([n])).hexdigest(), Artifact.VIDEO, link) for n in range(40)]
    with (
        FaultyStore(area.store.port, lambda request, nth: None) as proxy,
        area.copier(s3_client=area.store.client(endpoint=proxy.endpoint), max_workers=1) as copier,
    ):
        first = [copier.copy(request).status for request in requests]
        asked = listings(proxy)
        second = [copier.copy(request).status for request in requests]

    assert first == [CopyStatus.COPIED] * len(requests)
    assert asked <= 20
    assert second == [CopyStatus.ALREADY_PRESENT] * len(requests)
    assert len(cdn.asked) == len(requests)


NAMES_THAT_STORES_ORDER_DIFFERENTLY = ["a", "a-a", "a-b", "a.b", "a0", "b", "b-1"]


@pytest.mark.parametrize("in_bulk", [False, True], ids=["single looks", "bulk look"])
def test_an_object_is_found_in_whatever_order_the_store_lists(any_area: Area, cdn: FaultyCdn, in_bulk: bool) -> None:
    link = cdn.add(Answer(SMALL))
    requests = [CopyRequest(name, Artifact.VIDEO, link) for name in NAMES_THAT_STORES_ORDER_DIFFERENTLY]
    with any_area.copier() as copier:
        results = [copier.submit(request).result() for request in requests]
    before = {result.task_id: known(result) for result in results}
    cdn.asked.clear()
    for first in ("a-a", "a.b", "a"):
        with any_area.copier() as copier:
            if in_bulk:
                copier.look_for([*((name, Artifact.VIDEO) for name in before if name >= first), *OTHERS])
            for name in sorted(before, key=lambda name: name != first):
                result = copier.copy(CopyRequest(name, Artifact.VIDEO, link, before[name]))
                assert result.status is CopyStatus.ALREADY_PRESENT, name
    assert cdn.asked == []


def test_an_object_that_another_has_replaced_is_not_taken_for_the_known_one(area: Area, cdn: FaultyCdn) -> None:
    link, other = cdn.add(Answer(SMALL)), samples.mp4(len(SMALL), seed=2)
    with area.copier() as copier:
        first = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
    area.client.put_object(Bucket=BUCKET, Key=first.key or "", Body=other)
    with area.copier() as copier:
        taken = copier.copy(CopyRequest("task", Artifact.VIDEO, link, known(first)))
    metadata = {"luma-task-id": "task", "luma-artifact": "video", "luma-sha256": hashlib.sha256(other).hexdigest()}
    area.client.put_object(Bucket=BUCKET, Key=first.key or "", Body=other, Metadata=metadata)
    with area.copier() as copier:
        ours = copier.copy(CopyRequest("task", Artifact.VIDEO, link, known(first)))

    assert (taken.status, taken.error_code, taken.key) == (CopyStatus.FAILED, ErrorCode.KEY_TAKEN.value, None)
    assert (ours.status, ours.sha256) == (CopyStatus.ALREADY_PRESENT, hashlib.sha256(other).hexdigest())


def test_a_known_object_with_the_same_bytes_and_another_etag_is_read_and_not_fetched(
    area: Area, cdn: FaultyCdn
) -> None:
    link = cdn.add(Answer(LARGE))
    with area.copier() as copier:
        first = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
    # As a tool moves it that knows no metadata and no parts.
    area.client.put_object(Bucket=BUCKET, Key=first.key or "", Body=LARGE)
    with area.copier() as copier:
        again = copier.copy(CopyRequest("task", Artifact.VIDEO, link, known(first)))

    assert (again.status, again.sha256) == (CopyStatus.ALREADY_PRESENT, first.sha256)
    assert again.etag == hashlib.md5(LARGE).hexdigest()
    assert len(cdn.requests_for(link)) == 1


def test_a_known_multipart_of_another_size_is_damaged_and_replaced(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(LARGE))
    with area.copier() as copier:
        first = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
        metadata = area.client.head_object(Bucket=BUCKET, Key=first.key or "")["Metadata"]
        area.client.put_object(Bucket=BUCKET, Key=first.key or "", Body=LARGE[:1000], Metadata=metadata)
    with area.copier() as copier:
        again = copier.copy(CopyRequest("task", Artifact.VIDEO, link, known(first)))

    assert again.status is CopyStatus.COPIED
    assert area.objects() == {"task/video.mp4": LARGE}
