"""The provider's room: the two ways to ask for a generation, read into one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote

__all__ = ["Dialect"]


class Dialect(str, Enum):
    """Whose API is spoken: the gateway's (`/luma/generations`) or Luma's own (`/dream-machine/v1/generations`)."""

    GATEWAY = "gateway"
    LUMA = "luma"

    def __str__(self) -> str:
        return self.value

    def path(self, task_id: str) -> str:
        """Path of one generation. A task ID is data: every reserved character in it is quoted, `/` and dots too."""
        quoted = quote(task_id, safe="", errors="surrogatepass")
        if not quoted.strip("."):  # a server or proxy would read "." and ".." as steps in the path
            quoted = quoted.replace(".", "%2E")
        return _SPEECH[self].prefix + quoted

    def read(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer in the shape of the gateway's page."""
        return _SPEECH[self].read(answer)


@dataclass(frozen=True)
class _Speech:
    prefix: str
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]]


def _as_it_is(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    return answer


# Luma's words for the two open states, from its public API description.
_LUMA_STATES = {"queued": "pending", "dreaming": "processing"}
# What the gateway's page has under another name or not at all; any other field of Luma's is left in its place, where
# the flattening counts it as drift.
_LUMA_RENAMED = frozenset({"state", "assets"})


def _read_luma(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Luma's own answer: links are plain strings under `assets`, states have other names."""
    generation: dict[str, Any] = {key: value for key, value in answer.items() if key not in _LUMA_RENAMED}
    state = answer.get("state")
    generation["state"] = _LUMA_STATES.get(state, state) if isinstance(state, str) else state
    assets = answer.get("assets")
    if isinstance(assets, Mapping):
        if assets.get("video"):
            generation["video"] = {"url": assets["video"]}
        if assets.get("image"):
            generation["thumbnail"] = {"url": assets["image"], "media_type": "image"}
        rest = {key: value for key, value in assets.items() if key not in ("video", "image") and value is not None}
        if rest:
            generation["assets"] = rest
    elif assets is not None:
        generation["assets"] = assets
    return generation


_SPEECH = {
    Dialect.GATEWAY: _Speech("/luma/generations/", _as_it_is),
    Dialect.LUMA: _Speech("/dream-machine/v1/generations/", _read_luma),
}
