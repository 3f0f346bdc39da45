"""Every kind of damage that a hand can do is found, under a word of its own, and nothing else is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from luma_pipeline.audit import AUDIT_SCHEMA, AuditOptionError, AuditOptions, Kind
from luma_pipeline.dataset import AuditSummary
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.audit.scene import DAY, Row, Scene, copied, found
from tests.media.faulty_store import Fault, FaultyStore, StoreRequest
from tests.world import running_world

OTHER_DAY = "2024-12-22"
DAMAGED = [
    "gone",
    "cut",
    "longer",
    "overwritten",
    "rotten",
    "retagged",
    "relabelled",
    "retyped",
    "undigested",
    "keyless",
    "twice",
    "rewritten",
    "same-1",
    "same-2",
]
WELL = ["well-1", "well-2", "_well"]


def damage(scene: Scene) -> None:
    """Each kind of damage to a task of its own."""
    client, bucket = scene.client, scene.world.bucket
    scene.delete("gone")
    scene.put("cut", scene.body("cut")[:-7], Metadata=scene.metadata("cut"))
    scene.put("longer", scene.body("longer") + b"and more", Metadata=scene.metadata("longer"))
    scene.put("overwritten", scene.body("overwritten")[::-1])
    metadata = {**scene.metadata("relabelled"), "luma-task-id": "another"}
    scene.put("relabelled", scene.body("relabelled"), Metadata=metadata)
    scene.put("retyped", scene.body("retyped"), Metadata=scene.metadata("retyped"), ContentType="text/plain")
    same = scene.body("same-1")
    scene.put("same-2", same, Metadata={**scene.metadata("same-2"), "luma-sha256": hashlib.sha256(same).hexdigest()})
    etag = client.head_object(Bucket=bucket, Key="same-2/video.mp4")["ETag"].strip('"')
    later = datetime.now(UTC) + timedelta(minutes=1)
    scene.edit_rows(
        {
            "rotten": {"sha256": "0" * 64},
            "retagged": {"etag": "0" * 32},
            "undigested": {"sha256": None},
            "keyless": {"key": None},
            "rewritten": {"copied_at": later - timedelta(hours=1)},
            "same-2": {
                "sha256": hashlib.sha256(same).hexdigest(),
                "size_bytes": len(same),
                "etag": etag,
                "copied_at": later,
            },
            # Written a moment ago by this hand, and not what they are about.
            **{name: {"copied_at": later} for name in ("relabelled", "retyped")},
        }
    )
    twice = scene.row("twice")
    scene.edit(lambda rows: [*rows, twice], OTHER_DAY)
    for key in ("ghost/video.mp4", "_gallery/video.mp4", "notes/readme.txt", "_checkpoints/x/video.mp4"):
        client.put_object(Bucket=bucket, Key=key, Body=b"x")


EXPECTED = {
    "missing": ["gone"],
    "truncated": ["cut"],
    "wrong_size": ["longer"],
    "changed": ["overwritten"],
    "digest_differs": ["rotten"],
    "etag_differs": ["retagged"],
    "other_task": ["relabelled"],
    "wrong_content_type": ["retyped"],
    "no_digest": ["undigested"],
    "no_key": ["keyless"],
    "repeated_key": ["twice", "twice"],
    "rewritten": ["rewritten"],
    "duplicate": ["same-2"],
    "orphaned": ["ghost", "keyless"],
}
"""The object of the row without a key is in no manifest."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, store: ObjectStore) -> Iterator[Scene]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment().items():
            patch.setenv(name, value)
        with (
            running_world(tmp_path_factory.mktemp("audit"), store, "audited") as world,
            copied(world, *WELL, *DAMAGED, days={"well-1": OTHER_DAY}) as scene,
        ):
            assert found(scene.report(scene.audit())) == {}
            damage(scene)
            yield scene


@pytest.fixture(scope="module")
def audited(scene: Scene) -> AuditSummary:
    return scene.audit()


@pytest.fixture(scope="module")
def report(scene: Scene, audited: AuditSummary) -> list[Row]:
    return scene.report(audited)


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_kind_of_damage_is_found_under_its_own_word(report: list[Row], kind: str) -> None:
    assert found([row for row in report if row["kind"] == kind]) == {kind: EXPECTED[kind]}


def test_nothing_else_is_found_and_the_counts_are_those_of_the_report(report: list[Row], audited: AuditSummary) -> None:
    assert found(report) == EXPECTED
    assert audited.counts == {kind: len(names) for kind, names in EXPECTED.items()}
    severities = {row["kind"]: row["severity"] for row in report}
    assert severities == {kind: str(Kind(kind).severity) for kind in EXPECTED}
    assert audited.errors == sum(severity == "error" for kind, severity in severities.items())
    assert not audited.problems
    assert not audited.is_well


def test_the_report_says_where_and_what_and_duckdb_reads_it(
    scene: Scene, report: list[Row], audited: AuditSummary
) -> None:
    (cut,) = (row for row in report if row["kind"] == "truncated")
    size = scene.row("cut")["size_bytes"]
    assert (cut["expected"], cut["found"]) == (f"{size} bytes", f"{size - 7} bytes")
    assert (cut["partition"], cut["task_id"], cut["artifact"]) == (f"date={DAY}", "cut", "video")
    assert (cut["repaired"], cut["repair"], cut["audited_at"]) == (False, None, audited.audited_at)
    path = f"{scene.root}/luma_audit/**/*.parquet"
    query = f"SELECT kind, count(*) FROM read_parquet('{path}') WHERE audited_at = ? GROUP BY ALL"
    assert dict(duckdb.execute(query, [audited.audited_at]).fetchall()) == audited.counts
    assert AUDIT_SCHEMA.names == [name for name in report[0] if name != "audit"]


