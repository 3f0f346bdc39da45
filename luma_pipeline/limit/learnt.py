"""The limit room: what a run has learnt of a limit, for the next run."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["LearntLimit", "LearntLimitError", "account_name"]

_VERSION = 1
_ROUNDS = 100_000
"""So that a short token cannot be guessed from its digest at a useful speed. It takes about 30 ms once a run."""
_LARGEST_RATE = 1e6
_TRUSTED = timedelta(days=7)
_KEPT = timedelta(days=60)
_CLOCKS_DIFFER = timedelta(minutes=1)
"""The most by which clocks of two machines are taken to be right."""
_SETTLED = timedelta(hours=1)
"""Runs at the same time each find their share alone. A lower limit is believed when the higher one is older."""
_REFRESHED = timedelta(days=1)
_NOTICEABLE = 0.1


class LearntLimitError(ValueError):
    """What is kept of a limit cannot be used. The message says why, and quotes nothing of it but numbers and times."""


def account_name(host: str, token: str) -> str:
    """The name of an account, of which neither the host nor the token can be told: 16 hexadecimal digits.

    >>> account_name("api.example.com", "secret")
    '39c8ed0f0d03bc0d'
    """
    digest = hashlib.pbkdf2_hmac("sha256", token.encode(), f"luma_pipeline\0{host.lower()}".encode(), _ROUNDS)
    return digest.hex()[:16]


@dataclass(frozen=True)
class LearntLimit:
    """A provider's limit as a run has met it.

    requests_per_second: What was let through in the long run.
    burst: Requests that were let through at once at the beginning.
    retry_after_seconds: What refusals named at last; None if they named nothing.
    learnt_at: When (aware).

    >>> now = datetime(2026, 1, 1, tzinfo=UTC)
    >>> LearntLimit.parse(LearntLimit(100.0, 10.0, 1.0, now).to_json(), now).requests_per_second
    100.0
    """

    requests_per_second: float
    burst: float
    retry_after_seconds: float | None
    learnt_at: datetime

    def to_json(self) -> bytes:
        """As it is kept."""
        return json.dumps(
            {
                "version": _VERSION,
                "requests_per_second": round(self.requests_per_second, 3),
                "burst": round(self.burst, 1),
                "retry_after_seconds": self.retry_after_seconds,
                "learnt_at": self.learnt_at.astimezone(UTC).isoformat(timespec="seconds"),
            }
        ).encode()

    @classmethod
    def parse(cls, content: bytes, now: datetime) -> LearntLimit:
        """Read what `to_json` wrote. `now` is aware.

        Raises LearntLimitError for anything that no run could have learnt by now.
        """
        try:
            fields = json.loads(content)
            version, retry_after = fields["version"], fields["retry_after_seconds"]
            learnt = cls(
                float(fields["requests_per_second"]),
                float(fields["burst"]),
                None if retry_after is None else float(retry_after),
                datetime.fromisoformat(fields["learnt_at"]),
            )
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise LearntLimitError(f"it cannot be read ({type(error).__name__})") from None
        if version != _VERSION:
            raise LearntLimitError(f"it was written by version {version!r:.20} of this package's files")
        learnt._check(now)
        return learnt

    def _check(self, now: datetime) -> None:
        for name, value in (("requests_per_second", self.requests_per_second), ("burst", self.burst)):
            if not 0.0 < value <= _LARGEST_RATE:
                raise LearntLimitError(f"{name} is {value:g}, which is no limit")
        if self.retry_after_seconds is not None and not 0.0 <= self.retry_after_seconds < math.inf:
            raise LearntLimitError(f"retry_after_seconds is {self.retry_after_seconds:g}, which is no time")
        if self.learnt_at.tzinfo is None:
            raise LearntLimitError("learnt_at has no time zone")
        ahead = self.learnt_at - now
        if ahead > _CLOCKS_DIFFER:
            raise LearntLimitError(
                f"it was learnt {ahead.total_seconds() / 60:,.0f} minutes from now: the clocks of two machines differ"
            )

    def is_trusted(self, now: datetime) -> bool:
        """Whether a run may begin at this limit: it was learnt within a week."""
        return now - self.learnt_at <= _TRUSTED

    def is_forgotten(self, now: datetime) -> bool:
        """Whether it is so old that it tells nothing."""
        return now - self.learnt_at > _KEPT

    def merged(self, earlier: LearntLimit | None) -> LearntLimit | None:
        """What is to be kept in place of `earlier`; None if that may stay.

        A run beside others meets only its share. So a lower limit counts when the higher one is an hour old.
        """
        if earlier is None:
            return self
        age = self.learnt_at - earlier.learnt_at
        change = self.requests_per_second / earlier.requests_per_second - 1.0
        if change > _NOTICEABLE:
            return self
        if change < -_NOTICEABLE:
            return self if age > _SETTLED else None
        return self if age > _REFRESHED else None
