"""The provider's room: what an HTTP answer means, whatever gateway, proxy or version it comes from.

An error is read by the table in `response_rules.py`. The shapes of error bodies are those of gateways of the provider's
family: an object under `error`; `code` and `message` beside a null `data`, at any status; `detail`; and HTML from a
proxy in front. Of other shapes the first message is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from luma_pipeline.luma.circuit_breaker import FailureClass
from luma_pipeline.luma.json_reader import read_json
from luma_pipeline.luma.response_rules import (
    RULES,
    Body,
    ResponseAction,
    ResponseRule,
    Said,
    code_matches,
    words_match,
)

__all__ = [
    "AnswerShape",
    "Body",
    "Response",
    "ResponseAction",
    "ResponseRule",
    "Said",
    "code_matches",
    "id_text",
    "json_type",
    "read_answer",
    "read_generation",
    "shortened",
    "words_match",
]


class Response(NamedTuple):
    """What an HTTP answer says.

    `text` is the body as text, `body` the parsed JSON where there is any. `generation` is the answer in the shape of
    the provider's page, for ACCEPT only, and `task_id` the ID that the answer names, if it names one.
    """

    action: ResponseAction
    text: str
    body: Any = None
    code: str | None = None
    message: str | None = None
    failure: FailureClass = FailureClass.TASK
    generation: Mapping[str, Any] | None = None
    task_id: str | None = None


@dataclass(frozen=True)
class AnswerShape:
    """Where a provider's answer has its parts.

    An answer may come in wrappers: objects, lists of one, or JSON as text under `inner_keys`, with the task's ID and a
    status word of the gateway's own. `statuses` are the open or failed states that a wrapper's word (upper case) stands
    for where the inner answer is missing. `done_statuses` promise an inner answer.
    """

    state_key: str = "state"
    id_key: str = "id"
    inner_keys: tuple[str, ...] = ("data", "result", "response", "generation")
    wrapper_id_key: str = "task_id"
    status_key: str = "status"
    statuses: Mapping[str, str] = field(
        default_factory=lambda: {
            "NOT_START": "pending",
            "SUBMITTED": "pending",
            "QUEUED": "pending",
            "IN_PROGRESS": "processing",
            "FAILURE": "failed",
        }
    )
    done_statuses: frozenset[str] = frozenset({"SUCCESS", "SUCCEEDED", "COMPLETED", "FINISHED", "DONE"})
    reason_key: str = "fail_reason"


_MESSAGE_LIMIT = 500
"""Characters of a provider's message that are kept in `error_message`; the whole of it stays in the raw response."""
_USER_INFO = re.compile(r"""(?<=//)[^\s"<>/?#]*@|(?<=/\\/)[^\s"<>/?#]*@""")
_QUERY = re.compile(
    r"""(://|:\\/\\/)([^\s"<>?#]*)[?#][^\s"<>]*|(\?[\w.%-]+=|%3F|\bX-(Amz|Goog)-)[^\s"<>]*""", re.IGNORECASE
)
_NO_ERRORS = frozenset({"success", "ok", "200", "0"})
"""Codes, and messages beside no code or a number, of answers that are no errors."""
_MESSAGE_KEYS = (
    *("message", "msg", "error_message", "error_msg", "error_description", "description", "reason"),
    *("error", "errors", "detail", "title", "data"),
)
_DEEPEST_MESSAGE = 8
_BEFORE_TEXT = "\ufeff\ufffd\0 \t\r\n"
"""Also the byte order marks and zeros of UTF-16, read as UTF-8."""
_EMPTY: tuple[object, ...] = (None, "", {}, [])
"""What stands for a missing value."""


def read_answer(
    status: int,
    raw: bytes,
    *,
    shape: AnswerShape = AnswerShape(),
    rules: tuple[ResponseRule, ...] = (),
    task_id: str = "",
    reads: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = dict,
) -> Response:
    """Read an answer's status and body (already decompressed).

    `rules` of a provider are tried before RULES. `task_id` is the ID that was asked for. `reads` brings a generation
    into the shape of the page. None accepts any JSON that is not an error: a batch or a link.

    >>> read_answer(200, b'{"id": "t", "state": "completed"}').action
    <ResponseAction.ACCEPT: 'accept'>
    >>> read_answer(404, b'{"code": "task_not_exist", "message": "no such task"}').action
    <ResponseAction.NOT_FOUND: 'not_found'>
    """
    text = raw.decode("utf-8", errors="replace")
    if 300 <= status < 400:
        redirected = "the provider redirects elsewhere, which is not followed with the token; check LUMA_BASE_URL"
        return Response(ResponseAction.FAIL, text, None, "redirect", redirected)
    try:
        body = read_json(raw)
    except (ValueError, RecursionError):
        return _read_text(status, text, rules, task_id)
    if status < 300 and reads is not None and isinstance(body, dict):
        generation, said_id = read_generation(body, shape, reads, task_id)
        if generation is not None:
            return Response(ResponseAction.ACCEPT, text, body, generation=generation, task_id=said_id)
    code, message = _error_of(body) if isinstance(body, dict) else (None, None)
    if status >= 400 and message is None:
        message = _message_in(body)
    if status >= 400 or code is not None or message is not None:
        return _read_error(
            Said(status, Body.JSON, code or "", f"{code or ''} {message or ''}", task_id), text, body, message, rules
        )
    if reads is None:
        return Response(ResponseAction.ACCEPT, text, body)
    if isinstance(body, dict):
        message = f"the answer has neither a `{shape.state_key}` nor an inner answer that has one"
        return Response(ResponseAction.INVALID, text, body, "not_a_generation", message)
    message = f"the answer is a JSON {json_type(body)}, not a generation"
    return Response(ResponseAction.INVALID, text, body, "not_an_object", message)


