"""How the pages get into the bucket: what is written, when nothing is, and what two runs at once leave."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from luma_pipeline.gallery import Gallery, GallerySettings, GallerySettingsError
from luma_pipeline.s3 import S3Error
from tests.gallery.scene import Scene

DAY, NEXT_DAY = "date=2024-12-24", "date=2024-12-25"


def requests_of(gallery: Gallery) -> Counter[str]:
    """Counts the gallery's requests to the store by their operation, from now on."""
    counted: Counter[str] = Counter()

    def count(model: Any, **_: Any) -> None:
        counted[model.name] += 1

    gallery._store.client.meta.events.register("before-call.s3", count)
    return counted


def test_pages_are_html_that_is_asked_for_again_before_it_is_shown(scene: Scene) -> None:
    scene.put(DAY, [{"task_id": "a"}], scene.upload("a"))
    scene.write(DAY)
    for name in ("index.html", f"{DAY}/index.html"):
        head = scene.client.head_object(Bucket=scene.bucket, Key=scene.key(f"_gallery/{name}"))
        assert head["ContentType"] == "text/html; charset=utf-8"
        assert head["CacheControl"] == "no-cache"


def test_nothing_is_written_where_nothing_has_changed(scene: Scene) -> None:
    scene.put(DAY, [{"task_id": "a"}], scene.upload("a", "video", "thumbnail"))
    scene.put(NEXT_DAY, [{"task_id": "b"}], [])
    [first, _] = scene.write(DAY, NEXT_DAY)
    with scene.gallery() as gallery:
        counted = requests_of(gallery)
        again = gallery.write_partition(DAY, *scene.files(DAY))
        assert not gallery.write_index()
    assert (first.written, again.written) == (1, 0)
    assert again.size_bytes == first.size_bytes == len(scene.page(DAY).encode())
    # The pages and the entries are listed, the entry and the index are read.
    assert counted == {"ListObjectsV2": 2, "GetObject": 2}


def test_an_update_of_the_index_reads_only_the_entries_that_changed(scene: Scene) -> None:
    days = [f"date=2024-11-{day:02}" for day in range(1, 21)]
    for day in days:
        scene.put(day, [{"task_id": day[-2:]}], [])
    scene.write(*days)
    scene.put(days[3], [{"task_id": "a"}, {"task_id": "b"}], [])
    with scene.gallery() as gallery:
        gallery.write_partition(days[3], *scene.files(days[3]))
        counted = requests_of(gallery)
        assert gallery.write_index()
    assert counted == {"ListObjectsV2": 2, "GetObject": 2, "PutObject": 1}
    assert "<b>21</b> tasks" in scene.index()


def test_a_page_that_was_lost_or_changed_by_others_is_written_again(scene: Scene) -> None:
    scene.put(DAY, [{"task_id": "a"}], [])
    scene.write(DAY)
    page, key = scene.page(DAY), scene.key(f"_gallery/{DAY}/index.html")
    scene.client.delete_object(Bucket=scene.bucket, Key=key)
    scene.write(DAY)
    assert scene.page(DAY) == page
    scene.client.put_object(Bucket=scene.bucket, Key=key, Body=b"another page")
    scene.write(DAY)
    assert scene.page(DAY) == page


@pytest.mark.parametrize("garbage", [b"", b"null", b"\xff{", b'{"version":1}', b'{"version":2}', b"[" * 5000])
def test_an_entry_that_cannot_be_read_is_left_out_until_it_is_written_again(scene: Scene, garbage: bytes) -> None:
    scene.put(DAY, [{"task_id": "a"}], [])
    scene.put(NEXT_DAY, [{"task_id": "b"}], [])
    scene.write(DAY, NEXT_DAY)
    key = scene.key(f"_gallery/_entries/{DAY}.json")
    scene.client.put_object(Bucket=scene.bucket, Key=key, Body=garbage)
    scene.write(NEXT_DAY)
    assert "24 December" not in scene.index()
    scene.write(DAY)
    assert "24 December" in scene.index()


@pytest.mark.parametrize("index", [b"", b"<html>", b'<script type="application/json" id="data">[1]</script>', b"{}"])
def test_an_index_that_is_none_is_made_again_of_the_entries(scene: Scene, index: bytes) -> None:
    scene.put(DAY, [{"task_id": "a"}], [])
    scene.write(DAY)
    good = scene.index()
    scene.client.put_object(Bucket=scene.bucket, Key=scene.key("_gallery/index.html"), Body=index)
    scene.write()
    assert scene.index() == good


