"""The provider's room: which links of a generation lead to its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

__all__ = [
    "PAGE_ARTIFACTS",
    "UNWATERMARKED",
    "ArtifactLinks",
    "ChosenLink",
    "LinkLookup",
    "choose_link",
    "link_columns",
    "links_of_generation",
    "links_of_row",
]

UNWATERMARKED = "unwatermarked"
"""In a link preference: a link without watermark, which the provider gives by a request of its own."""

LinkLookup = Callable[[tuple[str, ...]], str | None]
"""Gives the text at a path of a generation in the page's shape."""


@dataclass(frozen=True)
class ArtifactLinks:
    """Where the links of one artifact are in a generation (in the page's shape).

    `holders` are the paths of the objects that hold links, the best first. `sources` are the names of links in a
    holder. `unwatermarked` says that a link without watermark can be asked for.
    """

    holders: tuple[tuple[str, ...], ...]
    sources: tuple[str, ...] = ("url",)
    unwatermarked: bool = False

    @property
    def paths(self) -> list[tuple[str, ...]]:
        """The paths of all links."""
        return [(*holder, source) for holder in self.holders for source in self.sources]

    def order(self, preference: Sequence[str]) -> list[str]:
        """The sources that the preference names, in its order.

        A preference for links that this artifact has none of leaves all of its own, in their order.

        >>> ArtifactLinks((("clip",),), ("href",), unwatermarked=True).order(["unwatermarked", "url"])
        ['unwatermarked', 'href']
        """
        named = [source for source in preference if source in self.sources]
        asked = [source for source in preference if source == UNWATERMARKED and self.unwatermarked]
        if named or (asked and asked == list(preference)):
            return [source for source in preference if source in named or source in asked]
        return [*asked, *self.sources]


PAGE_ARTIFACTS: Mapping[str, ArtifactLinks] = {
    "video": ArtifactLinks((("video",), ("artifact", "video")), ("download_url", "url"), unwatermarked=True),
    **{name: ArtifactLinks(((name,), ("artifact", name))) for name in ("video_raw", "thumbnail", "last_frame")},
}
"""The files on the provider's page: each stands at the top, and once more in `artifact`."""


class ChosenLink(NamedTuple):
    """A link of a generation, and whether the provider is to be asked for one that is preferred to it."""

    link: str | None
    asks_unwatermarked: bool


def choose_link(
    look_up: LinkLookup,
    artifact: str,
    preference: Sequence[str],
    artifacts: Mapping[str, ArtifactLinks] = PAGE_ARTIFACTS,
) -> ChosenLink:
    """The best link of one artifact. Blank text counts as missing.

    >>> look_up = links_of_generation({"video": {"url": "https://cdn.example/a.mp4", "download_url": ""}})
    >>> choose_link(look_up, "video", ["download_url", "url"])
    ChosenLink(link='https://cdn.example/a.mp4', asks_unwatermarked=False)
    >>> choose_link(look_up, "video", ["unwatermarked", "url"])
    ChosenLink(link='https://cdn.example/a.mp4', asks_unwatermarked=True)
    """
    where = artifacts.get(artifact)
    if where is None:
        return ChosenLink(None, False)
    order = where.order(preference)
    found: dict[str, str] = {}
    for holder in where.holders:
        found = {name: link.strip() for name in order if (link := look_up((*holder, name))) and link.strip()}
        if found:
            break
    best = next((name for name in order if name in found or name == UNWATERMARKED), None)
    if best == UNWATERMARKED:
        return ChosenLink(next(iter(found.values()), None), True)
    return ChosenLink(found[best] if best is not None else None, False)


def link_columns(artifact_names: Iterable[str], artifacts: Mapping[str, ArtifactLinks] = PAGE_ARTIFACTS) -> list[str]:
    """The columns of luma_generations that hold the links of these artifacts."""
    return ["_".join(path) for name in artifact_names if name in artifacts for path in artifacts[name].paths]


def links_of_generation(generation: Mapping[str, Any]) -> LinkLookup:
    """Look links up in a generation."""

    def look_up(path: tuple[str, ...]) -> str | None:
        value: object = generation
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value if isinstance(value, str) else None

    return look_up


def links_of_row(table: pa.Table, row: int) -> LinkLookup:
    """Look links up in a row of luma_generations."""

    def look_up(path: tuple[str, ...]) -> str | None:
        name = "_".join(path)
        value: str | None = table[name][row].as_py() if name in table.schema.names else None
        return value

    return look_up
