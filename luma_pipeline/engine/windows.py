"""The engine: how windows of time are named, as partition keys and as Hive folders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

__all__ = ["Frequency", "folder_of_window", "frequency_of", "key_of_window"]


class Frequency(StrEnum):
    """How long a partition's window is. Weeks begin on Monday, as in ISO 8601."""

    HOURLY = "hourly"
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"

    def __str__(self) -> str:
        return self.value


_MARGIN = timedelta(hours=2)
"""By so much a change of the clock can lengthen or shorten a window."""
_LENGTHS = (
    (Frequency.HOURLY, timedelta(minutes=30), timedelta(hours=2)),
    (Frequency.DAILY, timedelta(days=1) - _MARGIN, timedelta(days=1) + _MARGIN),
    (Frequency.WEEKLY, timedelta(days=7) - _MARGIN, timedelta(days=7) + _MARGIN),
    (Frequency.MONTHLY, timedelta(days=28) - _MARGIN, timedelta(days=31) + _MARGIN),
)


def frequency_of(start: datetime, end: datetime) -> Frequency:
    """The frequency of the window [start, end), two aware times of one zone.

    >>> frequency_of(datetime(2024, 12, 1, tzinfo=timezone.utc), datetime(2025, 1, 1, tzinfo=timezone.utc)).value
    'monthly'

    Raises:
        ValueError: A time has no zone, or the window is no whole hour, day, week or month of that zone.
    """
    if start.tzinfo is None or end.tzinfo is None:
        raise ValueError("start and end must have a time zone, such as datetime(2024, 12, 24, tzinfo=timezone.utc)")
    # In UTC: Python takes the difference of two times of one zone by the clock on the wall.
    length = end.astimezone(UTC) - start.astimezone(UTC)
    for frequency, shortest, longest in _LENGTHS:
        if shortest <= length <= longest and _is_first_of(frequency, start) and _is_first_of(frequency, end):
            return frequency
    raise ValueError(
        f"{start.isoformat()} to {end.isoformat()} is no partition: a window is a whole hour, day, week (from Monday) "
        f"or month in the time zone of its start"
    )


def _is_first_of(frequency: Frequency, at: datetime) -> bool:
    if frequency is Frequency.HOURLY:
        return (at.minute, at.second, at.microsecond) == (0, 0, 0)
    # Where the clock skips midnight, the day begins later.
    before = (at.astimezone(UTC) - timedelta(microseconds=1)).astimezone(at.tzinfo)
    if before.date() == at.date():
        return False
    if frequency is Frequency.WEEKLY:
        return at.weekday() == 0
    return frequency is Frequency.DAILY or at.day == 1


def folder_of_window(frequency: Frequency, start: datetime) -> str:
    """The Hive folder of the window that begins at `start`, an aware time.

    Hours are named in UTC: the local hour that comes twice in autumn would name two partitions alike, and a key has
    colons, which do not belong into the names of folders.

    >>> folder_of_window(Frequency.HOURLY, datetime(2024, 12, 24, 18, tzinfo=timezone.utc))
    'hour=2024-12-24T1800Z'
    """
    if frequency is Frequency.HOURLY:
        return f"hour={start.astimezone(UTC):%Y-%m-%dT%H%MZ}"
    if frequency is Frequency.WEEKLY:
        return f"week={start:%Y-%m-%d}"
    if frequency is Frequency.MONTHLY:
        return f"month={start:%Y-%m}"
    return f"date={start:%Y-%m-%d}"


def key_of_window(frequency: Frequency, start: datetime) -> str:
    """The partition key of the window that begins at `start`, as Dagster has it.

    >>> key_of_window(Frequency.DAILY, datetime(2024, 12, 24, tzinfo=timezone.utc))
    '2024-12-24'
    """
    if frequency is not Frequency.HOURLY:
        return f"{start:%Y-%m-%d}"
    is_second_of_two = start.utcoffset() != start.replace(fold=0).utcoffset()
    return f"{start:%Y-%m-%d-%H:%M}" + (f"{start:%z}" if is_second_of_two else "")
