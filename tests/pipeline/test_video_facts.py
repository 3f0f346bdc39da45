"""The facts of videos in the manifest, and whether the videos are what the provider's answers say."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from luma_pipeline.dataset import Dataset
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
from luma_pipeline.engine.video_answers import differing_of_file
from luma_pipeline.luma import GATEWAY
from luma_pipeline.sandbox.cdn import ArtifactUrls
from luma_pipeline.sandbox.provider import Generation, Oddity
from tests.media import samples
from tests.media.faulty_cdn import Answer as Media
from tests.media.faulty_cdn import FaultyCdn
from tests.pipeline.test_videos import CHRISTMAS, DAY, Run, client_of, do, faulty_cdn, rows, submit
from tests.world import World

__all__ = ["faulty_cdn"]

FACTS = ("width", "height", "duration_seconds", "codec", "frame_rate")
REAL = Path(__file__).parent.parent / "media" / "real_files"
FILM = samples.ftyp() + samples.video_moov() + samples.box(b"mdat", bytes(9000))
LONG_FILM = samples.ftyp() + samples.box(b"mdat", bytes(6 << 20)) + samples.video_moov()
OF_FILM = (1360, 752, 121 / 24, "h264", 24.0)
NOTHING = (None,) * 5
EVERYTHING = ("video", "video_raw", "thumbnail", "last_frame")


def facts(world: World, task_id: str = "a", artifact: str = "video") -> tuple[Any, ...]:
    row = rows(world)[task_id, artifact]
    return tuple(row[name] for name in FACTS)


def manifest_file(world: World) -> Path:
    [file] = (world.directory / "data" / "luma_videos").rglob("*.parquet")
    return file


def answer_says(world: World, task_id: str, link: str, **what: Any) -> None:
    world.provider.add(Generation(task_id, urls=ArtifactUrls(link, link, link, link), **what))


def test_every_artifact_of_the_sandbox_has_its_facts_and_is_as_its_answer_says(world: World) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"), ("b", f"{DAY}T02:00:00Z"), ("c", f"{DAY}T03:00:00Z"))
    report = do(world, Run(artifacts=EVERYTHING))

    for row in world.rows("luma_videos"):
        generation = Generation(row["task_id"]).published(world.cdn)
        times = (2.0, "h264", 24.0) if row["artifact"].startswith("video") else (None, None, None)
        assert facts(world, row["task_id"], row["artifact"]) == (generation.width, generation.height, *times)
    assert report.videos is not None
    assert (report.videos.differing, report.videos.first_differing) == (0, [])


def test_the_facts_are_the_last_columns_and_a_video_that_tells_nothing_has_nulls(
    world: World, faulty_cdn: FaultyCdn
) -> None:
    submit(world, "a", video=faulty_cdn.add(Media(samples.mp4(5000))))
    report = do(world)

    assert tuple(VIDEOS_SCHEMA.names[-5:]) == FACTS
    assert (rows(world)["a", "video"]["status"], facts(world)) == ("copied", NOTHING)
    assert report.videos is not None
    assert report.videos.differing == 0


@pytest.mark.parametrize("body", [FILM, LONG_FILM], ids=["one part", "several parts"])
@pytest.mark.parametrize("cut", [None, 5000], ids=["in one go", "resumed"])
def test_facts_are_there_however_the_file_came_and_whoever_wrote_the_object(
    world: World, faulty_cdn: FaultyCdn, body: bytes, cut: int | None
) -> None:
    whole = Media(body)
    submit(world, "a", video=faulty_cdn.add(*([whole.but(sends=cut)] if cut else []), whole))
    run = Run(copier={"part_size_bytes": 5 << 20, "max_video_bytes": 1 << 30})
    do(world, run)
    assert len(faulty_cdn.asked) == (2 if cut else 1)
    assert facts(world) == OF_FILM

    # As after a kill before the manifest was written.
    manifest_file(world).unlink()
    do(world, run)
    assert rows(world)["a", "video"]["status"] == "already_present"
    assert rows(world)["a", "video"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert facts(world) == OF_FILM
    assert len(faulty_cdn.asked) == (2 if cut else 1)


def test_an_object_of_one_part_tells_its_facts_in_its_metadata(world: World, faulty_cdn: FaultyCdn) -> None:
    submit(world, "a", video=faulty_cdn.add(Media(FILM)))
    do(world)

    [key] = world.object_keys()
    metadata = client_of(world.store).head_object(Bucket=world.bucket, Key=key)["Metadata"]
    assert metadata["luma-facts"] == (
        "width=1360&height=752&duration_seconds=5.041666666666667&codec=h264&frame_rate=24.0"
    )


def test_a_row_keeps_its_facts_when_nothing_is_copied(world: World, faulty_cdn: FaultyCdn) -> None:
    submit(world, "a", video=faulty_cdn.add(Media(FILM)))
    do(world)
    for run in (Run(), Run(only=("videos",)), Run(artifacts=("thumbnail",))):
        do(world, run)
        assert facts(world) == OF_FILM


def test_rows_of_an_earlier_version_are_null_and_cost_no_request_until_they_are_copied_again(
    world: World, faulty_cdn: FaultyCdn
) -> None:
    submit(world, "a", video=faulty_cdn.add(Media(FILM)))
    do(world)
    file = manifest_file(world)
    pq.write_table(pq.ParquetFile(file).read().drop_columns(list(FACTS)), file)
    faulty_cdn.asked.clear()

    report = do(world)
    assert (rows(world)["a", "video"]["status"], facts(world)) == ("copied", NOTHING)
    assert report.videos is not None
    assert report.videos.differing == 0
    assert faulty_cdn.asked == []
    do(world, Run(overwrite=True))
    assert facts(world) == OF_FILM


# What the answers say.


@pytest.fixture
def film(faulty_cdn: FaultyCdn) -> str:
    """A link to a video of 1360 by 752 pixels and 5.04 seconds."""
    return faulty_cdn.add(Media(FILM))


SAID: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"duration": 5.5}, None),
    ({"duration": 5.6}, "1360x752, 5.6 s"),
    ({"duration": 4.5}, "1360x752, 4.5 s"),
    ({"width": 1361}, "1361x752, 5.04 s"),
    ({"height": 1}, "1360x1, 5.04 s"),
    ({"width": 752, "height": 1360}, "752x1360, 5.04 s"),
    ({"width": 0, "height": 0, "duration": 0.0}, None),
    ({"width": -1, "height": 752}, None),
    ({"aspect_ratio": "9:16"}, None),
    ({"width": 99, "oddities": (Oddity.NULL_OBJECTS,)}, "99x752"),
    ({"width": 99, "oddities": (Oddity.NUMBERS_AS_STRINGS,)}, "99x752, 5.04 s"),
    ({"oddities": (Oddity.OTHER_VIDEO,)}, "2720x752, 10.08 s"),
]


@pytest.mark.parametrize(("answer", "said"), SAID)
def test_a_video_that_is_not_what_the_answer_says_is_told(
    world: World, film: str, answer: dict[str, Any], said: str | None
) -> None:
    world.submit(("a", f"{DAY}T01:00:00Z"))
    answer_says(world, "a", film, **answer)
    report = do(world, Run(artifacts=("video",)))

    expected = [{"task_id": "a", "artifact": "video", "answer": said, "file": "1360x752, 5.04 s"}] if said else []
    assert report.videos is not None
    assert report.videos.first_differing == expected
    assert report.videos.differing == len(expected)


def test_only_videos_are_compared_and_only_those_in_the_bucket(world: World, faulty_cdn: FaultyCdn, film: str) -> None:
    picture = faulty_cdn.add(Media((REAL / "still.jpg").read_bytes(), content_type="image/jpeg"))
    gone = faulty_cdn.add(Media(status=404))
    world.submit(*((task_id, f"{DAY}T01:00:00Z") for task_id in "ab"))
    world.provider.add(Generation("a", urls=ArtifactUrls(film, film, picture, picture), width=4))
    world.provider.add(Generation("b", urls=ArtifactUrls(gone, gone, picture, picture), width=4))
    report = do(world, Run(artifacts=EVERYTHING))

    assert report.videos is not None
    assert report.videos.statuses == {"copied": 6, "expired": 2}
    assert [(row["task_id"], row["artifact"]) for row in report.videos.first_differing] == [
        ("a", "video"),
        ("a", "video_raw"),
    ]


def test_what_differs_is_counted_over_the_whole_partition_at_every_run(world: World, film: str) -> None:
    ids = [f"task-{number:02}" for number in range(15)]
    world.submit(*((task_id, f"{DAY}T01:00:00Z") for task_id in ids))
    for task_id in ids:
        answer_says(world, task_id, film, width=4)
    runs = (Run(artifacts=("video", "video_raw")), Run(artifacts=("video",)), Run(only=("videos",)))
    for run in (*runs, Run(artifacts=("thumbnail",), only=("videos",))):
        report = do(world, run)
        assert report.videos is not None
        assert report.videos.differing == 30
        assert len(report.videos.first_differing) == 10
    dataset = Dataset(url=str(world.directory / "data"))
    videos, generations = (dataset.partition(name, CHRISTMAS.folder) for name in ("luma_videos", "luma_generations"))
    assert sum(len(found) for found in differing_of_file(videos, generations, GATEWAY)) == 30

    for task_id in ids[:14]:
        answer_says(world, task_id, film)
    report = do(world, Run(refresh=True))
    assert report.videos is not None
    assert report.videos.differing == 2


def test_tasks_without_an_answer_of_a_manifest_differ_from_nothing(world: World, film: str) -> None:
    submit(world, "a", video=film)
    do(world)
    dataset = Dataset(url=str(world.directory / "data"))
    videos, generations = (dataset.partition(name, CHRISTMAS.folder) for name in ("luma_videos", "luma_generations"))
    generations.replace(GATEWAY.schema, [GATEWAY.schema.empty_table()])

    assert [len(found) for found in differing_of_file(videos, generations, GATEWAY)] == [0]
