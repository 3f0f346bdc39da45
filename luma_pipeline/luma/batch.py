"""The provider's room: many tasks in one request."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from luma_pipeline.luma.attempts import Attempts, Requester, Waiter
from luma_pipeline.luma.request import Request, RequestKind
from luma_pipeline.luma.responses import Response, ResponseAction, read_generation
from luma_pipeline.luma.results import comparable_id
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

    The first batch goes alone: whether the provider has such a request is learnt with one.
    """

    def __init__(self, requester: Requester, spec: ProviderSpec, batch: BatchRequest, host: str) -> None:
        self._requester = requester
        self._spec = spec
        self._batch = batch
        self._host = host
        self._first = threading.Lock()
        self._is_known = False
        self.is_absent = False
        """Whether the provider turned out to have no such request."""

    def ask(self, task_ids: Sequence[str], waiter: Waiter) -> BatchAnswer | None:
        """Ask for tasks together; None where the provider turned out to have no such request.

        What the answer leaves out or garbles is left out. Raises as `Requester.send` does.
        """
        if not self._is_known:
            with self._first:
                if not self._is_known:
                    answer = self._send(task_ids, waiter)
                    self._is_known = True
                    return answer
        return None if self.is_absent else self._send(task_ids, waiter)

    def _send(self, task_ids: Sequence[str], waiter: Waiter) -> BatchAnswer:
        batch = self._batch
        attempts = self._requester.send(
            Request("POST", batch.path, batch.body(task_ids), RequestKind.BATCH, absent=batch.absent_statuses), waiter
        )
        entries = batch.entries(attempts.response.body) if attempts.response is not None else None
        if entries is None:
            self._note_absence(attempts)
            entries = {}
        responses: dict[str, Response] = {}
        left_out: list[str] = []
        for task_id in task_ids:
            response = self._read(entries.get(comparable_id(task_id)), task_id)
            if response is None:
                left_out.append(task_id)
            else:
                responses[task_id] = response
        return BatchAnswer(attempts, responses, left_out)

    def _read(self, entry: Mapping[str, Any] | None, task_id: str) -> Response | None:
        """The response for one task; None where its entry has no generation."""
        if entry is None:
            return None
        generation, named = read_generation(entry, self._spec.shape, self._spec.generation, task_id)
        if generation is None:
            return None
        inner = next((entry[key] for key in self._spec.shape.inner_keys if isinstance(entry.get(key), dict)), entry)
        # Every character as ASCII: JSON can hold half a surrogate pair, a column of text cannot.
        text = json.dumps(inner)
        return Response(ResponseAction.ACCEPT, text, inner, generation=generation, task_id=named)

    def _note_absence(self, attempts: Attempts) -> None:
        if attempts.status not in self._batch.absent_statuses:
            return
        self.is_absent = True
        _log.warning(
            "%s has no batch endpoint (HTTP %s from POST %s): asking for tasks singly",
            self._host,
            attempts.status,
            self._batch.path,
        )
