"""A store of two buckets in memory, in a process of its own, that counts its requests.

`videos` is made up: as many objects as are told, which nobody has to write. `lake` keeps what is written to it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import urlopen

__all__ = ["OBJECT_BYTES", "etag_of", "key_of", "simulated_store"]

OBJECT_BYTES = 5
_DATE = "2024-12-24T10:00:00.000Z"
_MODIFIED = "Tue, 24 Dec 2024 10:00:00 GMT"
_COUNTS = "/-counts"


def key_of(task_id: str) -> str:
    """The key of a task's video."""
    return f"{task_id}/video.mp4"


def etag_of(key: str) -> str:
    """The ETag of a made up object."""
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()


def _label(key: str) -> dict[str, str]:
    """What our objects say of themselves."""
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    label = {"task-id": key.partition("/")[0], "artifact": "video", "sha256": sha256}
    return {f"x-amz-meta-luma-{name}": value for name, value in label.items()}


class _Store:
    def __init__(self, task_ids: list[str], others: int) -> None:
        self.videos = sorted(
            [*map(key_of, task_ids), *(f"{etag_of(str(number))}/other.bin" for number in range(others))]
        )
        self.known = set(self.videos)
        self.lake: dict[str, tuple[bytes, str, str]] = {}
        self.counts: Counter[str] = Counter()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: _Store

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        bucket, _, key = unquote(url.path[1:]).partition("/")
        if url.path == _COUNTS:
            self._answer(200, json.dumps(self.store.counts).encode())
            self.store.counts.clear()
        elif "list-type" in query:
            self._count("LIST")
            self._list(bucket, query)
        elif "uploads" in query:
            self._count("LIST uploads")
            self._answer(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")
        elif "uploadId" in query:
            self._count("multipart")
            self._answer(404, b"<Error><Code>NoSuchUpload</Code></Error>")
        else:
            self._count(self.command)
            self._object(bucket, key)

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urlsplit(self.path)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        self.store.counts["bytes up"] += len(body)
        if "partNumber" in url.query:
            self._count("multipart")
        else:
            self._count("PUT")
            self.store.lake[unquote(url.path[1:]).partition("/")[2]] = (
                body,
                etag,
                formatdate(usegmt=True),
            )
        self._answer(200, b"", {"ETag": f'"{etag}"'})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._count("multipart")
        self._answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")

    def do_DELETE(self) -> None:
        url = urlsplit(self.path)
        self._count("multipart" if "uploadId" in url.query else "DELETE")
        self.store.lake.pop(unquote(url.path[1:]).partition("/")[2], None)
        self._answer(204, b"")

    def _object(self, bucket: str, key: str) -> None:
        if bucket == "videos":
            found = (b"12345", etag_of(key), _MODIFIED) if key in self.store.known else None
        else:
            found = self.store.lake.get(key)
        if found is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        body, etag, modified = found
        headers = {"ETag": f'"{etag}"', "Last-Modified": modified}
        if bucket == "videos":
            headers |= _label(key)
        wanted = self.headers.get("range", "")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(body) - int(last))
            end = min(int(last) + 1, len(body)) if first and last else len(body)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
            body = body[start:end]
        self._answer(206 if wanted else 200, body, headers)

    def _list(self, bucket: str, query: Mapping[str, str]) -> None:
        prefix, most = query.get("prefix", ""), int(query.get("max-keys", 1000))
        after = query.get("continuation-token") or query.get("start-after", "")
        keys = self.store.videos if bucket == "videos" else sorted(self.store.lake)
        start = bisect_right(keys, max(after, prefix[:-1] + chr(ord(prefix[-1]) - 1) if prefix else ""))
        page = [key for key in keys[start : start + most + 1] if key.startswith(prefix)]
        is_cut, page = len(page) > most, page[:most]
        items = "".join(self._item(bucket, key) for key in page)
        token = f"<NextContinuationToken>{quote(page[-1])}</NextContinuationToken>" if is_cut else ""
        self._answer(
            200,
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name><KeyCount>'
            f"{len(page)}</KeyCount><MaxKeys>{most}</MaxKeys><IsTruncated>{str(is_cut).lower()}</IsTruncated>{items}"
            f"{token}</ListBucketResult>".encode(),
        )

    def _item(self, bucket: str, key: str) -> str:
        size, etag = (OBJECT_BYTES, etag_of(key)) if bucket == "videos" else (len(self.store.lake[key][0]), "0")
        return (
            f"<Contents><Key>{key}</Key><LastModified>{_DATE}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
            f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )

    def _count(self, kind: str) -> None:
        self.store.counts[kind] += 1

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.store.counts["bytes down"] += len(body)
        self.send_response(status)
        for name, value in {"x-amz-request-id": "1", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _serve(task_ids: list[str], others: int, port: Connection) -> None:
    handler = type("Handler", (_Handler,), {"store": _Store(task_ids, others)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    port.send(server.server_port)
    server.serve_forever()


class SimulatedStore:
    """The store as its user sees it."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"

    def counts(self) -> dict[str, int]:
        """Requests by their kind, and bytes, since the last call."""
        with urlopen(self.endpoint + _COUNTS) as answer:
            found: dict[str, int] = json.loads(answer.read())
        return found


@contextmanager
def simulated_store(task_ids: list[str], others: int) -> Iterator[SimulatedStore]:
    """A store with the videos of these tasks and so many other objects."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(task_ids, others, theirs), daemon=True)
    process.start()
    try:
        yield SimulatedStore(ours.recv())
    finally:
        process.kill()
        process.join()
