"""The HTTP room: what a `Content-Encoding` header says of a body."""

from __future__ import annotations

import zlib

from luma_pipeline.http.errors import BodyTooLargeError, TransportCode, TransportError

_GZIP = {"gzip", "x-gzip"}
# Words that servers write there although the body is as it is: the coding that is none (RFC 9110), those of
# Content-Transfer-Encoding and Transfer-Encoding, that of an upload to S3 which the object keeps, and no value.
_NO_COMPRESSION = frozenset(
    {"identity", "none", "no", "null", "nil", "undefined", "off", "false", "default", "plain", "raw", "text", "ascii"}
    | {"binary", "7bit", "8bit", "chunked", "aws-chunked"}
)


def compressions(content_encoding: str | None) -> list[str]:
    """The compressions that the header names, in the order they were applied; charsets and the like are none.

    >>> compressions("gzip"), compressions("UTF-8"), compressions("aws-chunked, gzip"), compressions(None)
    (['gzip'], [], ['gzip'], [])
    """
    if not content_encoding:
        return []
    words = (word.strip(" \t\"'").lower() for word in content_encoding.split(","))
    return [word for word in words if word and word not in _NO_COMPRESSION and not _is_charset(word)]


def _is_charset(word: str) -> bool:
    try:
        # Python's codecs are no charsets only ("zip", "base64"): a charset turns text into bytes.
        return "a".encode(word) is not None
    except (LookupError, ValueError):
        return False


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
