"""The gallery's room: what the index knows of each partition, as a small JSON object of its own.

One listing tells which of these objects have changed since the index was written: the index keeps, with what it knows
of each, the ETag that the object had. So an update reads only what has changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["COUNTS", "Cover", "Entry", "read_entry"]

COUNTS = ("tasks", "ready", "missing", "open", "failed", "unknown", "bytes")
"""What an entry counts: tasks by their status, and the bytes of the videos to be seen."""

_VERSION = 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cover:
    """A picture, or a video whose first frame is one, that stands for a partition on the index."""

    key: str
    is_video: bool


@dataclass(frozen=True)
class Entry:
    """A partition's pages: their ETags by name, a digest of what they show, and what the index shows of it."""

    folder: str
    digest: str
    pages: Mapping[str, str | None]
    counts: Mapping[str, int]
    covers: tuple[Cover, ...] = field(default=())

    def as_json(self) -> bytes:
        """The object's content, the same for the same entry."""
        return json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True, separators=(",", ":")).encode()


def read_entry(content: bytes | str | Mapping[str, Any], where: str) -> Entry | None:
    """An entry from its JSON; None, with a line in the log, for what is none of this version."""
    try:
        found = json.loads(content) if isinstance(content, (bytes, str)) else content
        if found["version"] != _VERSION:
            return None
        return Entry(
            folder=str(found["folder"]),
            digest=str(found["digest"]),
            pages={str(name): etag for name, etag in found["pages"].items()},
            counts={name: int(found["counts"][name]) for name in COUNTS},
            covers=tuple(Cover(str(cover["key"]), bool(cover["is_video"])) for cover in found["covers"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _log.warning("%s is no entry of a gallery and is left out of the index", where)
        return None
