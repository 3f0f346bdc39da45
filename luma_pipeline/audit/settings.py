"""The audit's room: what an audit is told, as frozen data classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from luma_pipeline.errors import ConfigurationError
from luma_pipeline.luma import ProviderConfig
from luma_pipeline.media import DEFAULT_LINK_PREFERENCE, LinkSource, TransferConfig

__all__ = ["AuditOptionError", "AuditOptions", "AuditSettings"]


class AuditOptionError(ConfigurationError, ValueError):
    """An option of an audit cannot be; the message names it."""


@dataclass(frozen=True)
class AuditSettings:
    """What is compared, and how.

    data_url: Root of the datasets.
    videos: The bucket of the videos, and how they are copied.
    read_within_days: Days in which every object is read once; 0: each audit reads all; None: none is read.
    young_seconds: Age up to which what is in no manifest may belong to a run at work.
    provider, link_preference: Where repairs ask for links. None: nothing can be repaired.
    mark_of: The mark of a partition by its folder, under which its verdict is kept; None where the folder is no
        partition of today's settings.
    """

    data_url: str
    videos: TransferConfig
    read_within_days: float | None = 30.0
    young_seconds: float = 24 * 3600.0
    provider: ProviderConfig | None = None
    link_preference: Sequence[LinkSource] = DEFAULT_LINK_PREFERENCE
    mark_of: Callable[[str], str | None] = lambda folder: folder.partition("=")[2]


@dataclass(frozen=True)
class AuditOptions:
    """What one audit does differently.

    repair: Copy again what is wrong, where the provider still has it.
    delete_orphans: Delete objects of ours that no manifest has.
    read_all: Read every object, whenever its turn is.
    first, last: Dates such as 2024-12-24: only the partitions from the one to the other, both included. Orphans are not
        looked for then.

    Raises:
        AuditOptionError: A date is none, or the last is before the first.
    """

    repair: bool = False
    delete_orphans: bool = False
    read_all: bool = False
    first: str | None = None
    last: str | None = None

    def __post_init__(self) -> None:
        for name in ("first", "last"):
            text = getattr(self, name)
            try:
                is_date = text is None or f"{datetime.strptime(text, '%Y-%m-%d'):%Y-%m-%d}" == text  # noqa: DTZ007
            except ValueError:
                is_date = False
            if not is_date:
                raise AuditOptionError(f"the option {name} must be a date such as 2024-12-24, not {text!r}")
        if self.first is not None and self.last is not None and self.last < self.first:
            raise AuditOptionError(f"the option last ({self.last}) is before the option first ({self.first})")
        if self.is_limited and self.delete_orphans:
            raise AuditOptionError("delete_orphans needs all partitions: leave first and last out")

    @property
    def is_limited(self) -> bool:
        """Whether some partitions are left out."""
        return self.first is not None or self.last is not None

    def takes(self, folder: str) -> bool:
        """Whether a partition is looked at, by its folder, such as `date=2024-12-24` or `month=2024-12`."""
        date = folder.rpartition("=")[2][:10]
        return (self.first is None or date >= self.first[: len(date)]) and (
            self.last is None or date <= self.last[: len(date)]
        )
