"""The provider's room: many tasks in one request."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from luma_pipeline.luma.attempts import Attempts, Requester, Waiter
from luma_pipeline.luma.json_reader import entry_texts
from luma_pipeline.luma.request import Request, RequestKind
from luma_pipeline.luma.responses import Response, ResponseAction, read_generation
from luma_pipeline.luma.results import FINAL_STATES, same_id
from luma_pipeline.luma.spec import BatchRequest, ProviderSpec

__all__ = ["BatchAnswer", "Batches"]

_log = logging.getLogger(__name__)


class BatchAnswer(NamedTuple):
    """What a batch brought: the tries of its request, the responses by task, and the tasks that it has left out."""

    attempts: Attempts
    responses: Mapping[str, Response]
    left_out: Sequence[str]


class Batches:
    """Asks for many tasks in one request. Thread-safe.

    The first batch goes alone: whether the provider has such a request is learnt with one. Where that is to be found
    out (`is_sure` false), one of its answers is compared with that of a single request. Batches end as soon as one
    brings nothing, and an answer that names another task (`checks_ids`) is left out.
    """

    def __init__(
        self,
        requester: Requester,
        spec: ProviderSpec,
        batch: BatchRequest,
        host: str,
        *,
        is_sure: bool = True,
        checks_ids: bool = True,
    ) -> None:
        self._requester = requester
        self._spec = spec
        self._batch = batch
        self._host = host
        self._is_sure = is_sure
        self._checks_ids = checks_ids and not is_sure
        self._first = threading.Lock()
        self._is_known = False
        self.is_absent = False
        """Whether the provider turned out to have no such request, or none that can be used."""

    def ask(self, task_ids: Sequence[str], waiter: Waiter) -> BatchAnswer | None:
        """Ask for tasks together; None where the provider turned out to have no such request.

        What the answer leaves out or garbles is left out. Raises as `Requester.send` does.
        """
        if not self._is_known:
            with self._first:
                if not self._is_known:
                    answer = self._send(task_ids, waiter) if self._is_sure else self._probe(task_ids, waiter)
                    self._is_known = True
                    return answer
        return None if self.is_absent else self._send(task_ids, waiter)

    def _probe(self, task_ids: Sequence[str], waiter: Waiter) -> BatchAnswer:
        """Ask for tasks together and for one of them singly. Where the two differ, all are left out."""
        answer = self._send(task_ids, waiter, is_probe=True)
        found = answer.responses
        # A final answer has all that there will be.
        task_id = next((name for name in found if _state(found[name]) in FINAL_STATES), next(iter(found), None))
        if task_id is None:
            return answer
        single = self._requester.send(Request("GET", self._spec.task_path(task_id), task_id=task_id), waiter)
        answer.attempts.requests += single.requests
        if single.response is not None and _is_as_good(found[task_id], single.response):
            return answer._replace(responses={**found, task_id: single.response})
        self._end("its answer for a task is not that of a single request")
        return BatchAnswer(answer.attempts, {}, task_ids)

    def _send(self, task_ids: Sequence[str], waiter: Waiter, *, is_probe: bool = False) -> BatchAnswer:
        batch = self._batch
        kind, absent = RequestKind.BATCH, batch.absent_statuses
        if is_probe:
            kind, absent = RequestKind.PROBE, absent | _REFUSALS
        request = Request("POST", batch.path, batch.body(task_ids), kind, absent=absent)
        attempts = self._requester.send(request, waiter)
        entries = batch.entries(attempts.response.body) if attempts.response is not None else None
        if entries is None or attempts.response is None:
            self._note_absence(attempts)
            responses: dict[str, Response] = {}
        else:
            responses = self._read(entries, attempts.response.text, task_ids)
        if not responses and not self._is_sure:
            self._end(attempts.describe() if attempts.status != 200 else "no answer for any of the tasks")
        left_out = [task_id for task_id in task_ids if task_id not in responses]
        return BatchAnswer(attempts, responses, left_out)

    def _read(self, entries: Sequence[Any], text: str, task_ids: Sequence[str]) -> dict[str, Response]:
        """The responses for the tasks whose entry has a generation."""
        shape, reads = self._spec.shape, self._spec.generation
        texts = entry_texts(text, self._batch.entries_key)
        responses: dict[str, Response] = {}
        for task_id, number in zip(task_ids, self._batch.numbers(entries, task_ids), strict=True):
            if number is None:
                continue
            entry = entries[number]
            generation, named = read_generation(entry, shape, reads, task_id)
            if generation is None or (self._checks_ids and named is not None and not same_id(task_id, named)):
                continue
            key = next((key for key in shape.inner_keys if isinstance(entry.get(key), dict)), None)
            inner = entry if key is None else entry[key]
            # Written again with every character as ASCII: JSON can hold half a surrogate pair, a column of text cannot.
            its_text = json.dumps(inner) if texts is None or key is None else str(texts[number][key], "utf-8")
            responses[task_id] = Response(ResponseAction.ACCEPT, its_text, inner, generation=generation, task_id=named)
        return responses

    def _note_absence(self, attempts: Attempts) -> None:
        if not self._is_sure or attempts.status not in self._batch.absent_statuses:
            return
        self.is_absent = True
        _log.warning(
            "%s has no batch endpoint (HTTP %s from POST %s): asking for tasks singly",
            self._host,
            attempts.status,
            self._batch.path,
        )

    def _end(self, reason: str) -> None:
        """Ask singly from here on."""
        if not self.is_absent:
            self.is_absent = True
            _log.info("%s has no batches that can be used (%s): asking for tasks singly", self._host, reason)


_DEEPEST = 8
_REFUSALS = frozenset(range(200, 500)) - {429}
"""Whatever refuses a probe refuses batches alone: single requests tell by themselves what concerns all."""


def _state(response: Response) -> object:
    return (response.generation or {}).get("state")


def _is_as_good(of_batch: Response, single: Response) -> bool:
    """Whether an answer has all that the answer of a single request has. Values may differ: links are signed anew."""
    if single.generation is None or of_batch.generation is None:
        return False
    states = _state(of_batch), _state(single)
    if states[0] != states[1]:
        return states[0] not in FINAL_STATES  # it has changed between the two requests
    return set(_filled(single.generation)) <= set(_filled(of_batch.generation))


def _filled(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of the values in an answer that are not empty."""
    if isinstance(value, Mapping) and len(path) < _DEEPEST:
        for key, inner in value.items():
            yield from _filled(inner, (*path, key))
    elif value not in (None, "", []):
        yield path
