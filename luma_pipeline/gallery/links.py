"""The gallery's room: links between objects of one bucket, relative, so that they hold in a copy of it too."""

from __future__ import annotations

from urllib.parse import quote

__all__ = ["relative_link"]


def relative_link(page_key: str, key: str) -> str:
    """The link from the page under one key to the object under another, percent-quoted.

    It begins with `../` or a plain name, so that no part of a key is read as a scheme.

    >>> relative_link("luma/_gallery/date=2024-12-24/index.html", "luma/a b/video#1.mp4")
    '../../a%20b/video%231.mp4'
    >>> relative_link("_gallery/index.html", "_gallery/date=2024-12-24/index.html")
    './date%3D2024-12-24/index.html'
    """
    here, there = page_key.split("/")[:-1], key.split("/")
    shared = 0
    while shared < min(len(here), len(there) - 1) and here[shared] == there[shared]:
        shared += 1
    steps = [".."] * (len(here) - shared) or ["."]
    return "/".join([*steps, *(quote(segment, safe="") for segment in there[shared:])])
