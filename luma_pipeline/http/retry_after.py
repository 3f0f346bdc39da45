"""The HTTP room: when to try again."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# More digits are no number of seconds, and more than some thousands Python refuses to read.
_SECONDS = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds to wait by a `Retry-After` header in either of its forms (RFC 9110, section 10.2.3).

    None where the header is missing or cannot be read. A date in the past is 0.

    >>> retry_after_seconds("120")
    120.0
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def full_jitter(failures: int, base_seconds: float, longest_seconds: float) -> float:
    """A random pause in seconds before the next try: anything up to a bound that doubles with each failure.

    Full jitter spreads best what failed together:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    longest = min(longest_seconds, base_seconds * 2 ** min(failures, 64))
    return random.uniform(0.0, longest)  # noqa: S311  (jitter, no secret)
