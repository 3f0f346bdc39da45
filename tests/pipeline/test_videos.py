"""The manifest of videos: how each ended, what is tried again, what is left alone, and what is kept."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from luma_pipeline.dataset import Dataset, PartitionFile
from luma_pipeline.engine.dataset_check import listed_objects
from luma_pipeline.engine.generations import GenerationsReport, ResolvePolicy
from luma_pipeline.engine.partition import OPEN_MARKS, UNFINISHED_MARKS, Partition, PartitionReport, PartitionWork
from luma_pipeline.engine.policy import GiveUpPolicy
from luma_pipeline.engine.videos import ManifestPolicy, VideosReport
from luma_pipeline.luma import AuthenticationError, LumaClient, ProviderConfig
from luma_pipeline.luma.links import choose_link, links_of_generation
from luma_pipeline.media import DEFAULT_LINK_PREFERENCE, Artifact, BucketError, LinkSource
from luma_pipeline.orchestration.metadata import generations_metadata, videos_metadata
from luma_pipeline.sandbox.cdn import ArtifactUrls
from luma_pipeline.sandbox.provider import TOKEN, Answer, Generation
from luma_pipeline.sandbox.s3 import ObjectStore
from luma_pipeline.source.table import SourceTable
from tests.media import samples
from tests.media.copiers import make_copier
from tests.media.faulty_cdn import Answer as Media
from tests.media.faulty_cdn import FaultyCdn
from tests.media.faulty_store import Fault, FaultyStore, Rule
from tests.world import World

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DAY = "2024-12-24"
START = datetime(2024, 12, 24, tzinfo=UTC)
CHRISTMAS = Partition(DAY, f"date={DAY}", START, START + timedelta(days=1))
NEVER = 24 * 365 * 100.0
HOUR = 1.0


@dataclasses.dataclass(frozen=True)
class Run:
    """How a run differs from the ordinary one. Tasks are `old` when they are past the time to give up."""

    artifacts: tuple[str, ...] = ("video",)
    old: bool = False
    refresh: bool = False
    retry_failed: bool = False
    overwrite: bool = False
    only: tuple[str, ...] = ("tasks", "generations", "videos")
    bucket: str = ""
    preference: Sequence[LinkSource] = DEFAULT_LINK_PREFERENCE
    late_rows: timedelta = timedelta(0)
    copier: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    partition: Partition = CHRISTMAS


def do(world: World, run: Run | None = None) -> PartitionReport:
    run = run or Run()
    with work_of(world, run) as work:
        return work.do(run.partition)


def plan(world: World, run: Run) -> PartitionReport:
    with work_of(world, run) as work:
        return work.plan(run.partition)


@contextmanager
def work_of(world: World, run: Run) -> Iterator[PartitionWork]:
    """The work of a run on one partition, with the world's servers."""
    give_up = GiveUpPolicy((HOUR if run.old else NEVER) * 3600, datetime.now(UTC), never=run.retry_failed)
    bucket = run.bucket or world.bucket
    source = SourceTable(url=world.source_url, table="generations")
    with ExitStack() as stack:
        client = stack.enter_context(LumaClient(ProviderConfig(token=TOKEN, base_url=world.provider.base_url)))

        def refreshed(task_id: str, artifact: Artifact) -> str | None:
            generation = client.fetch_one(task_id).generation
            return (
                None
                if generation is None
                else choose_link(links_of_generation(generation), artifact, run.preference)[0]
            )

        settings: dict[str, Any] = {
            "bucket": bucket,
            "s3_client": client_of(world.store),
            "allow_private_addresses": True,
            "max_attempts": 2,
            "backoff_seconds": 0.01,
            "overwrite": run.overwrite,
            "refresh": refreshed,
        }
        copier = stack.enter_context(make_copier(**{**settings, **run.copier}))
        manifest = ManifestPolicy(
            tuple(Artifact(name) for name in run.artifacts),
            tuple(run.preference),
            give_up,
            bucket=bucket,
            overwrite=run.overwrite,
        )
        yield PartitionWork(
            dataset=Dataset(url=str(world.directory / "data")),
            source=source if "tasks" in run.only else None,
            client=client if "generations" in run.only else None,
            copier=copier if "videos" in run.only else None,
            resolve=ResolvePolicy(give_up, 3600.0, run.refresh),
            manifest=manifest,
            tombstones=Dataset(url=str(world.directory / "data")).tombstones(),
            late_rows=run.late_rows,
        )


