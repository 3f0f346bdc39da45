"""The index of what the bucket already holds, with as few listings as the keys allow.

Two listings save requests: one of the whole prefix, where many artifacts are asked about, and pages that go on to the
keys of others. Measured (2 cores, SeaweedFS, new videos with random IDs, median of 4): without the second one, an
object of 1 MB costs 4.8 ms of CPU in place of 3.8, one of 6 MB 10.0 ms in place of 9.3.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from itertools import islice, pairwise

from luma_pipeline.media.artifacts import Artifact
from luma_pipeline.media.bucket_listing import BucketListing
from luma_pipeline.media.errors import CopyError, ErrorCode
from luma_pipeline.media.keys import KeyTemplate
from luma_pipeline.media.store import Bucket
from luma_pipeline.s3 import ListedObject, ListedPage

_LARGEST_PAGE = 1000
_SMALLEST_PAGE = 16
_MOST_LOADED = 100_000
_MOST_PAGES_OF_ONE_ARTIFACT = 100

# Looking ahead: in CPU, 32 keys more in an answer cost half of what a request does.
_KEYS_FOR_A_REQUEST = 32
_SMALLEST_ADVANCE = 4
_FIRST_TRIALS = 64
_LOOKS_BETWEEN_TRIALS = 16
_MOST_REMEMBERED_KEYS = 10_000
# Other runs write too. What they do meanwhile, the condition of the write finds out.
_REMEMBERED_SECONDS = 60.0

Objects = dict[str, ListedObject]
"""By key."""

_END = "\U0010ffff"


class ObjectIndex:
    """Listings of the keys that artifacts can have.

    `load` asks about many artifacts before their turn, by the run's one listing (`BucketListing`), if that is cheaper.

    `objects` looks for one artifact. Its page may go on to others' keys and is remembered for them for a minute. How
    far it goes depends on how often that has served, so that scattered keys cost a request each, and no more.

    A page says nothing of keys that a store with another order than that of bytes may have put elsewhere. These are
    looked up singly, and so is everything once a page is out of order, and on a store without `start-after`.
    """

    def __init__(self, bucket: Bucket, template: KeyTemplate, listing: BucketListing) -> None:
        self._bucket = bucket
        self._template = template
        self._listing = listing
        self._lock = threading.Lock()
        self._absent: dict[str, None] = {}
        self._memory = _Memory()
        self._looks_ahead = template.has_extension  # else a base is a key, and a page after it would leave it out

    def load(self, asked: Iterable[tuple[str, Artifact]]) -> None:
        """Find out which of many artifacts have no object. Each answer serves one `objects`."""
        bases = [self._template.key_base(task_id, artifact) for task_id, artifact in asked]
        if not self._listing.reaches_end(len(bases)):
            return
        absent = [base for base, is_there in zip(bases, self._listing.may_have(bases), strict=True) if not is_there]
        with self._lock:
            self._absent.update(dict.fromkeys(absent))
            # What was looked for and is not copied in the end would be kept for ever.
            for base in tuple(islice(self._absent, max(0, len(self._absent) - _MOST_LOADED))):
                del self._absent[base]

    def objects(self, task_id: str, artifact: Artifact) -> Objects:
        """The objects in the bucket that may be this artifact's. Each answer serves once."""
        base = self._template.key_base(task_id, artifact)
        with self._lock:
            if base in self._absent:
                del self._absent[base]
                return {}
            found = self._memory.find(base)
            advance = self._memory.advance() if found is None and self._looks_ahead else 0
        if advance:
            found = self._look_ahead(base, advance)
        return self._list_one(base) if found is None else found

    def _look_ahead(self, base: str, most: int) -> Objects | None:
        """Answer by a page that begins at the base, and remember the page; None when it does not answer."""
        page = self._bucket.list_after(self._template.prefix, base, most)
        if page is None or not _is_usable(page, base):
            self._looks_ahead = False
            return None
        span = _Span(base, page, self._by_base(page))
        found = span.answer(base)
        if found is not None:
            with self._lock:
                self._memory.keep(span)
        return found

    def _list_one(self, base: str) -> Objects:
        found: Objects = {}
        token: str | None = None
        for _ in range(_MOST_PAGES_OF_ONE_ARTIFACT):
            page = self._bucket.list_page(base, _SMALLEST_PAGE, token)
            found.update(self._by_base(page).get(base, {}))
            # Without extension the base is the key, and the first of all that begin with it.
            if page.is_last or (page.objects and not self._template.has_extension):
                return found
            if page.token is None:
                break
            token = page.token
        raise CopyError(ErrorCode.STORE_ERROR, f"the store's listing of {base} does not end")

    def _by_base(self, page: ListedPage) -> dict[str, Objects]:
        found: dict[str, Objects] = {}
        for listed in page.objects:
            base = self._template.key_base_of(listed.key)
            if base is not None:
                found.setdefault(base, {})[listed.key] = listed
        return found


