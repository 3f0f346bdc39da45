"""The provider's room: what differs between providers, as one object.

A further provider is one file with a `ProviderSpec`, and its tests. `dialects.py` has the two that come with the
package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from luma_pipeline.luma.errors import InvalidSettingError
from luma_pipeline.luma.links import PAGE_ARTIFACTS, ArtifactLinks
from luma_pipeline.luma.responses import AnswerShape, ResponseRule, id_text
from luma_pipeline.luma.results import comparable_id
from luma_pipeline.luma.schema import FIELDS, Field, generations_schema

__all__ = ["BatchRequest", "LinkRequest", "ProviderSpec"]


@dataclass(frozen=True)
class BatchRequest:
    """A request for many tasks: `POST path` with the IDs, answered with an entry for each.

    `absent_statuses` are those of a gateway that has no such request. `usual_size` is the number of tasks where it is
    found out.
    """

    path: str
    ids_key: str = "ids"
    entries_key: str = "data"
    entry_id_key: str = "task_id"
    absent_statuses: frozenset[int] = frozenset({404, 405, 501})
    usual_size: int = 100

    def body(self, task_ids: Sequence[str]) -> bytes:
        """The request's body."""
        return json.dumps({self.ids_key: list(task_ids)}).encode()

    def entries(self, body: object) -> Sequence[Any] | None:
        """The list of entries in an answer; None where it has none."""
        listed = body.get(self.entries_key) if isinstance(body, Mapping) else None
        return listed if isinstance(listed, list) else None

    def numbers(self, entries: Sequence[Any], task_ids: Sequence[str]) -> list[int | None]:
        """For each task the number of its entry; None where it has none.

        A task has none if two entries have its ID: which of them is the task's cannot be told.
        """
        spelled: dict[str, str] = {}
        found: dict[str, int | None] = {}
        for number, entry in enumerate(entries):
            task_id = id_text(entry.get(self.entry_id_key)) if isinstance(entry, Mapping) else None
            if task_id is not None:
                key = spelled[task_id] = comparable_id(task_id)
                found[key] = None if key in found else number
        return [found.get(spelled.get(task_id) or comparable_id(task_id)) for task_id in task_ids]


@dataclass(frozen=True)
class LinkRequest:
    """A request for a link to a task's video without watermark.

    The link is under the first of `link_keys` that the answer, or the object or text at `inner_key`, has.
    `absent_statuses` are those of an account that has no such link. `id_keys` are where an answer names its task.
    """

    path: str
    link_keys: tuple[str, ...] = ("download_url", "video_url", "url")
    inner_key: str = "data"
    id_keys: tuple[str, ...] = ("task_id", "id")
    absent_statuses: frozenset[int] = frozenset({402, 403, 404, 405, 410, 501})

    def link(self, body: Mapping[str, Any]) -> str | None:
        """The link in an answer; None where it has none."""
        inner = body.get(self.inner_key)
        for holder in self._holders(body):
            for name in self.link_keys:
                link = holder.get(name)
                if isinstance(link, str) and link:
                    return link
        return inner if isinstance(inner, str) and inner.startswith("http") else None

    def task_ids(self, body: Mapping[str, Any]) -> list[str]:
        """The IDs that an answer names."""
        found = (id_text(holder.get(key)) for holder in self._holders(body) for key in self.id_keys)
        return [task_id for task_id in found if task_id is not None]

    def _holders(self, body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        inner = body.get(self.inner_key)
        return [body, inner] if isinstance(inner, Mapping) else [body]


def _as_it_is(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    return answer


@dataclass(frozen=True)
class ProviderSpec:
    """How a provider is asked, and how its answers are read.

    Args:
        name: The word of the setting `dialect`.
        path: Path of one generation, with `{task_id}`.
        shape: Where an answer has its state, its ID and its wrappers.
        states: The provider's words for states, and those of the page (`State`). Other words stay as they are.
        read: Brings a generation into the shape of the provider's page, but for the words of its state.
        rules: Rules for errors that come before those for all providers.
        fields: The typed columns.
        artifacts: The files of a generation by name, and where their links are.
        batch: The request for many tasks; None where there is none.
        unwatermarked: The request for a link without watermark; None where there is none.

    Raises:
        InvalidSettingError: Two columns have one name, there is no column `state`, or a link of an artifact has none.
    """

    name: str
    path: str
    shape: AnswerShape = field(default_factory=AnswerShape)
    states: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _as_it_is
    rules: tuple[ResponseRule, ...] = ()
    fields: tuple[Field, ...] = FIELDS
    artifacts: Mapping[str, ArtifactLinks] = field(default_factory=lambda: PAGE_ARTIFACTS)
    batch: BatchRequest | None = None
    unwatermarked: LinkRequest | None = None

    def __post_init__(self) -> None:
        names = generations_schema(self.fields).names
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise InvalidSettingError(f"the provider {self.name} has two columns of the name {', '.join(repeated)}")
        texts = {(field.name, field.path) for field in self.fields if field.type == pa.string()}
        needed = [("state",), *(path for where in self.artifacts.values() for path in where.paths)]
        missing = ["_".join(path) for path in needed if ("_".join(path), path) not in texts]
        if missing:
            raise InvalidSettingError(
                f"the provider {self.name} needs the text columns {', '.join(missing)}, each named after its path"
            )

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of a table of this provider's generations."""
        return generations_schema(self.fields)

    def task_path(self, task_id: str, path: str | None = None) -> str:
        """Path of one generation. A task ID is data: every reserved character is quoted, `/` and dots too.

        >>> ProviderSpec("example", "/v1/tasks/{task_id}").task_path("a/b")
        '/v1/tasks/a%2Fb'
        """
        quoted = quote(task_id, safe="", errors="surrogatepass")
        if not quoted.strip("."):  # a server or proxy would read "." and ".." as steps in the path
            quoted = quoted.replace(".", "%2E")
        return (path or self.path).replace("{task_id}", quoted)

    def generation(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """A generation of the provider's in the shape and the words of the page."""
        generation = self.read(answer)
        if not self.states:
            return generation
        state = generation.get("state")
        word = self.states.get(state) if isinstance(state, str) else None
        return generation if word is None else {**generation, "state": word}