def manifest(world: World) -> PartitionFile:
    return Dataset(url=str(world.directory / "data")).partition("luma_videos", CHRISTMAS.folder)


def submit(world: World, *task_ids: str, video: str | None = None) -> None:
    """Put completed tasks into the source and to the provider; `video` is a link of theirs instead of the CDN's."""
    world.submit(*((task_id, f"{DAY}T{number:02}:00:00Z") for number, task_id in enumerate(task_ids)))
    if video is not None:
        for task_id in task_ids:
            world.provider.add(Generation(task_id, urls=ArtifactUrls(video, video, video, video)))


def rows(world: World) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["task_id"], row["artifact"]): row for row in world.rows("luma_videos")}


def statuses(world: World) -> dict[str, tuple[str, str | None]]:
    """Status and error code of each video."""
    return {row["task_id"]: (row["status"], row["error_code"]) for row in world.rows("luma_videos")}


@lru_cache(maxsize=1)
def client_of(store: ObjectStore) -> S3Client:
    """A client takes a third of a second to build."""
    return store.client()


@pytest.fixture
def faulty_cdn() -> Iterator[FaultyCdn]:
    with FaultyCdn() as running:
        yield running


@contextmanager
def faulty_store(world: World, rule: Rule) -> Iterator[S3Client]:
    """A client of the world's store by way of one that fails as `rule` says; it does not try again."""
    with FaultyStore(int(world.store.endpoint_url.rpartition(":")[2]), rule) as store:
        yield boto3.session.Session().client(
            "s3",
            endpoint_url=store.endpoint,
            aws_access_key_id=world.store.access_key_id,
            aws_secret_access_key=world.store.secret_access_key,
            region_name=world.store.region,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )


# How a copy ended.

VIDEO = samples.mp4(200_000)
MULTIPART = samples.mp4(6 * 1024 * 1024)
HTML = Media(samples.HTML)
CUT = Media(VIDEO, sends=100_000, ranges=False)
GONE = Media(status=404, body=b"gone", content_type="text/plain")


BEFALLS: list[tuple[dict[str, Any], dict[str, tuple[Media, str, str]]]] = [
    (
        {},
        {
            "html": (HTML, "failed", "not_media"),
            "cut": (CUT, "failed", "wrong_length"),
            "gone": (GONE, "expired", "link_expired"),
        },
    ),
    ({"allow_private_addresses": False}, {"private": (Media(VIDEO), "failed", "forbidden_address")}),
    ({"max_video_bytes": 1000}, {"large": (Media(VIDEO), "failed", "too_large")}),
]


@pytest.mark.parametrize(("settings", "videos"), BEFALLS, ids=["any", "no private addresses", "small files alone"])
def test_the_row_of_a_video_that_was_not_copied_says_why_and_names_no_object(
    world: World, faulty_cdn: FaultyCdn, settings: dict[str, Any], videos: dict[str, tuple[Media, str, str]]
) -> None:
    for task_id, (media, _, _) in videos.items():
        submit(world, task_id, video=faulty_cdn.add(media, path=f"/{task_id}.mp4") + "?token=secret")
    report = do(world, Run(copier=settings))
    assert statuses(world) == {task_id: (status, code) for task_id, (_, status, code) in videos.items()}
    for row in world.rows("luma_videos"):
        assert row["error_message"]
        assert (row["source_url"], row["bucket"]) == (f"{faulty_cdn.origin}/{row['task_id']}.mp4", world.bucket)
        assert {row[name] for name in ("key", "size_bytes", "sha256", "etag", "copied_at", "content_type")} == {None}
        assert "secret" not in str(row)
    assert world.object_keys() == set()
    assert report.videos is not None
    assert report.videos.statuses == Counter(status for _, status, _ in videos.values())


def test_a_store_that_fails_in_a_multipart_upload_is_a_row_and_leaves_nothing_behind(
    world: World, faulty_cdn: FaultyCdn
) -> None:
    submit(world, "large", video=faulty_cdn.add(Media(MULTIPART)))
    with faulty_store(world, lambda request, _: Fault() if request.is_part else None) as client:
        do(world, Run(copier={"s3_client": client, "part_size_bytes": 5 * 1024 * 1024, "max_video_bytes": 1 << 30}))
    assert statuses(world) == {"large": ("failed", "store_error")}
    assert rows(world)["large", "video"]["key"] is None
    assert world.object_keys() == set()
    assert not client_of(world.store).list_multipart_uploads(Bucket=world.bucket).get("Uploads")
    do(world)
    [row] = world.rows("luma_videos")
    assert (row["status"], row["size_bytes"]) == ("copied", len(MULTIPART))
    assert row["sha256"] == hashlib.sha256(MULTIPART).hexdigest()


