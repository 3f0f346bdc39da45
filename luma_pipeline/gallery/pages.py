"""The gallery's room: the pages as HTML. Everything that is not ours goes through Jinja's escaping.

A page is one file: its style, its script and its small pictures are in it. Its Content-Security-Policy allows these by
their digests, so that nothing else runs or is fetched from elsewhere, whatever a prompt says.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from luma_pipeline.gallery.tasks import GalleryFile, GalleryTask, TaskStatus

__all__ = ["PageOfTasks", "look_digest", "month_of", "page_name", "render_index", "render_partition", "title_of"]

_LONGEST_PROMPT = 2000
_LONGEST_LABEL = 120
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

STATUS_WORDS: Mapping[TaskStatus, str] = {
    TaskStatus.READY: "Ready",
    TaskStatus.MISSING: "Video missing",
    TaskStatus.OPEN: "In progress",
    TaskStatus.FAILED: "Failed",
    TaskStatus.UNKNOWN: "No answer",
}
"""What a task's status is called on the pages."""

LinkOf = Callable[[GalleryFile], str | None]
"""The relative link to a file; None for one that is in another bucket."""


@dataclass(frozen=True)
class PageOfTasks:
    """One page of a partition: which it is (from 1), of how many, and its tasks.

    `pictures` are data URIs by task ID, in place of links.
    """

    number: int
    pages: int
    first: int
    tasks: Sequence[GalleryTask]
    pictures: Mapping[str, str]


def page_name(number: int) -> str:
    """The name of a page in its partition's folder."""
    return "index.html" if number == 1 else f"page-{number}.html"


def render_partition(
    folder: str, title: str, counts: Mapping[str, int], page: PageOfTasks, link_of: LinkOf, index: str
) -> bytes:
    """A page of a partition. `title` is the gallery's, `index` the link to its index, `counts` are the partition's."""
    return _render(
        "partition.html",
        "partition.js",
        heading=title_of(folder),
        gallery=title,
        counts=counts,
        page=page,
        page_name=page_name,
        index=index,
        short_clock="%H:%M" if folder.startswith(("date=", "hour=")) else "%d %b %H:%M",
        cards=[_card(task, page.pictures.get(task.task_id), link_of) for task in page.tasks],
    )


def render_index(title: str, months: Sequence[Mapping[str, Any]], totals: Mapping[str, int], data: object) -> bytes:
    """The index over all partitions. `data` is kept in the page for the next one who makes it."""
    return _render("index.html", "index.js", gallery=title, months=months, totals=totals, data=data)


def title_of(folder: str) -> str:
    """What a partition's folder is called on the pages.

    >>> title_of("date=2024-12-24"), title_of("hour=2024-12-24T1800Z")
    ('Tuesday, 24 December 2024', '24 December 2024, 18:00 UTC')
    >>> title_of("week=2024-12-23"), title_of("month=2024-12")
    ('Week of 23 December 2024', 'December 2024')
    """
    kind, _, value = unquote(folder).partition("=")
    try:
        if kind == "hour":
            at = datetime.strptime(value, "%Y-%m-%dT%H%MZ").replace(tzinfo=UTC)
            return f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M} UTC"
        if kind == "month":
            day = date.fromisoformat(f"{value}-01")
            return f"{_MONTHS[day.month - 1]} {day.year}"
        day = date.fromisoformat(value)
    except ValueError:
        return value or kind
    plain = f"{day.day} {_MONTHS[day.month - 1]} {day.year}"
    return f"Week of {plain}" if kind == "week" else f"{_DAYS[day.weekday()]}, {plain}"


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def month_of(folder: str) -> str:
    """The heading under which the index lists a partition."""
    found = re.search(r"=(\d{4})-(\d{2})", folder)
    if folder.startswith("month=") or not found or not 1 <= int(found[2]) <= len(_MONTHS):
        return found[1] if found else "Other"
    return f"{_MONTHS[int(found[2]) - 1]} {found[1]}"