def _is_usable(page: ListedPage, start_after: str) -> bool:
    """Whether a page is in the order of bytes and begins where it was told to.

    One without keys that is not the last is allowed in S3, and tells nothing.
    """
    keys = [start_after, *(listed.key for listed in page.objects)]
    return all(left < right for left, right in pairwise(keys)) and bool(page.objects or page.is_last)


def _is_within(start: str, base: str, end: str) -> bool:
    """Whether a base lies between two keys for every store: in the order of bytes, in that of a store that keeps keys
    in folders, as SeaweedFS does, where `a/x` comes before `a-b/x`, and in one that does not know capitals.
    """
    return (
        start <= base < end
        and start.split("/") <= base.split("/") < end.split("/")
        and start.lower() <= base.lower() < end.lower()
    )


class _Span:
    """What a page tells of the bases from `start` up to `end`."""

    def __init__(self, start: str, page: ListedPage, found: dict[str, Objects]) -> None:
        self.start = start
        self.end = _END if page.is_last else page.objects[-1].key
        self.keys = len(page.objects)
        self.taken_at = time.monotonic()
        self._found = found
        self.answered: set[str] = set()

    def reaches(self, base: str) -> bool:
        """Whether all that the base can have lies before the page's end."""
        return base < self.end and not self.end.startswith(base)

    def answer(self, base: str) -> Objects | None:
        """The objects of a base, once; None where the page may not tell all of them."""
        is_told = self.reaches(base) and (base == self.start or _is_within(self.start, base, self.end))
        if not is_told or base in self.answered:
            return None
        self.answered.add(base)
        return self._found.get(base, {})


class _Memory:
    """The spans of the last minute; the oldest go first when they hold too many keys. To be used under a lock."""

    def __init__(self) -> None:
        self._spans: dict[str, _Span] = {}
        self._starts: list[str] = []
        self._keys = 0
        self._credit = 0
        self._unpaid = 0

    def advance(self) -> int:
        """How many keys the next page may have; 0 where looking ahead does not pay, but for a trial now and then."""
        if self._credit >= _SMALLEST_ADVANCE:
            return self._credit
        self._unpaid += 1
        is_trial = self._unpaid <= _FIRST_TRIALS or self._unpaid % _LOOKS_BETWEEN_TRIALS == 0
        return _SMALLEST_ADVANCE if is_trial else 0

    def find(self, base: str) -> Objects | None:
        """The objects of a base, if a span tells of it."""
        self._drop_while(lambda oldest: oldest.taken_at < time.monotonic() - _REMEMBERED_SECONDS)
        at = bisect_right(self._starts, base)
        found = self._spans[self._starts[at - 1]].answer(base) if at else None
        if found is not None:
            self._credit = min(self._credit + _KEYS_FOR_A_REQUEST, _LARGEST_PAGE)
        return found

    def keep(self, span: _Span) -> None:
        """Remember a span in place of those that begin within it."""
        first, last = bisect_left(self._starts, span.start), bisect_left(self._starts, span.end)
        for start in self._starts[first:last]:
            span.answered |= self._spans[start].answered
            self._drop(start)
        self._starts.insert(first, span.start)
        self._spans[span.start] = span
        self._keys += span.keys
        self._credit = max(0, self._credit - span.keys)
        self._drop_while(lambda _: self._keys > _MOST_REMEMBERED_KEYS)

    def _drop_while(self, is_too_much: Callable[[_Span], bool]) -> None:
        while self._spans and is_too_much(oldest := next(iter(self._spans.values()))):
            self._drop(oldest.start)

    def _drop(self, start: str) -> None:
        self._keys -= self._spans.pop(start).keys
        del self._starts[bisect_left(self._starts, start)]
