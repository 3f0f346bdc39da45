"""The provider's room: the table of what errors mean, by status, kind of body, code and words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from luma_pipeline.luma.circuit_breaker import FailureClass

__all__ = ["RULES", "Body", "ResponseAction", "ResponseRule", "Said", "code_matches", "words_match"]


class ResponseAction(StrEnum):
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


class Body(StrEnum):
    """What a body looks like: the gateway speaks JSON, and what stands in front of it does not."""

    JSON = "json"
    PAGE = "page"
    """A web page."""
    TEXT = "text"
    """Neither."""
    EMPTY = "empty"


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


def _status(*statuses: int) -> frozenset[int]:
    return frozenset(statuses)


_SUCCESS = frozenset(range(200, 300))
_REFUSALS = _status(401, 402, 403)
_NOT_JSON = frozenset({Body.PAGE, Body.TEXT, Body.EMPTY})
_PAGE = frozenset({Body.PAGE})
_EMPTY_BODY = frozenset({Body.EMPTY})
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
    ResponseRule(
        ResponseAction.CONFIRM_TOKEN, _SUCCESS, None, _both(code_matches("^40[13]$"), words_match(_REFUSED_KEY))
    ),
    ResponseRule(ResponseAction.RETRY, _IN_FRONT_STATUSES, _PAGE, None, FailureClass.PROVIDER, _IN_FRONT),
    ResponseRule(ResponseAction.RETRY, _status(403, 407), _NOT_JSON, None, FailureClass.PROVIDER, _IN_FRONT),
    ResponseRule(ResponseAction.FAIL, _REFUSALS, None, _is_about_task),
    ResponseRule(ResponseAction.FAIL, None, None, _both(code_matches(_QUOTA), _is_about_task)),
    ResponseRule(ResponseAction.CONFIRM_QUOTA, _status(402)),
    ResponseRule(ResponseAction.CONFIRM_QUOTA, None, None, code_matches(_QUOTA)),
    ResponseRule(ResponseAction.CONFIRM_QUOTA, _status(403), None, words_match(_QUOTA)),
    ResponseRule(ResponseAction.STOP_TOKEN, _status(401), _EMPTY_BODY),
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
