"""Where a person's browser finds an object or a folder of a bucket."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from luma_pipeline.s3.client import endpoint_and_region

__all__ = ["ObjectLinks"]

_NO_CONSOLE = ("cn-", "us-gov-", "us-iso")
"""Regions that AWS's console does not know at its usual address."""


@dataclass(frozen=True)
class ObjectLinks:
    """Links to the objects of a bucket. None of them is signed.

    In AWS it is the object's page in the console, which opens private objects too. On another store it is the object's
    own address, which shows it only where everybody may read it.

    >>> ObjectLinks("films").of("a/b c.mp4")
    'https://s3.console.aws.amazon.com/s3/object/films?prefix=a/b%20c.mp4'
    >>> ObjectLinks("films", "http://localhost:9000").of("a/b c.mp4")
    'http://localhost:9000/films/a/b%20c.mp4'
    >>> ObjectLinks("films").of_folder("/a")
    'https://s3.console.aws.amazon.com/s3/buckets/films?prefix=a/'
    """

    bucket: str
    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def by_settings(cls, bucket: str) -> ObjectLinks:
        """The links that hold with the settings that boto3 reads."""
        return cls(bucket, *endpoint_and_region())

    def of(self, key: str) -> str | None:
        """The link to an object; None where there is no address that would work."""
        return self._to(key, "object")

    def of_folder(self, prefix: str) -> str | None:
        """The link to all that is below a prefix; None where there is no address that would work."""
        return self._to("".join(f"{part}/" for part in prefix.split("/") if part), "buckets")

    def _to(self, key: str, page: str) -> str | None:
        bucket, key = quote(self.bucket, safe=""), quote(key)
        if self.endpoint is not None:
            return f"{self.endpoint}/{bucket}/{key}"
        if (self.region or "").startswith(_NO_CONSOLE):
            return None
        return f"https://s3.console.aws.amazon.com/s3/{page}/{bucket}?prefix={key}"
