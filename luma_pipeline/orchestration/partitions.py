"""Partitions: how submitted times fall into windows, and what a window's folder is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import cache, lru_cache
from urllib.parse import quote
from zoneinfo import available_timezones

import dagster as dg
from dagster import TimeWindow, TimeWindowPartitionsDefinition

from luma_pipeline.engine.partition import mark_of
from luma_pipeline.engine.windows import Frequency, folder_of_window
from luma_pipeline.source.times import nearest_zones

__all__ = [
    "Frequency",
    "folder_of",
    "marks_of_folders",
    "partition_keys_of_folders",
    "partitions_definition",
    "periods_before",
    "window_of",
]


def partitions_definition(frequency: Frequency, start: str, timezone_name: str) -> TimeWindowPartitionsDefinition:
    """The windows from the one that `start` (a date, YYYY-MM-DD) lies in up to the open one.

    `end_offset=1` makes the unfinished window a partition. Dagster would begin with the first week or month that
    starts after `start` and so leave the days before it in no partition; here the first window holds the start.

    Raises:
        ValueError: `start` is no date, or there is no such time zone.
    """
    _check_timezone(timezone_name)
    try:
        first = datetime.strptime(start, "%Y-%m-%d")  # noqa: DTZ007 - a date; Dagster adds the zone
    except ValueError:
        raise ValueError(f"LUMA_PARTITIONS_START must be a date such as 2024-12-24, not {start!r}") from None
    if frequency is Frequency.HOURLY:
        return dg.HourlyPartitionsDefinition(f"{first:%Y-%m-%d}-00:00", timezone=timezone_name, end_offset=1)
    if frequency is Frequency.DAILY:
        return dg.DailyPartitionsDefinition(f"{first:%Y-%m-%d}", timezone=timezone_name, end_offset=1)
    if frequency is Frequency.WEEKLY:
        monday = first - timedelta(days=first.weekday())
        return dg.WeeklyPartitionsDefinition(f"{monday:%Y-%m-%d}", timezone=timezone_name, end_offset=1, day_offset=1)
    return dg.MonthlyPartitionsDefinition(f"{first:%Y-%m}-01", timezone=timezone_name, end_offset=1)


def _check_timezone(name: str) -> None:
    if name in available_timezones():
        return
    near = nearest_zones(name)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; such as UTC or Europe/Berlin"
    raise ValueError(f"LUMA_PARTITIONS_TIMEZONE: there is no time zone {name!r}{hint}")


def folder_of(definition: dg.PartitionsDefinition[str], partition_key: str) -> str:
    """The Hive folder of a partition, named after its window's start."""
    if not isinstance(definition, TimeWindowPartitionsDefinition):
        return f"partition={quote(partition_key, safe='')}"
    return folder_of_window(_frequency(definition), definition.time_window_for_partition_key(partition_key).start)


def partition_keys_of_folders(definition: dg.PartitionsDefinition[str]) -> Callable[[str], str | None]:
    """Gives the key of a partition by its folder; None for a folder of other settings. All are worked out at once."""

    @cache
    def keys() -> Mapping[str, str]:
        return {folder_of(definition, key): key for key in definition.get_partition_keys()}

    return lambda folder: keys().get(folder)


def marks_of_folders(key_of: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Gives the mark of a partition by its folder, out of its key."""
    return lambda folder: None if (key := key_of(folder)) is None else mark_of(key)


def _frequency(definition: TimeWindowPartitionsDefinition) -> Frequency:
    if isinstance(definition, dg.HourlyPartitionsDefinition):
        return Frequency.HOURLY
    if isinstance(definition, dg.WeeklyPartitionsDefinition):
        return Frequency.WEEKLY
    if isinstance(definition, dg.MonthlyPartitionsDefinition):
        return Frequency.MONTHLY
    return Frequency.DAILY


@lru_cache(maxsize=32_768)
def window_of(definition: TimeWindowPartitionsDefinition, partition_key: str) -> TimeWindow | None:
    """The window of a partition, be it still to come; None if the key is none of this definition's.

    The definition's own `has_partition_key` works out its first and its last partition for every key: 0.3 s for a
    thousand of them, against 0.05 s here. They are remembered, since each tick asks for the same.
    """
    try:
        window = definition.time_window_for_partition_key(partition_key)
    except (ValueError, OverflowError):
        return None
    start = window.start.timestamp()
    if start < definition.start_timestamp or definition.get_partition_key_for_timestamp(start) != partition_key:
        return None
    return window


def periods_before(definition: TimeWindowPartitionsDefinition, window: TimeWindow) -> Iterator[tuple[str, TimeWindow]]:
    """The keys and windows before a window, the latest first, back to the first partition.

    One by one, for whoever needs the latest few: all keys of ten years of hours take half a second.
    """
    earlier = definition.get_prev_partition_window(window.start, respect_bounds=False)
    while earlier is not None and earlier.start.timestamp() >= definition.start_timestamp:
        yield definition.get_partition_key_for_timestamp(earlier.start.timestamp()), earlier
        earlier = definition.get_prev_partition_window(earlier.start, respect_bounds=False)
