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
_QUOTA = re.compile(
    r"quota|insufficient(?!_?(permission|privilege|scope|right))|balance|billing|credit(?!ential)|arrear|payment",
    re.IGNORECASE,
)
_BAD_TOKEN = re.compile(r"invalid[_ ]?(api[_ ]?)?(key|token)|unauthori[sz]ed|token[_ ](expired|invalid)", re.IGNORECASE)
_MISSING = r"(not[_ -]?(found|exist)|(does|do|did)(n't| not)[_ ]exist|no longer exist|unknown)"
_NOT_FOUND = re.compile(
    rf"(task|generation|record|job)s?\b[^.]{{0,80}}?{_MISSING}|(task|generation|record|job)_?{_MISSING}"
    r"|(no such|unknown|(can ?not|can't|could not|couldn't|did not) find( (the|a|this))?) (task|generation|record|job)",
    re.IGNORECASE,
)
"""Only words about tasks: gateways say the same of models, channels and hosts behind them ("model_not_found" is how
those of this family say that nobody serves the model at the moment)."""
_NOT_FOUND_BY_TEXT = frozenset({200, 400, 500})
_WRONG_PATH = re.compile(
    r"invalid url|no (such )?route|(route|path|endpoint|url|page|model)(\b|_)[^.]{0,40}not", re.IGNORECASE
)
_TOO_FAST = re.compile(r"rate[_ -]?limit|too[_ -]?many[_ -]?requests|throttl", re.IGNORECASE)
_SLASH = r"(?:\\?/)"
_LINK_LOGIN = re.compile(rf"(https?:{_SLASH}{{2}})[^/\s\"'<>@]*@", re.IGNORECASE)
_LINK_SECRETS = re.compile(rf"(https?:{_SLASH}{{2}}[^\s\"'<>?#]*)[?#][^\s\"'<>]*", re.IGNORECASE)
"""A link's query may be its signature. In JSON its slashes may be escaped."""
_MESSAGE_LIMIT = 500
"""Characters of a provider's message that are kept in `error_message`; the whole of it stays in the raw response."""


def read_answer(status: int, raw: bytes) -> Answer:
    """Read an answer's status and body (already decompressed)."""
    text = raw.decode("utf-8", errors="replace")
    if 300 <= status < 400:
        message = "the provider redirects elsewhere, which is not followed with the token; check base_url"
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
        return _read_missing(status, text, body, code, message)
    elif status in _NOT_FOUND_BY_TEXT and _NOT_FOUND.search(said):
        verdict = Verdict.NOT_FOUND
    elif status in _RETRIED:
        verdict = Verdict.RETRY
    return Answer(verdict, text, body, code or f"http_{status}", _shortened(message or text))


def _read_missing(status: int, text: str, body: Any, code: str | None, message: str | None) -> Answer:
    """A 404 or 410: of the task where the gateway itself says so, else of the path, which says nothing of the task."""
    said = f"{code or ''} {message or ''}"
    is_the_gateways = isinstance(body, dict) or not text.strip()
    code, told = code or f"http_{status}", _shortened(message or text)
    if is_the_gateways and (_NOT_FOUND.search(said) or not _WRONG_PATH.search(said)):
        return Answer(Verdict.NOT_FOUND, text, body, code, told)
    return Answer(Verdict.REFUSED, text, body, code, f"no such path at the provider, check LUMA_BASE_URL: {told}")


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


def _shortened(message: str) -> str:
    message = _LINK_SECRETS.sub(r"\1", _LINK_LOGIN.sub(r"\1", " ".join(message.split())))
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 1] + "…"


def _json_type(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
