"""The provider's room: what an HTTP answer means, whatever gateway, proxy or version it comes from.

An error is read by a table: its status, code and words give an action, a failure class and a hint. The shapes of error
bodies are those of gateways of the provider's family: an object under `error`; `code` and `message` beside a null
`data`, at any status; `detail`; and HTML from a proxy in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from luma_pipeline.luma.circuit_breaker import FailureClass

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


class ResponseAction(str, Enum):
    """What the client does with an answer."""

    ACCEPT = "accept"
    """Take what came: the task is resolved."""
    NOT_FOUND = "not_found"
    """The task's row is `not_found`."""
    INVALID = "invalid"
    """The task's row is `invalid_response`: another request will not change it."""
    FAIL = "fail"
    """The task's row is `request_failed`: another request will not change it."""
    FAIL_ACCESS = "fail_access"
    """As FAIL, for a refusal that does not say of what. The run stops when the first tasks are all refused like that,
    and none has succeeded with this token."""
    RETRY = "retry"
    """A fault that passes: ask again."""
    RETRY_UNREADABLE = "retry_unreadable"
    """Ask again; if that does not help, the row is `invalid_response`."""
    THROTTLE = "throttle"
    """Too fast: slow down, then ask again."""
    STOP_TOKEN = "stop_token"  # noqa: S105 - an action, not a password
    """The token is refused: the run stops, without a further question."""
    CONFIRM_TOKEN = "confirm_token"  # noqa: S105
    """The token seems refused: the run stops if a task that has succeeded with this token is refused now too."""
    CONFIRM_QUOTA = "confirm_quota"
    """The account seems out of quota: confirmed in the same way."""


class Body(str, Enum):
    """What a body looks like: the gateway speaks JSON, and what stands in front of it does not."""

    JSON = "json"
    PAGE = "page"
    """A web page."""
    TEXT = "text"
    """Neither, or nothing at all."""


@dataclass(frozen=True)
class Response:
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


class Said(NamedTuple):
    """What the rules read of an error. `words` is the code and the message, `task_id` the ID that was asked for."""

    status: int
    body: Body
    code: str
    words: str
    task_id: str


_Test = Callable[[Said], object]


@dataclass(frozen=True)
class ResponseRule:
    """A row of the table: an answer with one of these statuses and bodies that passes `test` means `action`.

    None stands for any. `hint` is added to the message: what is wrong, or what to do.
    """

    action: ResponseAction
    statuses: frozenset[int] | None = None
    bodies: frozenset[Body] | None = None
    test: _Test | None = None
    failure: FailureClass = FailureClass.TASK
    hint: str = ""

    def matches(self, said: Said) -> bool:
        """Whether the rule is about this answer."""
        return (
            (self.statuses is None or said.status in self.statuses)
            and (self.bodies is None or said.body in self.bodies)
            and (self.test is None or bool(self.test(said)))
        )


@dataclass(frozen=True)
class AnswerShape:
    """Where a provider's answer has its parts.

    An answer may come in wrappers: objects or lists of one under `inner_keys`, with the task's ID and a status word of
    the gateway's own. `statuses` are the open or failed states that a wrapper's word (upper case) stands for where the
    inner answer is missing. `done_statuses` promise an inner answer.
    """

    state_key: str = "state"
    id_key: str = "id"
    inner_keys: tuple[str, ...] = ("data",)
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


def words_match(pattern: str) -> _Test:
    """A test of the code and the message."""
    search = re.compile(pattern, re.IGNORECASE).search
    return lambda said: search(said.words)


def code_matches(pattern: str) -> _Test:
    """A test of the code alone."""
    search = re.compile(pattern, re.IGNORECASE).search
    return lambda said: search(said.code)


def _both(first: _Test, second: _Test) -> _Test:
    return lambda said: first(said) and second(said)


# What a status of 404 means depends on who says it. A gateway says that it has no such task; it says the same of a
# model or a channel of its own that may be back in a minute, and it, or whatever stands at a wrong address, says it of
# the path. Only the first of them is about the task.
_NO_TASK = re.compile(
    r"(?<![a-z/])(task|generation|job|record)s?[ _:-]*(with )?(id[ :=]*([\w.:-]{1,128} )?)?"
    r"""(["'`][^"'`]{1,128}["'`] ?|[\w.:-]{0,64}?[0-9][\w.:-]{0,64} ?)?"""
    r"(was |is |could )?(not[ _-]?(be )?(found|exist)|do(es)?(n't| not)[ _]exist)"
    r"|(no such|unknown|(can ?not|can't|could not|couldn't) find( (the|a|this))?) (task|generation|job|record)"
    r"|任务不存在",
    re.IGNORECASE,
)
_PATH = re.compile(
    r"(?<![a-z])(url|uri|path|route|endpoint|page)s?(?![a-z])|cannot (get|post) |^\W*(404\W+)?not found\W*$",
    re.IGNORECASE,
)
"""The last is how frameworks answer for a path that they do not know."""
_ANOTHER_THING = re.compile(r"(?<![a-z])(model|channel|host|upstream)s?(?![a-z])", re.IGNORECASE)
_TASK = re.compile(
    r"(?<![a-z])(this|that|the|requested|another user'?s) ([a-z]+ )?(task|job|record|generation|video)(?![a-z])"
    r"(?! (model|api|service|feature|endpoint|plan|quota))"
    r"|(?<![a-z])(task|job|record|generation)[ _:-]*(id)?[ _:='\"-]*(access|forbidden|denied|owner|permission|private"
    r"|not[ _](yours|allowed|permitted|accessible|owned|visible)|(is |was )?(owned|created|belongs?))"
    r"|(belongs to|owned by) (another|a different|someone|other)|not the owner|[该此这]个?任务",
    re.IGNORECASE,
)
"""A refusal of one task."""
_SHORTEST_QUOTED_ID = 6
"""An ID as short as a word is found in any sentence."""


