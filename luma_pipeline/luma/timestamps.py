"""The provider's room: reading times written as text, as the provider and source tables write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

__all__ = ["parse_timestamp"]

_FRACTION_AND_ZONE = (
    r"([.,](?P<fraction>[0-9]{1,12}))?)?"
    r" ?(?P<zone>Z|z|UTC|(?P<sign>[+-])(?P<hours>[01][0-9]|2[0-3]):?(?P<minutes>[0-5][0-9])?)?)?"
)
_FORMS = (
    re.compile(
        r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
        r"([Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(:(?P<second>[0-9]{2})" + _FRACTION_AND_ZONE
    ),
    # The basic format: no hyphens, no colons.
    re.compile(
        r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})"
        r"([Tt ](?P<hour>[0-9]{2})(?P<minute>[0-9]{2})((?P<second>[0-9]{2})" + _FRACTION_AND_ZONE
    ),
)
_USUAL_LENGTHS = (19, 26, 23)
"""Of a date and a clock in whole seconds, with microseconds, with milliseconds."""
_USUAL_ZONES = ("", "Z", "+00:00")
_PARTS = ("year", "month", "day", "hour", "minute", "second")


def parse_timestamp(text: str) -> datetime | None:
    """The time an ISO 8601 text says: aware (UTC) where it has an offset, naive where it has none, None if unreadable.

    Any number of digits of a second is read and cut to microseconds. 24:00 is the next day's beginning, and a leap
    second, which Python's clock has not, the beginning of the next. `datetime.fromisoformat` reads neither `Z` nor
    three or nine digits on every Python this package supports.
    """
    text = text.strip()
    return _usual(text) or _of_any_form(text)


def _usual(text: str) -> datetime | None:
    """A time in one of the forms that nearly all are in: at a tenth of the cost. None for every other text."""
    # `fromisoformat` takes other separators too.
    if len(text) < _USUAL_LENGTHS[0] or text[13] != ":" or text[16] != ":" or text[19:20] not in ("", ".", "Z", "+"):
        return None
    if text[4] != "-" or text[7] != "-" or text[10] not in "Tt ":
        return None
    for length in _USUAL_LENGTHS:
        if len(text) >= length and text[length:] in _USUAL_ZONES:
            try:
                time = datetime.fromisoformat(text[:length])
            except ValueError:
                return None
            if time.tzinfo is not None:
                return None
            return time.replace(tzinfo=UTC) if len(text) > length else time
    return None


def _of_any_form(text: str) -> datetime | None:
    match = _FORMS[0].fullmatch(text) or _FORMS[1].fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[part] or 0) for part in _PARTS)
    microsecond = int((match["fraction"] or "").ljust(6, "0")[:6])
    if minute > 59 or second > 60 or (hour, minute, second, microsecond) > (24, 0, 0, 0):
        return None
    # The digits after a leap second are those of a second that is over.
    clock = timedelta(hours=hour, minutes=minute, seconds=second, microseconds=0 if second == 60 else microsecond)
    try:
        time = datetime(year, month, day) + clock  # noqa: DTZ001 - the zone follows
        if match["zone"] is None:
            return time
        if match["sign"]:
            offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"] or 0))
            time = time - offset if match["sign"] == "+" else time + offset
    except (ValueError, OverflowError):
        return None
    return time.replace(tzinfo=UTC)
