"""The audit's room: objects of the listing that no manifest has, until they are looked at again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice

from luma_pipeline.media.keys import KeyTemplate
from luma_pipeline.s3 import ListedObject

__all__ = ["Orphans"]

_BYTES_IN_MEMORY = 4 * 1024 * 1024
_AT_ONCE = 500


class Orphans:
    """Keys that look like ours and are in no manifest, in memory up to 4 MiB, then in a temporary file.

    Left out are objects below a folder whose name begins with an underscore, such as the gallery, keys that the
    template cannot give, and objects that were written after `since`, which may belong to a run at work.
    """

    def __init__(self, template: KeyTemplate, since: datetime) -> None:
        self._template = template
        self._since = since
        self._file = tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY)  # noqa: SIM115  (`close` closes it)
        self.young = 0
        self.of_others = 0
        self.candidates = 0

    def take(self, objects: Iterable[ListedObject]) -> None:
        """Take in objects whose keys no row of a manifest has."""
        for each in objects:
            if each.key[len(self._template.prefix) :].startswith("_") or not self._template.is_ours(each.key):
                self.of_others += 1
            elif each.modified_at is not None and each.modified_at > self._since:
                self.young += 1
            else:
                self._file.write(json.dumps(each.key).encode() + b"\n")
                self.candidates += 1

    def __iter__(self) -> Iterator[list[str]]:
        """The keys of the candidates, 500 at a time."""
        self._file.seek(0)
        lines = iter(self._file)
        while some := [json.loads(line) for line in islice(lines, _AT_ONCE)]:
            yield some

    def close(self) -> None:
        """Free the keys."""
        self._file.close()
