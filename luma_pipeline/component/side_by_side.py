"""Components of one project side by side: what each takes up, and where two would take up the same."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FolderPath
from typing import Any, Protocol

import dagster as dg
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.core.decl import ComponentDecl, ComponentLoaderDecl
from dagster.components.core.defs_module import ComponentPath

from luma_pipeline.component.faults import Fault, Origin, Path

__all__ = ["Claim", "Claimant", "folder_claim", "known", "other_components", "overlaps", "prefix_claim"]

Value = str | dg.EnvVar


@dataclass(frozen=True)
class Claim:
    """Something that one component has to itself.

    path: The setting that gives it.
    what: What it is, in words.
    shown: The value, for people.
    taken: The value in parts; a claim whose parts begin with those of another lies inside it.
    may_nest: Whether one may lie inside another.
    """

    path: Path
    what: str
    shown: str
    taken: tuple[str, ...]
    may_nest: bool = True

    def overlap(self, other: Claim) -> str | None:
        """How two claims of one kind meet, in words; None where they do not."""
        if self.what != other.what:
            return None
        if self.taken == other.taken:
            return "is also that of"
        if not self.may_nest and self.taken[: len(other.taken)] == other.taken:
            return "lies inside that of"
        if not self.may_nest and other.taken[: len(self.taken)] == self.taken:
            return "has inside it that of"
        return None


class Claimant(Protocol):
    """A component that has places to itself."""

    @property
    def origin(self) -> Origin:
        """Where its settings stand."""

    def claims(self) -> Iterable[Claim]:
        """What it has to itself."""


def overlaps(one: Claimant, others: Iterable[Claimant]) -> Iterator[Fault]:
    """Where a component takes up what another does."""
    own = list(one.claims())
    for other in others:
        for theirs in other.claims():
            for claim in own:
                if how := claim.overlap(theirs):
                    yield Fault(
                        claim.path,
                        f"the {claim.what} {claim.shown} {how} {other.origin.place(theirs.path)} ({theirs.shown}); "
                        "give each component its own",
                    )


def folder_claim(path: Path, what: str, url: Value) -> Claim:
    """A claim to a root of datasets: a folder, `file:///folder` or `s3://bucket/prefix`, and all below it."""
    text = known(url)
    if text is None:
        return _unknown(path, what, url)
    scheme = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]+):(//)?", text)
    rest = text[scheme.end() :] if scheme else text
    if scheme and scheme[1] != "file":
        return Claim(path, what, text, (scheme[1], *_parts(rest)), may_nest=False)
    folder = FolderPath(rest).expanduser().resolve()
    return Claim(path, what, text, ("file", *folder.parts), may_nest=False)


def prefix_claim(path: Path, what: str, bucket: Value, prefix: Value) -> Claim:
    """A claim to a prefix of a bucket, and all below it."""
    names = [known(bucket), known(prefix)]
    if names[0] is None:
        return _unknown(path, what, bucket)
    if names[1] is None:
        return _unknown(path, what, prefix)
    parts = (names[0], *_parts(names[1]))
    return Claim(path, what, f"s3://{'/'.join(parts)}", parts, may_nest=False)


def known(value: Value) -> str | None:
    """The value as far as it is known when definitions load."""
    return os.environ.get(value.env_var_name) if isinstance(value, dg.EnvVar) else value


def _unknown(path: Path, what: str, value: Value) -> Claim:
    """A claim to what a run will read from a variable: two that read the same one meet."""
    variable = value.env_var_name if isinstance(value, dg.EnvVar) else value
    return Claim(path, what, f"of the variable {variable}", ("variable", variable), may_nest=False)


def _parts(prefix: str) -> Sequence[str]:
    return [part for part in prefix.split("/") if part]


def other_components(context: dg.ComponentLoadContext, kind: type[dg.Component]) -> Iterator[tuple[str, dg.Component]]:
    """The other components of this kind in the project, each with the file that it stands in.

    One that cannot be loaded is left to Dagster, which tells of it in its own turn.
    """
    own: object = context.component_decl
    if not isinstance(own, ComponentDecl):  # a component that stands in no project
        return
    tree = context.component_tree
    for decl in tree.find_root_decl().iterate_all_component_decls():
        # What a function in Python makes is known when it has been called.
        declared = kind if isinstance(decl, ComponentLoaderDecl) else decl.component_type
        where = _place(decl)
        if where == _place(own) or not (isinstance(declared, type) and issubclass(declared, kind)):
            continue
        try:
            component = tree.load_component(where)
        except ComponentTreeException:
            continue
        if isinstance(component, kind):
            yield _shown(where, tree.defs_module_path), component


def _place(decl: ComponentDecl[Any]) -> Any:
    """Where a component is declared: in earlier releases of Dagster 1.13 the attribute was `path`."""
    return getattr(decl, "loc", None) or getattr(decl, "path", None)


def _shown(place: Any, folder: FolderPath) -> str:
    return str(place.get_relative_key(folder)) if isinstance(place, ComponentPath) else str(place)
