"""One listing of the bucket that serves a whole run, in 16 bytes an object."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from luma_pipeline.media.keys import KeyTemplate
from luma_pipeline.media.store import Bucket

__all__ = ["BucketListing"]

_KEYS_FOR_A_LOOK = 64
"""In CPU, so many keys of a page cost as much as one object that is looked for by itself (0.9 ms)."""
_KEYS_FOR_A_PAGE = 50
"""What a page costs beside its keys."""
_SMALLEST_PAGE, _LARGEST_PAGE = 100, 1000


class BucketListing:
    """What one listing of all keys below the prefix says. Thread-safe.

    Listing goes on as objects are wanted: as far as it would cost to look for each of them by itself. So a run pays at
    most twice the cheaper of the two ways, and a few objects never list a bucket of millions. Until it is at its end
    it tells nothing, since stores order keys in different ways.

    An object is remembered as two hashes of 8 bytes: of key, size and ETag, and of its key up to the extension.
    """

    def __init__(self, bucket: Bucket, template: KeyTemplate) -> None:
        self._bucket = bucket
        self._template = template
        self._lock = threading.Lock()
        self._allowance = 0
        self._token: str | None = None
        self._listed = array("q"), array("q")
        self._objects: npt.NDArray[np.int64] | None = None
        self._bases: npt.NDArray[np.int64] | None = None
        self._is_endless = False

    def reaches_end(self, wanted: int) -> bool:
        """Whether all is listed, after going on for the sake of so many more objects. Raises BucketError, CopyError."""
        with self._lock:
            self._allowance += wanted * _KEYS_FOR_A_LOOK
            while self._objects is None and not self._is_endless:
                most = min(_LARGEST_PAGE, self._allowance - _KEYS_FOR_A_PAGE)
                if most < _SMALLEST_PAGE:
                    return False
                self._allowance -= _KEYS_FOR_A_PAGE + self._list(most)
            return self._objects is not None

    def has(self, objects: Iterable[tuple[str | None, int | None, str | None]]) -> npt.NDArray[np.bool_]:
        """For each key, size in bytes and ETag whether the listing has that very object. Only when all is listed."""
        return _among(self._objects, (hash(each) for each in objects))

    def may_have(self, bases: Iterable[str]) -> npt.NDArray[np.bool_]:
        """For each base of a key (`KeyTemplate.key_base`) whether it has objects. Only when all is listed."""
        return _among(self._bases, map(hash, bases))

    def _list(self, most: int) -> int:
        page = self._bucket.list_page(self._template.prefix, most, self._token)
        objects, bases = self._listed
        for listed in page.objects:
            base = self._template.key_base_of(listed.key)
            objects.append(hash((listed.key, listed.size_bytes, listed.etag)))
            if base is not None:
                bases.append(hash(base))
        if page.is_last:
            self._objects, self._bases = (np.sort(np.array(listed, dtype=np.int64)) for listed in self._listed)
            self._listed = array("q"), array("q")
        elif page.token in {None, self._token}:
            self._is_endless = True
        self._token = page.token
        return len(page.objects)


def _among(known: npt.NDArray[np.int64] | None, hashes: Iterable[int]) -> npt.NDArray[np.bool_]:
    if known is None:
        raise AssertionError("the bucket is not listed to its end")
    asked = np.fromiter(hashes, dtype=np.int64)
    if not len(known):
        return np.zeros(len(asked), dtype=bool)
    found = known[np.minimum(np.searchsorted(known, asked), len(known) - 1)]
    return np.asarray(found == asked)
