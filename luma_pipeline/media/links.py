"""Links to media: when they die, and how a dead one is renewed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from luma_pipeline.http.redact import redact_link

__all__ = ["Link", "expires_at", "redact_link"]

_EARLIEST_EXPIRY = 10**9
"""September 2001, in seconds since the epoch: older than any link there is."""


def expires_at(url: str) -> datetime | None:
    """When a signed link dies by its own query (aware, UTC); None when it does not say.

    Read are `X-Amz-Date` with `X-Amz-Expires` (AWS Signature Version 4 and stores that speak it), Google's
    `X-Goog-Date` with `X-Goog-Expires`, and `Expires` in seconds since the epoch (AWS Signature Version 2, CloudFront);
    a smaller number under that name is a duration or a flag of the host's own, and says nothing.
    Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html and
    https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-creating-signed-url-canned-policy.html
    """
    try:
        query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        for vendor in ("amz", "goog"):
            if f"x-{vendor}-date" in query and f"x-{vendor}-expires" in query:
                signed = datetime.strptime(query[f"x-{vendor}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return signed + timedelta(seconds=int(query[f"x-{vendor}-expires"]))
        expires = int(query.get("expires", 0))
        if expires >= _EARLIEST_EXPIRY:
            return datetime.fromtimestamp(expires, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


class Link:
    """The link of one artifact, which can be renewed once.

    `better` is asked before the first use for a link to be taken instead. What it and `refresh` raise passes through: a
    provider that refuses every question stops more than one artifact. `failure` is what they raised.
    """

    def __init__(
        self,
        url: str,
        refresh: Callable[[], str | None] | None = None,
        better: Callable[[], str | None] | None = None,
    ) -> None:
        self.url = url
        self.failure: Exception | None = None
        self._refresh = refresh
        self._better = better

    def __repr__(self) -> str:
        return f"Link({redact_link(self.url)!r})"

    def ensure_url(self) -> bool:
        """Ask for the better link, if there is one to ask for, or for any, if there is none; whether there is one."""
        better, self._better = self._better, None
        self.url = self._answer(better) or self.url
        return bool(self.url) or self.renew()

    @property
    def is_past_expiry(self) -> bool:
        """Whether its own query says that it is dead."""
        expiry = expires_at(self.url)
        return expiry is not None and expiry <= datetime.now(UTC)

    def renew(self) -> bool:
        """Ask for a living link; False when there is none, or when the one time this is done has been."""
        refresh, self._refresh = self._refresh, None
        fresh = self._answer(refresh)
        if not fresh or fresh == self.url:
            return False
        self.url = fresh
        return True

    def _answer(self, question: Callable[[], str | None] | None) -> str:
        try:
            return ((question() if question is not None else None) or "").strip()
        except Exception as error:
            self.failure = error
            raise
