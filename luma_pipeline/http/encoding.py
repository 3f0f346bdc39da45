"""The HTTP room: what a `Content-Encoding` header says of a body."""

from __future__ import annotations

import zlib

from luma_pipeline.http.errors import BodyTooLargeError, TransportCode, TransportError

_GZIP = {"gzip", "x-gzip"}
_COMPRESSIONS = (
    _GZIP
    | {"deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi", "pack200-gzip"}
    | {*("bzip2", "x-bzip2", "lzma", "xz", "x-xz", "lz4", "snappy", "x-snappy-framed", "zip", "x-zip")}
)
"""IANA's content codings, and those that servers use without asking. Any other word names no compression: servers write
charsets, media types and words of Content-Transfer-Encoding there, over bytes that are as they are. What is compressed
in a way that nobody knows fails as what it is not: no JSON, no media."""


def compressions(content_encoding: str | None) -> list[str]:
    """The compressions that the header names, in the order they were applied; charsets and the like are none.

    >>> compressions("gzip"), compressions("UTF-8"), compressions("aws-chunked, gzip"), compressions(None)
    (['gzip'], [], ['gzip'], [])
    """
    words = (word.partition(";")[0].strip(" \t\"'").lower() for word in (content_encoding or "").split(","))
    return [word for word in words if word in _COMPRESSIONS]


def decompressed(body: bytes, content_encoding: str | None, limit: int) -> bytes:
    """The body without its compressions (gzip and deflate), at most `limit` bytes at each step.

    Raises TransportError for another compression and a broken one, BodyTooLargeError above the limit.
    """
    for name in reversed(compressions(content_encoding)):
        body = _inflated(body, name, limit)
    return body


def _inflated(body: bytes, name: str, limit: int) -> bytes:
    if name not in {*_GZIP, "deflate"}:
        raise TransportError(TransportCode.BAD_ENCODING, "the answer is compressed in a way that was not asked for")
    decompressor = zlib.decompressobj(wbits=47 if name in _GZIP else zlib.MAX_WBITS)
    failure = ""
    try:
        plain = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        failure, plain = str(error), b""
    if failure:
        raise TransportError(TransportCode.BAD_ENCODING, f"the compressed answer cannot be read: {failure}")
    if len(plain) > limit:
        raise BodyTooLargeError(f"the decompressed answer has more than {limit} bytes")
    if not decompressor.eof:
        raise TransportError(TransportCode.CUT_BODY, "the compressed answer broke off")
    return plain