def read_generation(
    body: Mapping[str, Any],
    shape: AnswerShape,
    reads: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    task_id: str = "",
) -> tuple[Mapping[str, Any] | None, str | None]:
    """The generation in an answer or in an entry of a batch, out of any wrappers, and the task ID that it names.

    `reads` brings it into the shape of the page. (None, None) where there is no generation: its state is a word, which
    is not blank. Where the wrapper has a status word and no inner answer, the word becomes
    the state. A word that promises an inner answer makes none.
    """
    found: Mapping[str, Any] | None = None
    wrapper: Mapping[str, Any] = {}
    named: str | None = None
    node: Mapping[str, Any] | None = body
    while node is not None:
        if node.get(shape.state_key) not in _EMPTY:
            found = node
            named = id_text(node.get(shape.id_key)) or id_text(node.get(shape.wrapper_id_key)) or named
        elif found is None:
            named = id_text(node.get(shape.wrapper_id_key)) or named
            if shape.status_key in node and shape.wrapper_id_key in node:
                wrapper = node
        node = _inner(node, shape, task_id)
    if found is not None:
        generation = reads(found)
        state = generation.get("state")
        return (generation, named) if isinstance(state, str) and state.strip() else (None, None)
    status = wrapper.get(shape.status_key)
    if not isinstance(status, str) or not status or status.upper() in shape.done_statuses:
        return None, None
    if _error_of(body) != (None, None):
        return None, None
    # The wrapper's word is the gateway's own record of the task.
    state = shape.statuses.get(status.upper(), status)
    reason = wrapper.get(shape.reason_key) if state == "failed" else None
    return reads({shape.id_key: named, shape.state_key: state, "failure_reason": reason}), named


def _inner(node: Mapping[str, Any], shape: AnswerShape, task_id: str) -> Mapping[str, Any] | None:
    """What a wrapper holds: an object, the only entry of a list, or the entry of the task."""
    for key in shape.inner_keys:
        value = node.get(key)
        if isinstance(value, str):
            value = _json_in(value)
        if isinstance(value, list):
            entries = [entry for entry in value if isinstance(entry, dict)]
            of_task = [entry for entry in entries if id_text(entry.get(shape.wrapper_id_key)) == task_id]
            value = (of_task or entries)[0] if len(of_task or entries) == 1 else None
        if isinstance(value, dict):
            return value
    return None


def _json_in(text: str) -> object:
    """What JSON in a text says; None where it is another text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_error(said: Said, text: str, body: Any, message: str | None, rules: tuple[ResponseRule, ...]) -> Response:
    rule = next(rule for rule in (*rules, *RULES) if rule.matches(said))
    if rule.hint:
        message = f"{shortened(message or text, _MESSAGE_LIMIT // 2) or f'HTTP {said.status}'} ({rule.hint})"
    else:
        message = shortened(message or text)
    code = shortened(said.code) or f"http_{said.status}"
    return Response(rule.action, text, body, code, message, rule.failure)


def _read_text(status: int, text: str, rules: tuple[ResponseRule, ...], task_id: str) -> Response:
    """An answer that is not JSON: a proxy's page, or a body that was cut."""
    start = text.lstrip(_BEFORE_TEXT)[:1]
    body = Body.PAGE if start == "<" else Body.TEXT if start else Body.EMPTY
    if status < 300:
        kind = "a web page, not JSON" if body is Body.PAGE else "not JSON"
        return Response(
            ResponseAction.RETRY_UNREADABLE, text, None, "not_json", f"the answer is {kind}: {shortened(text)}"
        )
    # The words of a page are not the gateway's, so no rule reads them.
    return _read_error(Said(status, body, "", "", task_id), text, None, None, rules)


def _error_of(body: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Code and message from any of the known shapes of an error; (None, None) where there is no error."""
    error = body.get("error")
    if isinstance(error, Mapping):
        return _text(error.get("code")) or _text(error.get("type")), _text(error.get("message"))
    if isinstance(error, str) and error:
        return None, error
    detail = body.get("detail")
    if detail:
        return None, detail if isinstance(detail, str) else json.dumps(detail)
    code = _text(body.get("code"))
    message = _text(body.get("message")) or (_text(body.get("msg")) if code is not None else None)
    is_word = code is not None and not code.isdigit()
    said = code if is_word or message is None else message
    is_success = (code or "").lower() in _NO_ERRORS or (said or "").strip().lower() in _NO_ERRORS
    return (None, None) if is_success else (code, message)


def _message_in(body: object, depth: int = 0) -> str | None:
    """The first message in an error of an unknown shape, whatever it is wrapped in; None where there is none."""
    if isinstance(body, str):
        return body or None
    if isinstance(body, list):
        inside: list[object] = body[:1]
    elif isinstance(body, Mapping):
        inside = [body[key] for key in _MESSAGE_KEYS if key in body]
    else:
        return None
    found = (_message_in(value, depth + 1) for value in inside if depth < _DEEPEST_MESSAGE)
    return next((message for message in found if message is not None), None)


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value or None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return None


def id_text(value: object) -> str | None:
    """An ID of an answer as text; None for a missing one, and for what is no ID."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = _text(value)
    return text.strip() or None if text is not None else None


def shortened(message: str, limit: int = _MESSAGE_LIMIT) -> str:
    """On one line, short, and without what may be a secret in the URLs it quotes: messages go into rows and logs."""
    message = " ".join(_QUERY.sub(r"\1\2", _USER_INFO.sub("", message[: 20 * limit])).split())
    return message if len(message) <= limit else message[: limit - 1] + "…"


def json_type(value: object) -> str:
    """The name of a value's JSON type."""
    if isinstance(value, Mapping):
        return "object"
    names: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
    return names.get(type(value), "null")
