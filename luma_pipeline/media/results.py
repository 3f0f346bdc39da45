"""What a copier is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum

from luma_pipeline.media.artifacts import Artifact
from luma_pipeline.media.facts import NO_FACTS, MediaFacts


class CopyStatus(StrEnum):
    """How the copy of one artifact ended."""

    COPIED = "copied"
    ALREADY_PRESENT = "already_present"
    EXPIRED = "expired"
    FAILED = "failed"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class KnownObject:
    """What an earlier row of the manifest says is in the bucket. `copied_at` is aware, UTC."""

    key: str
    size_bytes: int
    sha256: str | None
    etag: str | None = None
    content_type: str | None = None
    copied_at: datetime | None = None
    facts: MediaFacts = NO_FACTS


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """One artifact to have in the bucket. The link may be signed, and is left out of the repr.

    `better_link` is called once the artifact is known to be missing; the link it returns is taken before `source_url`.
    """

    task_id: str
    artifact: Artifact
    source_url: str | None = field(repr=False)
    known: KnownObject | None = None
    better_link: Callable[[], str | None] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class CopyResult:
    """How it ended: one row of `luma_videos`, and numbers for the run's metadata.

    `source_url` is without its query; `sha256` is in hex, and None for an object that was there before and cannot be
    read (an archive); `copied_at` is aware, UTC; `error_code` is an `ErrorCode`. Beside an error stand key, size and so
    on if the request's `known` object was not replaced, and not seen to be gone or damaged.
    `facts` are what the file says of itself, as far as it was read: while it was copied, or when an object that was
    there before had to be read; else what the object's metadata, or the `known` object, says.
    `attempts` counts requests to the media host, and is zero where nothing had to be fetched.
    """

    task_id: str
    artifact: Artifact
    status: CopyStatus
    source_url: str | None
    bucket: str
    key: str | None = None
    size_bytes: int | None = None
    content_type: str | None = None
    sha256: str | None = None
    etag: str | None = None
    copied_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    facts: MediaFacts = NO_FACTS
    seconds: float = 0.0
    bytes_downloaded: int = 0
    attempts: int = 0

    def is_of(self, known: KnownObject) -> bool:
        """Whether it is the object that the manifest knows, with nothing new to tell of it."""
        return all(getattr(self, field.name) == getattr(known, field.name) for field in fields(known))
