"""What stands on a page: each kind of task, text that stays text, links that hold anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from luma_pipeline.gallery import GallerySettings, GallerySettingsError
from luma_pipeline.gallery.links import relative_link
from luma_pipeline.gallery.pages import format_bytes, month_of, title_of
from tests.gallery.scene import Scene

DAY = "date=2024-12-24"

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<!-- --> <![CDATA[ ]]>",
    "</style><style>body{display:none}</style>",
    "{{ 7*7 }} {% raw %} ${7*7}",
    "&lt;b&gt; &amp;",
    "a\u2028b\u2029c",
    "abc \u202egnp.exe",
    "javascript:alert(1)",
    "]]>",
    "\\u003cscript\\u003e \\",
)


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    def links(self) -> set[str]:
        """Every address that the page leads to or loads."""
        return {
            value
            for _, attributes in self.found
            for name in ("href", "src", "data-video", "poster", "action")
            if (value := attributes.get(name)) is not None
        }


def test_a_hostile_prompt_stays_text(scene: Scene) -> None:
    def pages_of(prompts: Sequence[str]) -> tuple[Elements, str]:
        scene.put(DAY, [{"task_id": f"t{n}", "request_prompt": prompt} for n, prompt in enumerate(prompts)], [])
        scene.write(DAY)
        return Elements(scene.page(DAY)), scene.index()

    plain, _ = pages_of(["plain"] * len(HOSTILE))
    page, index = pages_of(HOSTILE)
    assert [tag for tag, _ in page.found] == [tag for tag, _ in plain.found]
    for prompt in HOSTILE:
        assert prompt in "".join(page.texts)
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert "alert(1)" not in index


def test_hostile_task_ids_errors_and_states_stay_text(scene: Scene) -> None:
    bad = '"><script>alert(1)</script>'
    tasks: list[dict[str, object]] = [
        {"task_id": f"{bad}1", "state": "failed", "failure_reason": bad},
        {"task_id": f"{bad}2", "outcome": "request_failed", "state": None, "error_message": bad},
        {"task_id": f"{bad}3", "state": bad},
        {"task_id": f"{bad}4"},
    ]
    scene.put(DAY, tasks, [{"task_id": f"{bad}4", "artifact": "video", "status": "failed", "error_message": bad}])
    scene.write(DAY)
    page = scene.page(DAY)
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)") > len(tasks)
    assert "<script>alert" not in scene.index()


def test_control_characters_and_endless_text_are_kept_from_the_page(scene: Scene) -> None:
    scene.put(DAY, [{"task_id": "a", "request_prompt": "nul \0 bell \a end" + "x" * 100_000}], [])
    scene.write(DAY)
    page = scene.page(DAY)
    assert "\0" not in page
    assert "nul \N{REPLACEMENT CHARACTER} bell \N{REPLACEMENT CHARACTER} end" in page
    assert len(page) < 60_000


# The row, how the video was copied, and as what it is shown.
STATES: dict[str, tuple[dict[str, object], str | None, str, str]] = {
    "ready": ({}, "copied", "ready", "Ready"),
    "found": ({}, "already_present", "ready", "Ready"),
    "expired": ({}, "expired", "missing", "Video missing"),
    "not-copied": ({}, "failed", "missing", "Video missing"),
    "not-yet-copied": ({}, None, "missing", "Video missing"),
    "pending": ({"state": "pending"}, None, "open", "In progress"),
    "unknown-word": ({"state": "upscaling"}, None, "open", "In progress"),
    "failed": ({"state": "failed", "failure_reason": "rejected by moderation"}, None, "failed", "Failed"),
    "not-found": ({"outcome": "not_found", "state": None}, None, "unknown", "No answer"),
    "no-answer": ({"outcome": "request_failed", "state": None}, None, "unknown", "No answer"),
    "unreadable": ({"outcome": "invalid_response", "state": None}, None, "unknown", "No answer"),
}


def test_each_kind_of_task_is_shown_as_what_it_is(scene: Scene) -> None:
    videos = [
        {
            "task_id": name,
            "artifact": "video",
            "status": copied,
            "key": scene.key(f"{name}/video.mp4") if copied in {"copied", "already_present"} else None,
            "error_code": "link_expired",
        }
        for name, (_, copied, _, _) in STATES.items()
        if copied is not None
    ]
    scene.put(DAY, [{"task_id": name, **row} for name, (row, _, _, _) in STATES.items()], videos)
    [pages] = scene.write(DAY)
    page = Elements(scene.page(DAY))
    cards = [item["class"] for item in page.named("li") if "card" in (item.get("class") or "")]
    assert cards == [f"card {status}" for _, _, status, _ in STATES.values()]
    shots = [link for link in page.named("a") if link.get("class") == "shot"]
    labels = [f"{word}: prompt of {name}" for name, (_, _, _, word) in STATES.items()]
    assert [shot["aria-label"] for shot in shots] == labels
    assert ["href" in shot for shot in shots] == [status == "ready" for _, _, status, _ in STATES.values()]
    assert dict(pages.counts) == {
        "tasks": 11,
        "ready": 2,
        "missing": 3,
        "open": 2,
        "failed": 1,
        "unknown": 3,
        "bytes": 0,
    }
    texts = "".join(page.texts)
    assert "rejected by moderation" in texts
    assert texts.count("link expired") == 2 * 2  # of the card, and of its file


def test_all_files_of_a_task_are_linked_and_a_lost_one_says_why(scene: Scene) -> None:
    rows = scene.upload("a", "video", "video_raw", "thumbnail")
    lost = {"task_id": "a", "artifact": "last_frame", "status": "expired", "error_message": "410 Gone"}
    scene.put(DAY, [{"task_id": "a"}], [*rows, lost])
    scene.write(DAY)
    page = scene.page(DAY)
    for name in ("video.mp4", "video_raw.mp4", "thumbnail.jpg"):
        assert f'href="../../a/{name}"' in page
    assert "410 Gone" in page


def test_the_files_own_facts_stand_before_those_of_the_answer(scene: Scene) -> None:
    answered = {"video_width": 1360, "video_height": 752, "video_raw_duration": 5.04}
    (row,) = scene.upload("a")
    scene.put(DAY, [{"task_id": "a", **answered}], [row])
    scene.write(DAY)
    assert "1360 \N{MULTIPLICATION SIGN} 752" in scene.page(DAY)
    assert "5.04 s" in scene.page(DAY)
    scene.put_with_facts(DAY, [{"task_id": "a", **answered}], [{**row, "width": 384, "height": 216}])
    scene.write(DAY)
    assert "384 \N{MULTIPLICATION SIGN} 216" in scene.page(DAY)
    assert "5.04 s" in scene.page(DAY)


def test_a_video_of_another_bucket_is_named_and_not_linked(scene: Scene) -> None:
    (row,) = scene.upload("a")
    scene.put(DAY, [{"task_id": "a"}], [{**row, "bucket": "old-films"}])
    scene.write(DAY)
    assert f"s3://old-films/{row['key']}" in scene.page(DAY)
    assert not [link for link in Elements(scene.page(DAY)).links() if "video" in link]


def test_a_page_leads_nowhere_but_to_its_own_bucket(scene: Scene) -> None:
    signed = "https://cdn.example.com/v.mp4?X-Amz-Signature=secret"
    task = {"task_id": "a", "video_url": signed, "video_download_url": signed, "thumbnail_url": signed}
    scene.put(DAY, [task], [{**row, "source_url": signed} for row in scene.upload("a", "video", "thumbnail")])
    scene.write(DAY)
    for page in (scene.page(DAY), scene.index()):
        assert "cdn.example.com" not in page
        assert "Signature" not in page
        for link in Elements(page).links():
            assert link.startswith(("../", "./", "#", "data:")), link


LAYOUTS = [
    ("", "{task_id}/{artifact}.{extension}"),
    ("luma", "{artifact}/{task_id}.{extension}"),
    ("a/b", "{task_id}-{artifact}"),
    ("luma", "50% off #1?x=1&y=2/{task_id}/a+b ü:{artifact}.{extension}"),
]


@pytest.mark.parametrize(("prefix", "template"), LAYOUTS)
def test_links_lead_to_the_objects_whatever_their_keys(scene: Scene, prefix: str, template: str) -> None:
    scene.prefix, scene.template = prefix, template
    (row,) = scene.upload("tâche #1/?")
    scene.put(DAY, [{"task_id": "tâche #1/?"}], [row])
    scene.write(DAY)
    page_at = f"https://films.example/{scene.key(f'_gallery/{DAY}/index.html')}"
    (shot,) = [link for link in Elements(scene.page(DAY)).named("a") if link.get("class") == "shot"]
    target = urlsplit(urljoin(page_at, shot["href"] or ""))
    assert unquote(target.path) == f"/{row['key']}"
    assert not target.query
    assert not target.fragment


def test_a_link_is_a_path_for_folders_too() -> None:
    page, key = "luma/_gallery/date=2024-12-24/index.html", "luma/a b/video#1.mp4"
    path = PurePosixPath(page).parent / unquote(relative_link(page, key))
    parts: list[str] = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    assert "/".join(parts) == key


def test_a_partition_without_tasks_says_so(scene: Scene) -> None:
    scene.put(DAY, [], [])
    scene.write(DAY)
    assert "No task was submitted" in scene.page(DAY)
    assert "No tasks" in scene.index()


def test_a_partition_with_many_tasks_has_several_pages(scene: Scene) -> None:
    scene.settings = GallerySettings(page_size=2)
    scene.put(DAY, [{"task_id": f"t{number}"} for number in range(5)], [])
    [pages] = scene.write(DAY)
    assert (pages.pages, pages.counts["tasks"]) == (3, 5)
    texts = [scene.page(DAY, name) for name in ("index.html", "page-2.html", "page-3.html")]
    ids = [re.findall(r'<dd class="id">(\w+)</dd>', text) for text in texts]
    assert ids == [["t0", "t1"], ["t2", "t3"], ["t4"]]
    assert "Tasks 3 to 4 of 5" in texts[1]
    assert {"index.html", "page-2.html", "page-3.html"} <= Elements(texts[0]).links()


def test_small_thumbnails_are_in_the_page_and_large_ones_are_linked(scene: Scene) -> None:
    small = scene.upload("small", "thumbnail", "video")
    large = scene.upload("large", "thumbnail", "video")
    body = b"\xff\xd8\xff\xe0" + bytes(30_000)
    scene.client.put_object(Bucket=scene.bucket, Key=large[0]["key"], Body=body)
    scene.put(DAY, [{"task_id": "small"}, {"task_id": "large"}], [*small, {**large[0], "size_bytes": len(body)}])
    scene.write(DAY)
    pictures = [picture["src"] or "" for picture in Elements(scene.page(DAY)).named("img")]
    assert [picture.split(",")[0] for picture in pictures] == ["data:image/jpeg;base64", "../../large/thumbnail.jpg"]
    scene.settings = GallerySettings(embed_thumbnails=False)
    scene.write(DAY)
    assert "data:image" not in scene.page(DAY)


def test_a_thumbnail_that_is_gone_or_has_grown_is_linked(scene: Scene) -> None:
    (gone,), (grown,) = scene.upload("gone", "thumbnail"), scene.upload("grown", "thumbnail")
    scene.client.delete_object(Bucket=scene.bucket, Key=gone["key"])
    scene.client.put_object(Bucket=scene.bucket, Key=grown["key"], Body=bytes(100_000))
    scene.put(DAY, [{"task_id": "gone"}, {"task_id": "grown"}], [gone, grown])
    scene.write(DAY)
    assert "data:image" not in scene.page(DAY)
    assert {"../../gone/thumbnail.jpg", "../../grown/thumbnail.jpg"} <= Elements(scene.page(DAY)).links()


def test_what_a_page_embeds_is_bounded(scene: Scene) -> None:
    rows = [row for number in range(300) for row in scene.upload(f"t{number}", "thumbnail")]
    scene.put(DAY, [{"task_id": row["task_id"]} for row in rows], rows)
    [pages] = scene.write(DAY)
    assert 20 < scene.page(DAY).count("data:image") <= 150
    assert pages.size_bytes < 2.1 * 1024 * 1024 + 300 * 2500


def test_folders_are_named_as_people_write_them() -> None:
    assert title_of("date=9999-99-99") == "9999-99-99"
    assert title_of("partition=a%2Fb") == "a/b"
    assert month_of("month=2024-12") == "2024"
    assert month_of("hour=2024-12-24T1800Z") == "December 2024"
    assert format_bytes(123_456_789_000) == "123 GB"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"title": " "}, "LUMA_GALLERY_TITLE"),
        ({"title": "a\nb"}, "LUMA_GALLERY_TITLE"),
        ({"page_size": 0}, "LUMA_GALLERY_PAGE_SIZE"),
        ({"page_size": 10**6}, "LUMA_GALLERY_PAGE_SIZE"),
        ({"public_url": "films.example.com"}, "LUMA_GALLERY_PUBLIC_URL"),
        ({"public_url": "javascript:alert(1)"}, "LUMA_GALLERY_PUBLIC_URL"),
        ({"public_url": "https://user:pw@films.example.com"}, "LUMA_GALLERY_PUBLIC_URL"),
        ({"public_url": "https://films.example.com/?X-Amz-Signature=secret"}, "LUMA_GALLERY_PUBLIC_URL"),
        ({"public_url": "https://[broken"}, "LUMA_GALLERY_PUBLIC_URL"),
    ],
)
def test_a_setting_that_cannot_work_is_named(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(GallerySettingsError, match=named) as caught:
        GallerySettings(**wrong)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)
    assert ":pw" not in str(caught.value)