# What is tried again.


PASSING = {
    "http_status": Media(status=503, body=b"busy"),
    "wrong_length": CUT,
    "not_media": HTML,
    "wrong_type": Media(samples.JPEG),
    "encoded_body": Media(VIDEO, headers={"Content-Encoding": "gzip"}),
}


def test_a_fault_that_can_pass_is_final_for_no_video_however_old(world: World, faulty_cdn: FaultyCdn) -> None:
    for code, media in PASSING.items():
        submit(world, code, video=faulty_cdn.add(media, path=f"/{code}.mp4"))
    submit(world, "connection", video="http://127.0.0.1:1/video.mp4")
    report = do(world, Run(old=True))
    assert statuses(world) == {code: ("failed", code) for code in (*PASSING, "connection")}
    assert report.videos is not None
    assert report.videos.open_artifacts == 0
    for code in PASSING:
        faulty_cdn.add(Media(VIDEO), path=f"/{code}.mp4")
    do(world, Run(old=True))
    assert statuses(world) == {**dict.fromkeys(PASSING, ("copied", None)), "connection": ("failed", "connection")}


def test_minutes_of_a_failing_store_are_final_for_no_video_however_old(world: World) -> None:
    submit(world, "a", "b")
    with faulty_store(world, lambda request, _: Fault(503) if request.method == "PUT" else None) as client:
        do(world, Run(old=True, copier={"s3_client": client}))
    assert statuses(world) == dict.fromkeys("ab", ("failed", "store_error"))
    do(world, Run(old=True))
    assert statuses(world) == dict.fromkeys("ab", ("copied", None))


def test_an_old_video_that_no_try_can_bring_costs_no_request(world: World, faulty_cdn: FaultyCdn) -> None:
    submit(world, "dead", video=faulty_cdn.add(GONE))
    submit(world, "large", video=faulty_cdn.add(Media(VIDEO)))
    submit(world, "without", video="")
    submit(world, "taken", video=faulty_cdn.add(Media(samples.mp4(900))))
    client_of(world.store).put_object(Bucket=world.bucket, Key="taken/video.mp4", Body=b"somebody else's")
    run = Run(old=True, copier={"max_video_bytes": 1000})
    do(world, run)
    expected = {
        "dead": ("expired", "link_expired"),
        "large": ("failed", "too_large"),
        "without": ("failed", "no_link"),
        "taken": ("failed", "key_taken"),
    }
    assert statuses(world) == expected
    before = world.rows("luma_videos")
    faulty_cdn.asked.clear()
    world.provider.clear_log()
    report = do(world, run)
    assert faulty_cdn.asked == []
    assert world.provider.total == 0
    assert world.rows("luma_videos") == before
    assert report.videos is not None
    assert report.videos.statuses == {"expired": 1, "failed": 3}
    assert [row["task_id"] for row in report.videos.first_failures] == sorted(expected)
    do(world, dataclasses.replace(run, overwrite=True))
    assert statuses(world) == {**expected, "taken": ("copied", None)}
    assert world.provider.total == 0
    do(world, dataclasses.replace(run, retry_failed=True))
    assert statuses(world) == {**expected, "taken": ("copied", None)}
    assert world.provider.count("dead") == 1


def test_a_new_answer_for_an_old_video_that_was_given_up_is_copied_and_the_manifest_says_so(
    world: World, faulty_cdn: FaultyCdn
) -> None:
    submit(world, "a", "b", video=faulty_cdn.add(GONE))
    do(world, Run(old=True))
    assert statuses(world) == dict.fromkeys("ab", ("expired", "link_expired"))
    world.provider.add(Generation("a", urls=world.cdn.publish("a")))
    do(world, Run(old=True, refresh=True))
    assert statuses(world) == {"a": ("copied", None), "b": ("expired", "link_expired")}
    assert set(world.object_keys()) == {"a/video.mp4"}


