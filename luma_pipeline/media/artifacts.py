"""What a generation leaves behind to copy, and which of an answer's links leads to it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class MediaKind(StrEnum):
    """What a file is to its viewer."""

    VIDEO = "video"
    IMAGE = "image"

    def __str__(self) -> str:
        return self.value


class Artifact(StrEnum):
    """One file of a finished generation."""

    VIDEO = "video"
    VIDEO_RAW = "video_raw"
    THUMBNAIL = "thumbnail"
    LAST_FRAME = "last_frame"

    def __str__(self) -> str:
        return self.value

    @property
    def kind(self) -> MediaKind:
        """What its bytes have to be."""
        return MediaKind.VIDEO if self in {Artifact.VIDEO, Artifact.VIDEO_RAW} else MediaKind.IMAGE


class LinkSource(StrEnum):
    """A link of the provider's answer for the `video` artifact."""

    DOWNLOAD_URL = "download_url"
    """`video.download_url`: without watermark where the account has it."""
    URL = "url"
    """`video.url`: always there once the task is completed."""
    UNWATERMARKED = "unwatermarked"
    """A link without watermark, which the gateway gives by a request of its own."""

    def __str__(self) -> str:
        return self.value


DEFAULT_LINK_PREFERENCE: tuple[LinkSource, ...] = (LinkSource.DOWNLOAD_URL, LinkSource.URL)


def preferred_link(
    links: dict[LinkSource, str | None], preference: Sequence[LinkSource] = DEFAULT_LINK_PREFERENCE
) -> str | None:
    """The first link in the order of `preference` that is there; blank text counts as missing."""
    for source in preference:
        link = (links.get(source) or "").strip()
        if link:
            return link
    return None
