"""How far the reading has come is kept, and an audit goes on there."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from luma_pipeline.audit import AuditOptions
from luma_pipeline.dataset import Dataset, Hand
from tests.audit.scene import DAY, Scene
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest
from tests.world import World

OBJECTS = 60


@pytest.fixture
def scene(world: World) -> Scene:
    scene = Scene(world)
    rows = []
    for number in range(OBJECTS):
        body = f"body {number}".encode()
        scene.put(f"task-{number}", body)
        rows.append(
            {
                "task_id": f"task-{number}",
                "artifact": "video",
                "status": "copied",
                "bucket": world.bucket,
                "key": f"task-{number}/video.mp4",
                "size_bytes": len(body),
                "content_type": "video/mp4",
                "sha256": hashlib.sha256(body).hexdigest(),
                "etag": hashlib.md5(body).hexdigest(),
                "copied_at": datetime.now(UTC) + timedelta(minutes=1),
            }
        )
    scene.edit(lambda _: rows, DAY)
    return scene


def test_a_share_is_read_once_and_what_was_missed_is_caught_up(scene: Scene) -> None:
    audits = Dataset(url=scene.root).audits()
    first = scene.audit(read_within_days=30.0)
    assert first.read < OBJECTS / 4
    assert scene.audit(read_within_days=30.0).read == 0
    hand = audits.hand()
    assert hand is not None
    audits.put_hand(Hand(hand.place, hand.at - timedelta(days=15)))
    half = scene.audit(read_within_days=30.0).read
    assert OBJECTS / 4 < half < OBJECTS * 3 / 4
    hand = audits.hand()
    assert hand is not None
    audits.put_hand(Hand(hand.place, hand.at - timedelta(days=400)))
    assert scene.audit(read_within_days=30.0).read == OBJECTS
    # One that is told to read all, and one of some partitions, which is not all.
    assert scene.audit(AuditOptions(read_all=True), read_within_days=30.0).read == OBJECTS
    assert scene.audit(AuditOptions(first=DAY, last=DAY, read_all=True)).read == OBJECTS


def test_an_audit_that_could_not_read_on_is_gone_on_with_there(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()

    def rule(request: StoreRequest, n: int) -> Fault | None:
        if request.method != "GET" or not request.path.endswith("video.mp4"):
            return None
        if len(read) >= OBJECTS / 2:
            return Fault(403, "AccessDenied")
        read.add(request.path)
        return None

    with FaultyStore(int(scene.world.store.endpoint_url.rpartition(":")[2]), rule) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        broken = scene.audit(read_within_days=1.0)
    assert any("not all objects whose turn it was were read" in problem for problem in broken.problems)
    assert broken.read == OBJECTS / 2
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", scene.world.store.endpoint_url)
    rest = scene.audit(read_within_days=1.0)
    assert (rest.problems, rest.counts) == ((), {})
    # What was read of the part in which it broke is read again, and what could not be read, although its turn is over.
    assert OBJECTS / 2 <= rest.read < OBJECTS