def test_an_object_that_came_another_way_takes_the_place_of_what_was_given_up(
    world: World, faulty_cdn: FaultyCdn
) -> None:
    ids = [f"task-{number}" for number in range(5)]
    submit(world, *ids, video=faulty_cdn.add(GONE))
    do(world, Run(old=True))
    metadata = {"luma-task-id": ids[3], "luma-artifact": "video"}
    client_of(world.store).put_object(Bucket=world.bucket, Key=f"{ids[3]}/video.mp4", Body=VIDEO, Metadata=metadata)
    faulty_cdn.asked.clear()
    world.provider.clear_log()
    do(world, Run(old=True))
    assert [(task_id, status) for task_id, (status, _) in statuses(world).items()] == [
        (task_id, "already_present" if task_id == ids[3] else "expired") for task_id in ids
    ]
    found = rows(world)[ids[3], "video"]
    assert (found["sha256"], found["source_url"]) == (hashlib.sha256(VIDEO).hexdigest(), None)
    assert faulty_cdn.asked == []
    assert world.provider.total == 0


WOULD_COPY: list[tuple[dict[str, Any], int]] = [
    ({}, 2),
    ({"retry_failed": True}, 3),
    ({"refresh": True}, 3),
    ({"overwrite": True}, 3),
    ({"overwrite": True, "retry_failed": True}, 4),
    ({"bucket": "another"}, 4),
    ({"artifacts": ("video", "thumbnail")}, 6),
]


def test_a_dry_run_counts_what_a_run_would_copy(world: World, faulty_cdn: FaultyCdn) -> None:
    submit(world, "there")
    submit(world, "dead", video=faulty_cdn.add(GONE))
    submit(world, "broken", video=faulty_cdn.add(HTML))
    do(world, Run(old=True))
    submit(world, "new")
    do(world, Run(old=True, only=("tasks", "generations")))
    assert [plan(world, Run(old=True, **changes)).to_copy for changes, _ in WOULD_COPY] == [n for _, n in WOULD_COPY]


# What is kept.


def test_a_run_for_other_artifacts_keeps_every_row_and_has_to_come_back_for_the_open_ones(world: World) -> None:
    submit(world, "a", "b", "c")
    for task_id, status in (("b", 410), ("c", 503)):
        world.cdn.revoke(world.cdn.publish(task_id).video, status)
    first = do(world)
    assert first.videos is not None
    assert first.videos.open_artifacts == 2
    before = rows(world)
    second = do(world, Run(artifacts=("thumbnail",)))
    assert second.videos is not None
    assert (second.videos.statuses, second.videos.rows) == ({"copied": 3}, 6)
    assert second.videos.open_artifacts == 2
    assert set(Dataset(url=str(world.directory / "data")).marks(OPEN_MARKS).listed()) == {DAY}
    assert {identity: row for identity, row in rows(world).items() if identity[1] == "video"} == before
    old = do(world, Run(artifacts=("thumbnail",), old=True))
    assert old.videos is not None
    assert (old.videos.rows, old.videos.open_artifacts) == (6, 0)


def test_the_manifest_is_in_the_order_of_the_generations_and_then_of_what_is_kept(world: World) -> None:
    ids = [f"task-{number}" for number in (3, 1, 2)]
    submit(world, *ids)
    for _ in range(2):
        do(world, Run(artifacts=("thumbnail", "video")))
        assert list(rows(world)) == [(task_id, name) for task_id in ids for name in ("thumbnail", "video")]
    do(world, Run(artifacts=("last_frame",)))
    kept = [(task_id, name) for task_id in ids for name in ("thumbnail", "video")]
    assert list(rows(world)) == [(task_id, "last_frame") for task_id in ids] + kept


def test_the_row_of_an_object_stays_when_its_task_is_gone_and_that_of_a_failure_goes(world: World) -> None:
    submit(world, "there", "dead")
    world.cdn.revoke(world.cdn.publish("dead").video)
    do(world)
    assert set(statuses(world)) == {"there", "dead"}
    manifest = do(world, Run(only=("videos",))).videos
    assert manifest is not None
    generations = Dataset(url=str(world.directory / "data")).partition("luma_generations", f"date={DAY}")
    table = generations.read()
    generations.replace(table.schema, [table.slice(0, 0)])
    do(world, Run(only=("videos",)))
    assert statuses(world) == {"there": ("copied", None)}


