"""The provider's room: reading an HTTP answer, whatever gateway, proxy or version it comes from.

The shapes of error bodies and the meaning of codes are those of gateways of the provider's family: an object under
`error`; `code` and `message` beside a null `data`, at any status; `detail`; and HTML from a proxy in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Answer", "Verdict", "read_answer"]


class Verdict(str, Enum):
    """What an answer means for the task, the thread and the run."""

    GENERATION = "generation"
    NOT_FOUND = "not_found"
    INVALID = "invalid"
    """An answer, but not one of a generation; asking again will not change it."""
    REFUSED = "refused"
    """The provider reported an error for this request; asking again will not change it."""
    RETRY = "retry"
    """A passing fault of the provider or of what stands before it."""
    GARBLED = "garbled"
    """A success without readable JSON: worth another try, and an invalid response if that does not help."""
    TOO_FAST = "too_fast"
    BAD_TOKEN = "bad_token"  # noqa: S105 - a verdict, not a password
    NO_QUOTA = "no_quota"


@dataclass(frozen=True)
class Answer:
    """What an HTTP answer says. `body` is the parsed JSON where there is any, `text` the body as text."""

    verdict: Verdict
    text: str
    body: Any = None
    code: str | None = None
    message: str | None = None


_RETRIED = frozenset({408, 425}) | frozenset(range(500, 600))
_QUOTA = re.compile(r"quota|balance(?!r)|billing|credit|arrear|payment|funds?", re.IGNORECASE)
_BAD_TOKEN = re.compile(r"invalid[_ ]?(api[_ ]?)?(key|token)|unauthori[sz]ed|token[_ ](expired|invalid)", re.IGNORECASE)
_TOO_FAST = re.compile(r"rate[_ -]?limit|too[_ -]?many[_ -]?requests|throttl", re.IGNORECASE)

# What a status of 404 means depends on who says it. A gateway says that it has no such task; it says the same of a
# model or a channel of its own that may be back in a minute, and it, or whatever stands at a wrong address, says it of
# the path. Only the first of them is about the task.
_NO_TASK_STATUSES = frozenset({400, 500})
"""Beside 2xx, 404 and 410: where gateways of the family say "no such task"."""
_NO_TASK = re.compile(
    r"(?<![a-z/])(task|generation|job|record)s?[ _:-]*(with )?(id[ :=]*([\w.:-]{1,128} )?)?"
    r"""(["'`][^"'`]{1,128}["'`] ?|[\w.:-]{0,64}?[0-9][\w.:-]{0,64} ?)?"""
    r"(was |is |could )?(not[ _-]?(be )?(found|exist)|do(es)?(n't| not)[ _]exist)"
    r"|(no such|unknown|(can ?not|can't|could not|couldn't) find( (the|a|this))?) (task|generation|job|record)"
    r"|任务不存在",
    re.IGNORECASE,
)
_THE_PATH = re.compile(
    r"(?<![a-z])(url|uri|path|route|endpoint|page)s?(?![a-z])|cannot (get|post) |^\W*(404\W+)?not found\W*$",
    re.IGNORECASE,
)
"""The last is how frameworks answer for a path that they do not know."""
_ANOTHER_THING = re.compile(r"(?<![a-z])(model|channel|host|upstream)s?(?![a-z])", re.IGNORECASE)
_WRONG_PATH = "the path may be wrong: check LUMA_BASE_URL"

_MESSAGE_LIMIT = 500
"""Characters of a provider's message that are kept in `error_message`; the whole of it stays in the raw response."""
_USER_INFO = re.compile(r"""(?<=//)[^\s"<>/?#]*@|(?<=/\\/)[^\s"<>/?#]*@""")
_QUERY = re.compile(
    r"""(://|:\\/\\/)([^\s"<>?#]*)[?#][^\s"<>]*|(\?[\w.%-]+=|%3F|\bX-(Amz|Goog)-)[^\s"<>]*""", re.IGNORECASE
)


def read_answer(status: int, raw: bytes) -> Answer:
    """Read an answer's status and body (already decompressed)."""
    text = raw.decode("utf-8", errors="replace")
    if 300 <= status < 400:
        message = "the provider redirects elsewhere, which is not followed with the token; check LUMA_BASE_URL"
        return Answer(Verdict.REFUSED, text, None, "redirect", message)
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return _read_text(status, text)
    if isinstance(body, dict):
        return _read_object(status, text, body)
    if status >= 400:
        return _read_error(status, text, body, None, None)
    return Answer(
        Verdict.INVALID, text, body, "not_an_object", f"the answer is a JSON {_json_type(body)}, not a generation"
    )


def _read_object(status: int, text: str, body: dict[str, Any]) -> Answer:
    # An error may carry an `id` too: that of the request.
    if status < 400 and ("state" in body or ("id" in body and not body.get("error"))):
        return Answer(Verdict.GENERATION, text, body)
    code, message = _error_of(body)
    if status < 400:
        inner = body.get("data")
        if isinstance(inner, dict) and ("state" in inner or "id" in inner):
            return Answer(Verdict.GENERATION, text, inner)
        if code is None and message is None:
            return Answer(Verdict.INVALID, text, body, "not_a_generation", "the answer has neither `id` nor `state`")
    return _read_error(status, text, body, code, message)


def _read_error(status: int, text: str, body: Any, code: str | None, message: str | None) -> Answer:
    said = f"{code or ''} {message or ''}"
    verdict = Verdict.REFUSED
    if status == 402 or (code is not None and _QUOTA.search(code)):
        verdict = Verdict.NO_QUOTA
    elif status == 401 or (status < 400 and code is not None and _BAD_TOKEN.search(code)):
        verdict = Verdict.BAD_TOKEN
    elif status == 403:
        verdict = Verdict.NO_QUOTA if _QUOTA.search(said) else Verdict.BAD_TOKEN
    elif status == 429 or (code is not None and _TOO_FAST.search(code)):
        verdict = Verdict.TOO_FAST
    elif status in (404, 410):
        return _read_404(status, text, body, code, message)
    elif (status < 300 or status in _NO_TASK_STATUSES) and _is_no_task(code, message):
        verdict = Verdict.NOT_FOUND
    elif status in _RETRIED:
        verdict = Verdict.RETRY
    return _error(verdict, status, text, body, code, message)


def _read_404(status: int, text: str, body: Any, code: str | None, message: str | None) -> Answer:
    """Not found is what the gateway says of the task; of anything else it is a refusal, which is not final."""
    if _is_no_task(code, message):
        return _error(Verdict.NOT_FOUND, status, text, body, code, message)
    said = f"{code or ''} {message or ''}"
    if not said.strip() or _THE_PATH.search(said):
        message = f"{_shortened(message or text, _MESSAGE_LIMIT // 2) or f'HTTP {status}'} ({_WRONG_PATH})"
        return _error(Verdict.REFUSED, status, text, body, code, message)
    verdict = Verdict.REFUSED if _ANOTHER_THING.search(said) else Verdict.NOT_FOUND
    return _error(verdict, status, text, body, code, message)


def _is_no_task(code: str | None, message: str | None) -> bool:
    said = f"{code or ''} {message or ''}"
    found = _NO_TASK.search(said)
    if found is None:
        return False
    # What comes behind may be the task's ID, which is any text.
    before = said[: found.start()]
    return not _ANOTHER_THING.search(before) and not _THE_PATH.search(before)


def _error(verdict: Verdict, status: int, text: str, body: Any, code: str | None, message: str | None) -> Answer:
    return Answer(verdict, text, body, _shortened(code or "") or f"http_{status}", _shortened(message or text))


def _read_text(status: int, text: str) -> Answer:
    """An answer that is not JSON: a proxy's page, or a body that was cut."""
    if status < 300:
        return Answer(Verdict.GARBLED, text, None, "not_json", f"the answer is not JSON: {_shortened(text)}")
    return _read_error(status, text, None, None, None)


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
    code, message = _text(body.get("code")), _text(body.get("message"))
    if code is not None and code.lower() in ("success", "ok", "200", "0"):
        code = None
    return code, message


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value or None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return None


def _shortened(message: str, limit: int = _MESSAGE_LIMIT) -> str:
    """On one line, short, and without what may be a secret in the URLs it quotes: messages go into rows and logs."""
    message = " ".join(_QUERY.sub(r"\1\2", _USER_INFO.sub("", message[: 20 * limit])).split())
    return message if len(message) <= limit else message[: limit - 1] + "…"


def _json_type(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
