"""Where a person's browser finds an object of the bucket."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

__all__ = ["object_link"]

# The console at that address knows neither China nor the US government's regions.
_OTHER_CONSOLES = (".us-gov-", ".us-iso")


def object_link(endpoint_url: str, bucket: str, key: str) -> str:
    """The object's page in AWS's console, which opens private objects too; on another store the object's own address.

    A store shows an object at its own address only if everybody may read it. No link is signed.

    >>> object_link("https://s3.eu-west-1.amazonaws.com", "films", "a/b c.mp4")
    'https://s3.console.aws.amazon.com/s3/object/films?prefix=a/b%20c.mp4'
    >>> object_link("http://localhost:9000", "films", "a/b c.mp4")
    'http://localhost:9000/films/a/b%20c.mp4'
    """
    parts = urlsplit(endpoint_url)
    host = parts.hostname or ""
    if host.endswith(".amazonaws.com") and not any(region in host for region in _OTHER_CONSOLES):
        return f"https://s3.console.aws.amazon.com/s3/object/{quote(bucket, safe='')}?prefix={quote(key)}"
    # Without what stands before an @, which may be a password.
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    return f"{address}/{quote(bucket, safe='')}/{quote(key)}"