def test_after_a_change_of_the_bucket_nothing_of_the_old_one_counts_as_known(world: World) -> None:
    submit(world, "a")
    do(world, Run(artifacts=("video", "thumbnail")))
    old = rows(world)
    world.store.create_bucket("the-new-one")
    report = do(world, Run(bucket="the-new-one")).videos
    assert report is not None
    video, thumbnail = rows(world)["a", "video"], rows(world)["a", "thumbnail"]
    assert (video["status"], video["bucket"]) == ("copied", "the-new-one")
    assert thumbnail == old["a", "thumbnail"]
    assert list(listed_objects(manifest(world), None, "the-new-one")) == [("a/video.mp4", video["size_bytes"])]
    assert report.bytes_stored == video["size_bytes"]


def test_a_failed_copy_of_a_known_object_keeps_the_object_in_its_row_and_known(
    world: World, faulty_cdn: FaultyCdn
) -> None:
    """A multipart object has no digest of its own: without the manifest's it would be read through."""
    submit(world, "a", video=faulty_cdn.add(Media(MULTIPART), GONE))
    settings = {"part_size_bytes": 5 * 1024 * 1024, "max_video_bytes": 1 << 30}
    do(world, Run(copier=settings))
    first = rows(world)["a", "video"]
    do(world, Run(overwrite=True, old=True, copier=settings))
    failed = rows(world)["a", "video"]
    kept = ("key", "size_bytes", "sha256", "etag", "content_type", "copied_at")
    assert (failed["status"], failed["error_code"]) == ("expired", "link_expired")
    assert [failed[name] for name in kept] == [first[name] for name in kept]
    assert first["sha256"] == hashlib.sha256(MULTIPART).hexdigest()
    read: list[str] = []

    def note(request: Any, _: int) -> Fault | None:
        if request.method == "GET" and request.path.endswith(".mp4"):
            read.append(request.path)
        return None

    with faulty_store(world, note) as client:
        do(world, Run(old=True, copier={**settings, "s3_client": client}))
    again = rows(world)["a", "video"]
    assert (again["status"], again["error_code"]) == ("already_present", None)
    assert [again[name] for name in kept] == [first[name] for name in kept]
    assert read == []


# What stops a run.


def test_a_provider_that_refuses_the_token_while_links_are_renewed_stops_the_run(world: World) -> None:
    submit(world, "a", "b", "c")
    do(world, Run(only=("tasks", "generations")))
    for task_id in "abc":
        world.cdn.revoke(world.cdn.publish(task_id).video)
    world.provider.token = "another"
    with pytest.raises(AuthenticationError):
        do(world, Run(only=("videos",)))
    assert world.rows("luma_videos") == []


def test_a_bucket_that_is_gone_stops_the_run_while_tasks_are_asked_for(world: World) -> None:
    submit(world, *(f"task-{number:02}" for number in range(20)))
    with pytest.raises(BucketError, match="no-such-bucket"):
        do(world, Run(bucket="no-such-bucket"))
    assert world.rows("luma_videos") == []


# Links.


def answer(**objects: Any) -> dict[str, Any]:
    return {"id": "a", "state": "completed", **objects}


LINKS: list[tuple[dict[str, Any], Artifact, str | None]] = [
    ({"video": None, "artifact": {"video": {"url": "u"}}}, Artifact.VIDEO, "u"),
    ({"video": {"url": " "}, "artifact": {"video": {"url": "u", "download_url": "d"}}}, Artifact.VIDEO, "d"),
    ({"video": {"url": "top"}, "artifact": {"video": {"url": "u", "download_url": "d"}}}, Artifact.VIDEO, "top"),
    ({"artifact": {"video_raw": {"url": "u"}}}, Artifact.VIDEO_RAW, "u"),
    ({"thumbnail": "text", "artifact": {"thumbnail": {"url": "u"}}}, Artifact.THUMBNAIL, "u"),
    ({"last_frame": {"url": "top"}, "artifact": {"last_frame": {"url": "u"}}}, Artifact.LAST_FRAME, "top"),
    ({"last_frame": {}, "artifact": "text"}, Artifact.LAST_FRAME, None),
]


@pytest.mark.parametrize(("objects", "artifact", "link"), LINKS)
def test_a_link_that_is_missing_at_the_top_of_an_answer_is_looked_for_in_its_artifacts(
    objects: dict[str, Any], artifact: Artifact, link: str | None
) -> None:
    assert choose_link(links_of_generation(answer(**objects)), artifact, DEFAULT_LINK_PREFERENCE) == (link, False)


