"""What the bucket already holds, found with as few requests as the keys allow."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from luma_pipeline.media.artifacts import Artifact
from luma_pipeline.media.keys import KeyTemplate
from luma_pipeline.media.store import Bucket

_LARGEST_PAGE = 1000
_SMALLEST_PAGE = 16
_STEMS_PER_THREAD = 200
_MOST_THREADS = 8


class Presence:
    """Listings of the keys that artifacts can have.

    `load` walks the wanted keys in their order: a page of a listing that starts at the first answers for every wanted
    key it passes, and the next page starts at the first it did not reach. Where the wanted keys lie close together that
    is a request for up to a thousand of them, and where they are strewn among millions of others it is one each, so it
    never costs more than looking each up by itself, nor more than listing the whole prefix.

    A store whose listing is not in the order of bytes ends the walk; the keys not reached are looked up singly.
    """

    def __init__(self, bucket: Bucket, template: KeyTemplate) -> None:
        self._bucket = bucket
        self._template = template
        self._lock = threading.Lock()
        self._sizes: dict[str, dict[str, int]] = {}

    def load(self, wanted: Iterable[tuple[str, Artifact]]) -> int:
        """Look for many artifacts at once; how many objects were found. Each answer serves one `sizes`."""
        stems = sorted({self._template.stem(task_id, artifact) for task_id, artifact in wanted})
        threads = max(1, min(_MOST_THREADS, len(stems) // _STEMS_PER_THREAD))
        share = -(-len(stems) // threads)
        with ThreadPoolExecutor(threads, thread_name_prefix="media-list") as pool:
            found = list(pool.map(self._walk, (stems[at : at + share] for at in range(0, len(stems), share or 1))))
        with self._lock:
            for part in found:
                self._sizes.update(part)
        return sum(len(sizes) for part in found for sizes in part.values())

    def sizes(self, task_id: str, artifact: Artifact) -> dict[str, int]:
        """The keys in the bucket that may be this artifact's, with their sizes in bytes."""
        stem = self._template.stem(task_id, artifact)
        with self._lock:
            known = self._sizes.pop(stem, None)
        if known is not None:
            return known
        page, _ = self._bucket.list_keys(stem, "", _SMALLEST_PAGE)
        return {key: size for key, size in page if self._template.stem_of(key) == stem}

    def _walk(self, stems: list[str]) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        at, most = 0, _LARGEST_PAGE
        while at < len(stems):
            # Without its last character the stem sorts just before itself, which alone may be the whole key.
            page, more = self._bucket.list_keys(self._template.prefix, stems[at][:-1], most)
            keys = [key for key, _ in page]
            if any(left >= right for left, right in pairwise(keys)):
                return found
            reached = self._reached(stems, at, keys[-1]) if more and keys else len(stems)
            for stem in stems[at:reached]:
                found[stem] = {}
            for key, size in page:
                sizes = found.get(self._template.stem_of(key) or "")
                if sizes is not None:
                    sizes[key] = size
            most = max(_SMALLEST_PAGE, most // 4) if reached - at <= 1 else _LARGEST_PAGE
            at = max(reached, at + 1)
        return found

    @staticmethod
    def _reached(stems: list[str], at: int, last: str) -> int:
        """The first stem about which a page that ends with `last` does not say everything."""
        reached = bisect_right(stems, last, at)
        return reached - 1 if reached > at and last.startswith(stems[reached - 1]) else reached
