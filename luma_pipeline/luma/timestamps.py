"""The provider's room: reading times written as text, as the provider and source tables write them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

__all__ = ["parse_timestamp"]

_TIMESTAMP = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"([T ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(:(?P<second>[0-9]{2})([.,](?P<fraction>[0-9]{1,12}))?)?"
    r" ?(?P<zone>Z|z|UTC|(?P<sign>[+-])(?P<hours>[0-9]{2}):?(?P<minutes>[0-9]{2})?)?)?"
)
_PARTS = ("year", "month", "day", "hour", "minute", "second")


def parse_timestamp(text: str) -> datetime | None:
    """The time an ISO 8601 text says: aware (UTC) where it has an offset, naive where it has none, None if unreadable.

    Any number of digits of a second is read and cut to microseconds. `datetime.fromisoformat` reads neither `Z` nor
    three or nine digits on every Python this package supports.
    """
    match = _TIMESTAMP.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[part] or 0) for part in _PARTS)
    microsecond = int((match["fraction"] or "").ljust(6, "0")[:6])
    try:
        time = datetime(year, month, day, hour, minute, second, microsecond)  # noqa: DTZ001 - the zone follows
        if match["zone"] is None:
            return time
        if match["sign"]:
            offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"] or 0))
            time = time - offset if match["sign"] == "+" else time + offset
    except (ValueError, OverflowError):
        return None
    return time.replace(tzinfo=timezone.utc)