def test_a_partition_that_has_shrunk_loses_its_further_pages(scene: Scene) -> None:
    scene.settings = GallerySettings(page_size=1)
    scene.put(DAY, [{"task_id": "a"}, {"task_id": "b"}, {"task_id": "c"}], [])
    scene.write(DAY)
    scene.put(DAY, [{"task_id": "a"}], [])
    scene.write(DAY)
    pages = {key.rpartition("/")[2] for key in scene.object_keys() if f"_gallery/{DAY}/" in key}
    assert pages == {"index.html"}


def test_two_runs_at_once_end_with_both_in_the_index(scene: Scene) -> None:
    days = [f"date=2024-11-{day:02}" for day in range(1, 9)]
    for day in days:
        scene.put(day, [{"task_id": f"task-{day[-2:]}"}], [])
    start = threading.Barrier(4)

    def run(mine: list[str]) -> None:
        start.wait()
        for day in mine:
            scene.write(day)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, (days[number::4] for number in range(4))))
    assert scene.index().count('<li class="day') == len(days)


def test_an_index_that_another_run_wrote_of_less_is_mended_by_that_run(scene: Scene) -> None:
    scene.put(DAY, [{"task_id": "a"}], [])
    scene.put(NEXT_DAY, [{"task_id": "b"}], [])
    with scene.gallery() as slow:
        slow.write_partition(DAY, *scene.files(DAY))
        # The other run comes and goes after the slow one has listed the entries, and before it writes the index.
        raced: list[int] = []

        def race(params: dict[str, Any], **_: Any) -> None:
            if params["Key"].endswith("_gallery/index.html") and not raced:
                raced.append(1)
                scene.write(NEXT_DAY)

        slow._store.client.meta.events.register("before-parameter-build.s3.PutObject", race)
        slow.write_index()
    assert raced
    assert scene.index().count('<li class="day') == 2


def test_a_key_template_that_can_give_a_page_s_key_is_refused_and_no_object_is_lost(scene: Scene) -> None:
    scene.template = "_gallery/{artifact}/{task_id}"
    rows = scene.upload("index.html")
    scene.put("video", [{"task_id": "index.html"}], rows)
    with pytest.raises(GallerySettingsError, match="LUMA_KEY_TEMPLATE"):
        scene.write("video")
    assert rows[0]["key"] in scene.object_keys()


def test_objects_of_others_in_a_page_s_folder_stay(scene: Scene) -> None:
    scene.put(DAY, [{"task_id": "a"}], [])
    own = scene.key(f"_gallery/{DAY}/notes.txt")
    scene.client.put_object(Bucket=scene.bucket, Key=own, Body=b"mine")
    scene.write(DAY)
    assert own in scene.object_keys()


def test_tasks_called_like_the_gallery_s_folders_do_no_harm(scene: Scene) -> None:
    rows = [row for task_id in ("_gallery", "_entries", "index.html") for row in scene.upload(task_id)]
    scene.put(DAY, [{"task_id": row["task_id"]} for row in rows], rows)
    scene.write(DAY)
    assert {row["key"] for row in rows} < scene.object_keys()
    assert 'href="../video.mp4"' in scene.page(DAY)


def test_the_settings_of_objects_hold_for_pages_but_not_their_archive(scene: Scene) -> None:
    scene.objects = {"tags": {"team": "video"}, "storage_class": "GLACIER"}
    scene.put(DAY, [{"task_id": "a"}], [])
    scene.write(DAY)
    key = scene.key(f"_gallery/{DAY}/index.html")
    tags = scene.client.get_object_tagging(Bucket=scene.bucket, Key=key)["TagSet"]
    assert tags == [{"Key": "team", "Value": "video"}]
    assert scene.client.head_object(Bucket=scene.bucket, Key=key).get("StorageClass", "STANDARD") == "STANDARD"


def test_the_index_keeps_a_small_state_that_a_script_can_read(scene: Scene) -> None:
    scene.settings = GallerySettings(title="</script><script>alert(1)</script>")
    scene.put(DAY, [{"task_id": "a"}], scene.upload("a"))
    scene.write(DAY)
    state = scene.index().partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(state)["entries"][f"{DAY}.json"]["counts"]["ready"] == 1
    assert "<script>alert" not in scene.index()


def test_a_bucket_that_is_not_there_is_named(scene: Scene) -> None:
    scene.put(DAY, [{"task_id": "a"}], [])
    scene.bucket = "no-such-bucket"
    with pytest.raises(S3Error, match="LUMA_S3_BUCKET"):
        scene.write(DAY)