def test_without_reading_the_listing_alone_finds_what_it_tells(scene: Scene) -> None:
    (Path(scene.root) / "_audit" / "last.json").unlink()
    summary = scene.audit(read_within_days=None)
    by_reading = {"digest_differs", "other_task", "wrong_content_type"}
    assert found(scene.report(summary)) == {kind: names for kind, names in EXPECTED.items() if kind not in by_reading}


def test_what_was_found_by_reading_stays_found_when_its_turn_is_over(scene: Scene) -> None:
    assert found(scene.report(scene.audit())) == EXPECTED
    for _ in range(2):
        assert found(scene.report(scene.audit(read_within_days=None))) == EXPECTED


def test_dates_leave_partitions_out_and_no_orphan_is_looked_for(scene: Scene) -> None:
    summary = scene.audit(AuditOptions(last=OTHER_DAY))
    assert (summary.partitions, found(scene.report(summary))) == (1, {})
    summary = scene.audit(AuditOptions(first=DAY))
    assert set(summary.counts) == set(EXPECTED) - {"orphaned", "repeated_key"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"first": "2024-13-01"}, "the option first must be a date such as 2024-12-24, not '2024-13-01'"),
        ({"last": "24.12.2024"}, "the option last must be a date"),
        ({"last": ""}, "the option last must be a date"),
        ({"first": "2024-1-1"}, "the option first must be a date"),
        ({"first": "2024-12-24", "last": "2024-12-23"}, "is before the option first"),
        ({"first": "2024-12-24", "delete_orphans": True}, "delete_orphans needs all partitions"),
    ],
)
def test_a_wrong_date_is_told_before_anything_is_done(options: dict[str, object], words: str) -> None:
    with pytest.raises(AuditOptionError, match=words):
        AuditOptions(**options)  # type: ignore[arg-type]


def test_a_bucket_that_cannot_be_listed_is_told_and_the_rest_is_done(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rule(request: StoreRequest, n: int) -> Fault | None:
        return Fault(403, "AccessDenied") if request.is_listing else None

    with FaultyStore(int(scene.world.store.endpoint_url.rpartition(":")[2]), rule) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        summary = scene.audit()
    assert any("was not listed to its end" in problem for problem in summary.problems)
    # All is read in this audit, so that only what a listing alone tells is not found.
    assert set(summary.counts) == set(EXPECTED) - {"orphaned"}


def test_a_bucket_that_is_not_there_is_told_and_no_object_counts_as_missing(scene: Scene) -> None:
    videos = scene.settings().videos
    summary = scene.audit(videos=type(videos)(bucket="no-such-bucket"))
    assert any("no-such-bucket" in problem for problem in summary.problems)


def test_a_listing_that_breaks_off_makes_no_object_missing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def rule(request: StoreRequest, n: int) -> Fault | None:
        return Fault(500) if request.is_listing else None

    with FaultyStore(int(scene.world.store.endpoint_url.rpartition(":")[2]), rule) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        summary = scene.audit(read_within_days=None)
    assert summary.problems
    assert "missing" not in summary.counts


def test_an_object_that_cannot_be_read_is_told_and_the_others_are_read(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rule(request: StoreRequest, n: int) -> Fault | None:
        is_it = request.path.endswith("well-2/video.mp4") and request.method in {"GET", "HEAD"}
        return Fault(403, "AccessDenied") if is_it else None

    with FaultyStore(int(scene.world.store.endpoint_url.rpartition(":")[2]), rule) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        summary = scene.audit()
    assert found(scene.report(summary)) == {**EXPECTED, "unreadable_object": ["well-2"]}
    assert any("objects could not be read" in problem for problem in summary.problems)


def test_after_a_change_of_the_prefix_objects_are_looked_at_one_by_one(scene: Scene) -> None:
    videos = scene.settings().videos
    told: list[str] = []
    summary = scene.audit(videos=type(videos)(bucket=videos.bucket, prefix="elsewhere"), tell=told.append)
    assert set(summary.counts) == set(EXPECTED) - {"orphaned"}
    assert any("outside of the prefix" in words for words in told)
    assert summary.others["elsewhere"] == summary.rows - 1  # one row has no key
    assert not summary.problems


def test_what_is_young_is_no_orphan(scene: Scene) -> None:
    summary = scene.audit(young_seconds=3600)
    assert "orphaned" not in summary.counts
    assert (summary.others["young_orphans"], summary.others["not_ours"]) == (2, 3)


def test_what_is_missing_or_unreadable_of_the_manifest_is_told_and_makes_no_orphans(
    scene: Scene, tmp_path: Path
) -> None:
    file = scene.manifest_path(OTHER_DAY)
    content = file.read_bytes()
    try:
        file.write_bytes(b"PAR1 and no more")
        summary = scene.audit()
        assert found(scene.report(summary))["unreadable_partition"] == [f"date={OTHER_DAY}"]
        assert "orphaned" not in summary.counts
        assert any("was not read" in problem for problem in summary.problems)
        assert any("orphaned objects were not looked for" in problem for problem in summary.problems)
        file.unlink()
        summary = scene.audit()
        assert found(scene.report(summary))["missing_partition"] == [f"date={OTHER_DAY}"]
        assert found(scene.report(summary))["orphaned"] == ["ghost", "keyless", "well-1"]
    finally:
        file.write_bytes(content)


def test_every_kind_is_on_the_page_with_its_severity() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
    told = dict(re.findall(r"^\| `(\w+)` \| (error|warning|info) \|", page, re.MULTILINE))
    assert told == {str(kind): str(kind.severity) for kind in Kind}