def _is_no_task(said: Said) -> bool:
    found = _NO_TASK.search(said.words)
    if found is None:
        return False
    # What comes behind may be the task's ID, which is any text.
    before = said.words[: found.start()]
    return not _ANOTHER_THING.search(before) and not _PATH.search(before)


def _is_no_path(said: Said) -> bool:
    return not said.words.strip() or bool(_PATH.search(said.words))


def _is_about_task(said: Said) -> bool:
    quotes_id = len(said.task_id) >= _SHORTEST_QUOTED_ID and said.task_id in said.words
    return quotes_id or bool(_TASK.search(said.words))


def _says_nothing(said: Said) -> bool:
    return not said.words.strip()


def _status(*statuses: int) -> frozenset[int]:
    return frozenset(statuses)


_SUCCESS = frozenset(range(200, 300))
_REFUSALS = _status(401, 402, 403)
_NOT_JSON = frozenset({Body.PAGE, Body.TEXT})
_PAGE = frozenset({Body.PAGE})
_IN_FRONT_STATUSES = _status(401, 402, 403, 405, 406, 407, 409, 418, 421, 423, 451)
"""With a page: refusals by a firewall or proxy. Other statuses of 4xx concern the path or the request itself."""
_IN_FRONT = (
    "not in the gateway's own words: a firewall or proxy in front of it, or an access rule of its host, refuses this "
    "machine for now"
)
_WRONG_PATH = "the path may be wrong: check LUMA_BASE_URL"
_QUOTA = r"quota|balance(?!r)|billing|credit|arrear|payment|funds?|额度|余额"
_REFUSED_KEY = (
    r"(invalid|incorrect|wrong|unknown|missing|expired|revoked|disabled)[_ ]?((api|access)[_ ]?)?(key|token)(?![a-z])"
    r"|(token|(api|access)[_ ]?key)[_ ](is |was |has )?(been )?(expired|invalid|revoked|disabled|not valid)"
    r"|not[_ ]authenticated|authentication[_ ](failed|required)|无效的令牌"
)
_ACCOUNT = r"token|(api|access)[_ ]?key|credential|account|authenticat|令牌|\*\*\*"
"""Three stars stand for the token itself, which some gateways quote."""

RULES: tuple[ResponseRule, ...] = (
    # The token and the account. What names the task is the task's own, unless a code says that the token is bad.
    ResponseRule(ResponseAction.CONFIRM_TOKEN, _status(401, 403), frozenset({Body.JSON}), words_match(_REFUSED_KEY)),
    ResponseRule(ResponseAction.CONFIRM_TOKEN, _SUCCESS, None, code_matches(_REFUSED_KEY)),
    ResponseRule(ResponseAction.RETRY, _IN_FRONT_STATUSES, _PAGE, None, FailureClass.PROVIDER, _IN_FRONT),
    ResponseRule(ResponseAction.RETRY, _status(403, 407), _NOT_JSON, None, FailureClass.PROVIDER, _IN_FRONT),
    ResponseRule(ResponseAction.FAIL, _REFUSALS, None, _is_about_task),
    ResponseRule(ResponseAction.FAIL, None, None, _both(code_matches(_QUOTA), _is_about_task)),
    ResponseRule(ResponseAction.CONFIRM_QUOTA, _status(402)),
    ResponseRule(ResponseAction.CONFIRM_QUOTA, None, None, code_matches(_QUOTA)),
    ResponseRule(ResponseAction.CONFIRM_QUOTA, _status(403), None, words_match(_QUOTA)),
    ResponseRule(ResponseAction.STOP_TOKEN, _status(401), None, _says_nothing),
    ResponseRule(ResponseAction.CONFIRM_TOKEN, _status(401)),
    ResponseRule(ResponseAction.CONFIRM_TOKEN, _SUCCESS, None, code_matches(r"unauthori[sz]ed")),
    ResponseRule(ResponseAction.CONFIRM_TOKEN, _status(403), None, words_match(_ACCOUNT)),
    ResponseRule(ResponseAction.FAIL_ACCESS, _status(403)),
    # The rate.
    ResponseRule(ResponseAction.THROTTLE, _status(429)),
    ResponseRule(
        ResponseAction.THROTTLE, None, None, code_matches(r"rate[_ -]?limit|too[_ -]?many[_ -]?requests|throttl")
    ),
    # The task is not there. Not found is what the gateway says of the task; of anything else it is a failed request,
    # which is not final.
    ResponseRule(ResponseAction.NOT_FOUND, _status(404, 410), None, _is_no_task),
    ResponseRule(ResponseAction.FAIL, _status(404, 410), None, _is_no_path, hint=_WRONG_PATH),
    ResponseRule(ResponseAction.FAIL, _status(404, 410), None, lambda said: _ANOTHER_THING.search(said.words)),
    ResponseRule(ResponseAction.NOT_FOUND, _status(404, 410)),
    # Gateways of the family say it at these statuses too.
    ResponseRule(ResponseAction.NOT_FOUND, _SUCCESS | {400, 500}, None, _is_no_task),
    # Faults that pass.
    ResponseRule(
        ResponseAction.RETRY, _status(502, 503, 504, *range(520, 600)), _NOT_JSON, None, FailureClass.PROVIDER
    ),
    ResponseRule(ResponseAction.RETRY, _status(502, 503, 504, *range(520, 600)), None, None, FailureClass.BUSY),
    ResponseRule(ResponseAction.RETRY, _status(408, 425, *range(500, 600))),
    # Any other error.
    ResponseRule(ResponseAction.FAIL),
)
"""What errors mean. The first rule that matches counts."""