@pytest.mark.parametrize("at_once", [True, False], ids=["while it is asked for", "by a later run"])
def test_what_an_answer_names_in_its_artifacts_alone_is_copied(world: World, at_once: bool) -> None:
    submit(world, "a")
    urls = world.cdn.publish("a")
    objects = {
        "video": {"download_url": urls.video},
        "thumbnail": {"url": urls.thumbnail},
        "last_frame": {"url": urls.last_frame},
    }
    world.provider.script("a", [Answer.of_json(answer(video=None, artifact=objects))])
    wanted = ("video", "thumbnail", "last_frame")
    if not at_once:
        do(world, Run(only=("tasks", "generations")))
    do(world, Run(artifacts=wanted))
    assert {identity: row["status"] for identity, row in rows(world).items()} == {("a", n): "copied" for n in wanted}
    assert rows(world)["a", "video"]["source_url"] == urls.video


# What there is to come back for.


def marks(world: World, name: str) -> set[str]:
    return set(Dataset(url=str(world.directory / "data")).marks(name).listed())


def test_a_period_is_unfinished_until_no_row_of_it_can_be_committed_late(world: World) -> None:
    world.submit()
    for minutes, left in ((-10, {"now"}), (10, {"now"}), (20, set())):
        end = datetime.now(UTC) - timedelta(minutes=minutes)
        partition = Partition("now", "now", end - timedelta(hours=1), end)
        do(world, Run(partition=partition, late_rows=timedelta(minutes=15)))
        assert marks(world, UNFINISHED_MARKS) == left


def test_tasks_that_were_read_alone_leave_their_period_unfinished(world: World) -> None:
    submit(world, "a")
    Dataset(url=str(world.directory / "data")).marks(UNFINISHED_MARKS).set(DAY)
    for only, left in ((("tasks",), {DAY}), (("generations",), {DAY}), (("tasks", "generations"), set())):
        do(world, Run(only=only))
        assert marks(world, UNFINISHED_MARKS) == left


# What is shown.


def test_the_numbers_of_a_partition_are_those_of_its_videos(world: World) -> None:
    submit(world, "a", "b", "c", "dead")
    world.cdn.revoke(world.cdn.publish("dead").video)
    report = do(world).videos
    assert report is not None
    sizes = {key: len(body) for key, body in world.objects().items()}
    assert sorted(listed_objects(manifest(world), None, world.bucket)) == sorted(sizes.items())
    shown = videos_metadata(report)
    assert (shown["dagster/partition_row_count"], shown["copied"], shown["expired"]) == (4, 3, 1)
    assert shown["bytes_downloaded"] == shown["bytes_in_bucket"] == sum(sizes.values())
    assert shown["megabytes_per_second"] == round(sum(sizes.values()) / 1e6 / report.seconds, 3) > 0
    seconds = sorted(report.copy_seconds)
    assert len(seconds) == 3
    assert shown["copy_p50_seconds"] == round(seconds[1], 4)
    assert shown["copy_p50_seconds"] <= shown["copy_p95_seconds"] <= round(seconds[2], 4)
    [failure] = [record.data for record in shown["first_failures"].records]
    row = rows(world)["dead", "video"]
    assert failure == {name: row[name] for name in ("task_id", "artifact", "status", "error_code", "error_message")}


def test_the_first_failures_are_twenty_in_the_order_of_the_tasks(world: World, faulty_cdn: FaultyCdn) -> None:
    ids = [f"task-{number:02}" for number in range(23)]
    submit(world, *ids, video=faulty_cdn.add(HTML))
    report = do(world).videos
    assert report is not None
    assert [row["task_id"] for row in report.first_failures] == ids[:20]


def test_a_partition_without_copies_shows_neither_quantiles_nor_failures() -> None:
    shown = videos_metadata(VideosReport())
    assert list(shown) == [
        *("dagster/partition_row_count", "copied", "already_present", "bytes_in_bucket", "preview", "seconds")
    ]


def test_the_objects_to_be_looked_up_are_those_that_were_picked(world: World) -> None:
    submit(world, *(f"task-{number:02}" for number in range(20)))
    do(world)
    listed = [(row["key"], row["size_bytes"]) for row in world.rows("luma_videos")]
    for picked in ([], [0, 7, 19], list(range(20))):
        found = list(listed_objects(manifest(world), picked, world.bucket))
        assert found == [listed[number] for number in picked]


def test_tasks_that_have_left_the_source_and_answers_that_were_lost_are_counted() -> None:
    shown = generations_metadata(GenerationsReport(dropped=3, unreadable_checkpoints=2))
    assert (shown["no_longer_in_source"], shown["unreadable_checkpoints"]) == (3, 2)
