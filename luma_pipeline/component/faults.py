"""What is wrong with settings, in words, and where it stands: in YAML, in the environment or in Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import dagster as dg
from dagster.components.resolved.errors import ResolutionException
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from luma_pipeline.errors import ConfigurationError

__all__ = [
    "EnvironmentOrigin",
    "Fault",
    "Origin",
    "Path",
    "PythonOrigin",
    "SettingsError",
    "YamlOrigin",
    "dotted",
    "faults_of",
    "raise_for",
    "words_of",
]

Path = tuple[str | int, ...]


class SettingsError(ConfigurationError, ResolutionException, ValueError):
    """Settings of the component are wrong, or cannot stand beside each other. The message names each and its place.

    Dagster hands a ResolutionException on as it is; any other error it would wrap into a stack trace.
    """


class Origin(Protocol):
    """Where settings come from, to name them in messages."""

    def place(self, path: Path) -> str:
        """The place of a setting, such as file, line and key."""

    def name(self, path: Path) -> str:
        """The setting as it is called there."""


@dataclass(frozen=True)
class PythonOrigin:
    """Settings given as arguments, in the file `where` as far as it is known."""

    where: str = ""

    def place(self, path: Path) -> str:
        """The file, and the setting's path."""
        return f"{self.where} {self.name(path)}" if self.where else self.name(path)

    def name(self, path: Path) -> str:
        """The setting's path."""
        return dotted(path)


@dataclass(frozen=True)
class EnvironmentOrigin:
    """Settings of environment variables; `variables` holds them by the setting's path."""

    variables: Mapping[str, str]

    def place(self, path: Path) -> str:
        """The variable."""
        return self.name(path)

    def name(self, path: Path) -> str:
        """The variable."""
        names = tuple(part for part in path if isinstance(part, str))
        for length in range(len(names), 0, -1):
            if variable := self.variables.get(".".join(names[:length])):
                return variable
        return dotted(path)


@dataclass(frozen=True)
class YamlOrigin:
    """Settings of a YAML document below the key path of `context`."""

    context: dg.ResolutionContext

    def place(self, path: Path) -> str:
        """File, line and key; the nearest key above for one that is not written."""
        key = self.name(path)
        tree = self.context.source_position_tree
        if tree is None:
            return key
        position, _ = tree.lookup_closest_and_path([*self.context.path, *path], None)
        return f"{position.filename}:{position.start.line} {key}"

    def name(self, path: Path) -> str:
        """The key with those above it."""
        return dotted((*self.context.path, *path))


@dataclass(frozen=True)
class Fault:
    """One setting that is wrong. `text` goes on after its place."""

    path: Path
    text: str


def raise_for(faults: Iterable[Fault], origin: Origin) -> None:
    """Raise SettingsError for the faults, if there are any."""
    lines = list(dict.fromkeys(_sentence(origin.place(fault.path), fault.text) for fault in faults))
    if len(lines) == 1:
        raise SettingsError(lines[0])
    if lines:
        raise SettingsError("\n".join([f"{len(lines)} settings are wrong", *(f"  {line}" for line in lines)]))


def _sentence(place: str, text: str) -> str:
    return f"{place} {text}" if text.startswith(("must ", "is ")) else f"{place}: {text}"


def dotted(path: Path) -> str:
    """A key path as text.

    >>> dotted(("videos", "artifacts", 0))
    'videos.artifacts[0]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def faults_of(error: ValidationError, secrets: frozenset[str] = frozenset()) -> list[Fault]:
    """What pydantic refused. Values of the `secrets`, given as dotted paths, are not told."""
    details = error.errors(include_url=False)
    # A value that may also be text is refused once more as such.
    deeper = {one["loc"][:-2] for one in details if len(one["loc"]) > 2}
    faults = []
    for one in details:
        if one["loc"][-1:] == ("str",) and one["loc"][:-1] in deeper:
            continue
        path = tuple(part for part in one["loc"] if not _is_kind(part))
        faults.append(Fault(path, in_words(one, tell_value=dotted(path) not in secrets)))
    return faults


def _is_kind(part: str | int) -> bool:
    """Whether pydantic put in the kind that it tried, where a value may be of several."""
    return isinstance(part, str) and bool(_KIND.fullmatch(part))


_KIND = re.compile(r"str|int|(list|dict)\[.*\]|[A-Z]\w*Model|function-.*")


def words_of(error: Exception) -> str:
    """What an error says, without what Dagster puts around it: frames, and lines of YAML, which may have secrets."""
    text = str(error).strip()
    if not isinstance(error, ResolutionException) or isinstance(error, SettingsError):
        return text
    return re.sub(r"^[\w.]*Error: ", "", text.splitlines()[-1]) if text else "cannot be resolved"


_WORDS: Mapping[str, str] = {
    "extra_forbidden": "there is no such setting",
    "missing": "must be set",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of settings",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


def in_words(error: ErrorDetails, *, tell_value: bool = True) -> str:
    """An error of pydantic as a sentence that goes on after the setting's name."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    words = _WORDS.get(error["type"], error["msg"]).format(**_whole(error.get("ctx", {})))
    if not tell_value or error["type"] in {"extra_forbidden", "missing"}:
        return words
    return f"{words}, not {error['input']!r}"


def _whole(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {key: int(one) if isinstance(one, float) and one.is_integer() else one for key, one in numbers.items()}