# -- one card ---------------------------------------------------------------------------------------------------------


def _card(task: GalleryTask, picture: str | None, link_of: LinkOf) -> dict[str, Any]:
    files = [_linked(file, link_of(file)) for file in task.files]
    links = {file["artifact"]: file["link"] for file in files}
    video, still = task.video, task.picture
    shown = links[video.artifact] if video is not None else None
    still_link = links[still.artifact] if still is not None else None
    return {
        "id": text(task.task_id),
        "status": task.status.value,
        "word": STATUS_WORDS[task.status],
        "state": text(task.state),
        "prompt": text(task.prompt, _LONGEST_PROMPT),
        "label": text(" ".join(task.prompt.split()) or task.task_id, _LONGEST_LABEL),
        "error": text(task.error, _LONGEST_PROMPT),
        "created_at": task.created_at,
        "size": f"{task.width} \N{MULTIPLICATION SIGN} {task.height}" if task.width and task.height else "",
        "pixels": (task.width or 0) * (task.height or 0),
        "seconds": task.duration_seconds,
        "bytes": video.size_bytes if video is not None else None,
        "href": shown or still_link,
        "picture": picture or still_link,
        "video": shown,
        "files": files,
    }


def _linked(file: GalleryFile, link: str | None) -> dict[str, Any]:
    elsewhere = f"s3://{file.bucket}/{file.key}" if file.key is not None and link is None else ""
    return {
        "artifact": file.artifact,
        "name": file.artifact.value.replace("_", " "),
        "link": link,
        "elsewhere": text(elsewhere),
        "bytes": file.size_bytes,
        "error": text(file.error, _LONGEST_PROMPT),
    }


def text(value: str, longest: int = 4096) -> str:
    """Text that a page can hold: no control characters, and not longer than so many characters."""
    shown = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", value)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


# -- templates --------------------------------------------------------------------------------------------------------


def _render(template: str, script: str, **values: Any) -> bytes:
    style, code, theme = _asset("gallery.css"), _asset(script), _asset("theme.js")
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src 'self' data: file:",
            "media-src 'self' file:",
            f"style-src {_digest(style)}",
            f"script-src {_digest(code)} {_digest(theme)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    page = _environment().get_template(template)
    # The files are our own. `</` in one of them would end its element.
    return page.render(policy=policy, style=Markup(style), script=Markup(code), theme=Markup(theme), **values).encode()  # noqa: S704


def _digest(source: str) -> str:
    """A source of a Content-Security-Policy that allows this very text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return resources.files("luma_pipeline.gallery").joinpath("templates", name).read_text("utf-8").strip()


@cache
def look_digest() -> str:
    """A digest of the templates: pages of another look are written again."""
    names = (
        "base.html",
        "macros.html",
        "partition.html",
        "index.html",
        "gallery.css",
        "partition.js",
        "index.js",
        "theme.js",
    )
    return hashlib.sha256("\0".join(map(_asset, names)).encode()).hexdigest()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("luma_pipeline.gallery"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=format_bytes, seconds=format_seconds, clock=_clock, number=_number)
    return environment


def format_bytes(size: float | None) -> str:
    """Bytes in the units that people read.

    >>> format_bytes(3_145_728), format_bytes(999), format_bytes(None)
    ('3.1 MB', '999 B', '')
    """
    if size is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def format_seconds(seconds: float | None) -> str:
    """Seconds as players show them.

    >>> format_seconds(5.04), format_seconds(75), format_seconds(None)
    ('0:05', '1:15', '')
    """
    if seconds is None or not 0 <= seconds < 1e6:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _clock(at: datetime | None, form: str = "%Y-%m-%d %H:%M UTC") -> str:
    return "" if at is None else at.astimezone(UTC).strftime(form)


def _number(count: int) -> str:
    return f"{count:,}"