_MESSAGE_LIMIT = 500
"""Characters of a provider's message that are kept in `error_message`; the whole of it stays in the raw response."""
_USER_INFO = re.compile(r"""(?<=//)[^\s"<>/?#]*@|(?<=/\\/)[^\s"<>/?#]*@""")
_QUERY = re.compile(
    r"""(://|:\\/\\/)([^\s"<>?#]*)[?#][^\s"<>]*|(\?[\w.%-]+=|%3F|\bX-(Amz|Goog)-)[^\s"<>]*""", re.IGNORECASE
)
_NO_ERROR_CODES = frozenset({"success", "ok", "200", "0"})
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
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return _read_text(status, text, rules, task_id)
    if status < 300 and reads is not None and isinstance(body, dict):
        generation, said_id = read_generation(body, shape, task_id)
        if generation is not None:
            return Response(ResponseAction.ACCEPT, text, body, generation=reads(generation), task_id=said_id)
    code, message = _error_of(body) if isinstance(body, dict) else (None, None)
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
    body: Mapping[str, Any], shape: AnswerShape, task_id: str = ""
) -> tuple[Mapping[str, Any] | None, str | None]:
    """The generation in an answer or in an entry of a batch, out of any wrappers, and the task ID that it names.

    (None, None) where there is no generation. Where the wrapper has a status word and no inner answer, the word becomes
    the state. A word that promises an inner answer makes none.
    """
    found: Mapping[str, Any] | None = None
    wrapper: Mapping[str, Any] = {}
    node: Mapping[str, Any] | None = body
    while node is not None:
        if node.get(shape.state_key) not in _EMPTY:
            found = node
        elif shape.status_key in node and shape.wrapper_id_key in node:
            wrapper = node
        node = _inner(node, shape, task_id)
    named = id_text(wrapper.get(shape.wrapper_id_key))
    if found is not None:
        return found, id_text(found.get(shape.id_key)) or named
    status = wrapper.get(shape.status_key)
    if not isinstance(status, str) or not status or status.upper() in shape.done_statuses:
        return None, None
    if _error_of(body) != (None, None):
        return None, None
    # The wrapper's word is the gateway's own record of the task.
    state = shape.statuses.get(status.upper(), status)
    reason = wrapper.get(shape.reason_key) if state == "failed" else None
    return {shape.id_key: named, shape.state_key: state, "failure_reason": reason}, named


def _inner(node: Mapping[str, Any], shape: AnswerShape, task_id: str) -> Mapping[str, Any] | None:
    """What a wrapper holds: an object, the only entry of a list, or the entry of the task."""
    for key in shape.inner_keys:
        value = node.get(key)
        if isinstance(value, list):
            entries = [entry for entry in value if isinstance(entry, dict)]
            of_task = [entry for entry in entries if id_text(entry.get(shape.wrapper_id_key)) == task_id]
            value = (of_task or entries)[0] if len(of_task or entries) == 1 else None
        if isinstance(value, dict):
            return value
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
    body = Body.PAGE if text.lstrip("\ufeff \t\r\n").startswith("<") else Body.TEXT
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
    code, message = _text(body.get("code")), _text(body.get("message"))
    return (None, None) if code is not None and code.lower() in _NO_ERROR_CODES else (code, message)


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
