"""The gallery's room: brings the pages of partitions, and the index over them, into the bucket of the videos."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any

from luma_pipeline import __version__
from luma_pipeline.dataset import Forgotten, PartitionFile, StaleVersionError
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.gallery.entries import COUNTS, Cover, Entry, read_entry
from luma_pipeline.gallery.links import relative_link
from luma_pipeline.gallery.pages import (
    PageOfTasks,
    look_digest,
    month_of,
    page_name,
    render_index,
    render_partition,
    title_of,
)
from luma_pipeline.gallery.settings import GallerySettings, GallerySettingsError
from luma_pipeline.gallery.tasks import GalleryFile, GalleryTask, TaskStatus, read_tasks
from luma_pipeline.media import TransferConfig
from luma_pipeline.s3 import (
    ListedObject,
    NotDeleted,
    ObjectArchivedError,
    ObjectStore,
    S3DeniedError,
    delete_versions,
    list_versions,
    make_client,
)
from luma_pipeline.s3.objects import is_md5_of

__all__ = ["FOLDER", "Gallery", "GalleryError", "PartitionPages"]

FOLDER = "_gallery"
"""Everything of the gallery lies in this folder below the bucket's prefix."""

_ENTRIES = "_entries"
_INDEX = "index.html"
_HTML, _JSON = "text/html; charset=utf-8", "application/json"
_MOST_COVERS = 4
_MOST_COVERED = 500
"""Partitions, the latest, that the index shows with pictures: more than a year of days."""
_ROUNDS = 8
_LARGEST_EMBEDDED_BYTES = 24 * 1024
_MOST_EMBEDDED = 150
_EMBEDDED_BYTES = 1536 * 1024
"""Bounds of what one page holds of pictures: 2 MiB as text."""
_PICTURE_TYPES = {"image/jpeg", "image/png", "image/webp", "image/gif", "image/avif"}
_PAGE = re.compile(r"page-\d+\.html")
_STATE = '<script type="application/json" id="data">'

_log = logging.getLogger(__name__)


class GalleryError(LumaPipelineError):
    """The gallery cannot be written; the message says why and what to do."""


@dataclass(frozen=True)
class PartitionPages:
    """What was done for one partition. `written` counts pages that were written; none where nothing had changed."""

    folder: str
    key: str
    counts: Mapping[str, int]
    pages: int
    written: int
    size_bytes: int


@dataclass
class _Tally:
    """What one pass over a partition's tasks tells."""

    digest: Any = field(default_factory=hashlib.sha256)
    counts: Counter[str] = field(default_factory=Counter)
    covers: list[Cover] = field(default_factory=list)


class Gallery:
    """The pages below the prefix of one bucket. To be used in a `with` block, by one thread.

    Two runs may work at once, on the same partition too: a page is written whole, and the one that writes the index
    last has seen the entries of both.

    Raises GallerySettingsError where a video could have the key of a page.
    """

    def __init__(self, videos: TransferConfig, settings: GallerySettings) -> None:
        self._videos = videos
        self._settings = settings
        self._template = videos.template
        self._root = f"{self._template.prefix}{FOLDER}/"
        # A page that is read rarely and cheaply may be hours away: pages stay in the bucket's own class.
        self._arguments = {
            name: value for name, value in videos.objects.as_arguments().items() if name != "StorageClass"
        }
        self._store = ObjectStore(
            make_client(max_connections=2, timeouts=(5.0, 20.0), max_attempts=3),
            videos.bucket,
            permissions=videos.objects.needed_permissions,
        )

    def __enter__(self) -> Gallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._store.client.close()

    @property
    def index_key(self) -> str:
        """The key of the index."""
        return self._root + _INDEX

    def page_key(self, folder: str, number: int = 1) -> str:
        """The key of a partition's page."""
        return f"{self._root}{folder}/{page_name(number)}"

    # -- a partition --------------------------------------------------------------------------------------------------

    def write_partition(
        self,
        folder: str,
        generations: PartitionFile,
        videos: PartitionFile,
        forgotten: Forgotten = Forgotten(),  # noqa: B008 - frozen
    ) -> PartitionPages:
        """Write the pages of a partition, and its entry for the index, unless they are there and show the same.

        Tasks that are `forgotten` are not shown.

        Raises:
            StaleVersionError: Other runs kept replacing the datasets.
            S3Error: The bucket cannot be read or written.
            UnreadableFileError: A file of the datasets is damaged.
        """
        for attempt in range(_ROUNDS):
            try:
                return self._write_partition(folder, lambda: read_tasks(generations, videos, forgotten))
            except StaleVersionError as error:
                if attempt + 1 == _ROUNDS:
                    raise
                _log.info("%s; it is read again", error)
        raise AssertionError("unreachable")

    def _write_partition(self, folder: str, tasks: Callable[[], Iterator[GalleryTask]]) -> PartitionPages:
        tally = self._tally(tasks())
        digest = tally.digest.hexdigest()
        counts = {name: tally.counts[name] for name in COUNTS}
        pages = max(1, -(-counts["tasks"] // self._settings.page_size))
        there = {listed.key: listed for listed in self._store.list_all(f"{self._root}{folder}/")}
        keys = {page_name(number): self.page_key(folder, number) for number in range(1, pages + 1)}
        before = self._entry(folder)
        etags = {name: there[key].etag if key in there else None for name, key in keys.items()}
        if before is not None and before.digest == digest and before.pages == etags and None not in etags.values():
            size = sum(there[key].size_bytes for key in keys.values())
            return PartitionPages(folder, self.page_key(folder), counts, pages, 0, size)
        written = size = 0
        for number, group in enumerate(_groups(tasks(), self._settings.page_size), 1):
            # What a concurrent run has added since the count stays for the next run.
            if number > pages:
                break
            key = self.page_key(folder, number)
            first = (number - 1) * self._settings.page_size + 1
            page = PageOfTasks(number, pages, first, group, self._embedded(group))
            body = render_partition(
                folder,
                self._settings.title,
                counts,
                page,
                lambda file, key=key: self._link(key, file),  # type: ignore[misc]
                relative_link(key, self.index_key),
            )
            etags[page_name(number)], is_new = self._put(key, body, _HTML, there.get(key))
            written += is_new
            size += len(body)
        self._put(self._entry_key(folder), Entry(folder, digest, etags, counts, tuple(tally.covers)).as_json(), _JSON)
        for key in there.keys() - set(keys.values()):
            if _PAGE.fullmatch(key.rpartition("/")[2]) and not self._template.is_ours(key):
                self._store.delete(key)
        return PartitionPages(folder, self.page_key(folder), counts, pages, written, size)

    def _tally(self, tasks: Iterable[GalleryTask]) -> _Tally:
        tally = _Tally()
        settings = self._settings
        look = (
            __version__,
            look_digest(),
            settings.title,
            settings.embed_thumbnails,
            settings.page_size,
            self._videos.bucket,
        )
        tally.digest.update(repr(look).encode())
        for task in tasks:
            tally.digest.update(repr(task).encode("utf-8", "surrogatepass"))
            tally.counts["tasks"] += 1
            tally.counts[task.status.value] += 1
            if task.status is TaskStatus.READY and task.video is not None:
                tally.counts["bytes"] += task.video.size_bytes or 0
                shown = task.picture or task.video
                if len(tally.covers) < _MOST_COVERS and shown.key is not None and shown.bucket == self._videos.bucket:
                    tally.covers.append(Cover(shown.key, shown is task.video))
        return tally

    def _link(self, page_key: str, file: GalleryFile) -> str | None:
        if file.key is None or file.bucket != self._videos.bucket:
            return None
        return relative_link(page_key, file.key)

    def _embedded(self, tasks: Sequence[GalleryTask]) -> dict[str, str]:
        """Small pictures as data URIs, by task ID, within the bounds of a page."""
        found: dict[str, str] = {}
        left = _EMBEDDED_BYTES if self._settings.embed_thumbnails else 0
        for task in tasks:
            picture = task.picture
            if len(found) == _MOST_EMBEDDED or not left:
                break
            if picture is None or picture.key is None or picture.bucket != self._videos.bucket:
                continue
            if (
                picture.content_type not in _PICTURE_TYPES
                or not 0 < (picture.size_bytes or 0) <= _LARGEST_EMBEDDED_BYTES
            ):
                continue
            body = self._small_object(picture.key)
            if body and len(body) <= left:
                left -= len(body)
                found[task.task_id] = f"data:{picture.content_type};base64,{base64.b64encode(body).decode()}"
        return found

    def _small_object(self, key: str) -> bytes:
        """The bytes of a picture; empty where it is gone, refused or has grown: then the page has a link."""
        try:
            body = self._store.get(key, start=0, end=_LARGEST_EMBEDDED_BYTES + 1)
        except (FileNotFoundError, S3DeniedError, ObjectArchivedError) as error:
            _log.info("a thumbnail is linked, not embedded: %s", error)
            return b""
        return body if len(body) <= _LARGEST_EMBEDDED_BYTES else b""

    def has_pages(self, folder: str) -> bool:
        """Whether there are pages of a partition, or were: also of a time when the gallery was on."""
        return any(True for _ in list_versions(self._store, f"{self._root}{folder}/"))

    def remove_old_versions(self, folders: Iterable[str]) -> list[NotDeleted]:
        """Remove for good what a bucket with versions keeps of earlier pages of partitions, and of all indexes.

        Returns what is still there. Raises S3Error; S3DeniedError where versions must not be listed.
        """
        keys = [key for folder in folders for key in (f"{self._root}{folder}/", self._entry_key(folder))]
        old = [
            version
            for key in [*keys, self.index_key]
            for version in list_versions(self._store, key)
            if not version.is_latest and version.version_id is not None
        ]
        return delete_versions(self._store, old)

    # -- the index ----------------------------------------------------------------------------------------------------

    def write_index(self) -> bool:
        """Bring the index up to date with all entries; whether it was written.

        Two runs at once: each lists the entries once more after it has written the index, and begins again if there
        are others by then. So the index that is written last holds all.
        """
        listed = self._listed_entries()
        look = f"{__version__} {look_digest()} {self._settings.title}"
        for round_number in range(_ROUNDS):
            before = self._index_before()
            state = _state_in(before)
            known = _etags_in(state)
            if state.get("look") == look and known == {_name(key): etag for key, etag in listed.items()}:
                return round_number > 0
            body = self._index(self._entries(listed, known, state), listed, look)
            if body == before:
                return round_number > 0
            self._put(self.index_key, body, _HTML)
            again = self._listed_entries()
            if again == listed:
                return True
            listed = again
        raise GalleryError(f"other runs kept changing the gallery while {self.index_key} was written: run it again")

    def _listed_entries(self) -> dict[str, str | None]:
        """The ETag of each entry by its key: one listing."""
        listed: Iterator[ListedObject] = self._store.list_all(f"{self._root}{_ENTRIES}/")
        return {entry.key: entry.etag for entry in listed if entry.key.endswith(".json")}

    def _index_before(self) -> bytes:
        try:
            return self._store.get(self.index_key)
        except FileNotFoundError:
            return b""

    def _entries(
        self, listed: Mapping[str, str | None], known: Mapping[str, str | None], state: Mapping[str, Any]
    ) -> dict[str, Entry]:
        """The entries by their keys; only those are read that the index does not know by their ETag."""
        found = {}
        for key, etag in listed.items():
            name = _name(key)
            is_known = etag is not None and known.get(name) == etag
            entry = read_entry(state["entries"][name], key) if is_known else None
            if entry is None:
                try:
                    entry = read_entry(self._store.get(key), key)
                except FileNotFoundError:
                    continue
            if entry is not None and f"{entry.folder}.json" == name:
                found[key] = entry
        return found

    def _index(self, entries: Mapping[str, Entry], listed: Mapping[str, str | None], look: str) -> bytes:
        ordered = sorted(entries, key=lambda key: entries[key].folder, reverse=True)
        months: dict[str, list[dict[str, Any]]] = {}
        totals: Counter[str] = Counter({"partitions": len(ordered)})
        state = {}
        for number, key in enumerate(ordered):
            entry = entries[key]
            totals.update(entry.counts)
            covers = entry.covers if number < _MOST_COVERED else ()
            months.setdefault(month_of(entry.folder), []).append(
                {
                    "folder": entry.folder,
                    "title": title_of(entry.folder),
                    "link": relative_link(self.index_key, self.page_key(entry.folder)),
                    "counts": entry.counts,
                    "covers": [
                        {"link": relative_link(self.index_key, cover.key), "is_video": cover.is_video}
                        for cover in covers
                    ],
                }
            )
            known = json.loads(Entry(entry.folder, "", {}, entry.counts, covers).as_json())
            state[f"{entry.folder}.json"] = {**known, "etag": listed[key]}
        shown = [{"name": name, "partitions": partitions} for name, partitions in months.items()]
        counted = {name: totals[name] for name in ("partitions", *COUNTS)}
        return render_index(self._settings.title, shown, counted, {"look": look, "entries": state})

    # -- objects ------------------------------------------------------------------------------------------------------

    def _entry_key(self, folder: str) -> str:
        return f"{self._root}{_ENTRIES}/{folder}.json"

    def _entry(self, folder: str) -> Entry | None:
        key = self._entry_key(folder)
        try:
            return read_entry(self._store.get(key), key)
        except FileNotFoundError:
            return None

    def _put(
        self, key: str, body: bytes, content_type: str, there: ListedObject | None = None
    ) -> tuple[str | None, bool]:
        """Write an object unless these very bytes are there; its ETag, and whether it was written."""
        if self._template.is_ours(key):
            raise GallerySettingsError(
                f"a video could have the key {key} of the gallery: let the key_template (LUMA_KEY_TEMPLATE) not begin "
                f"with {FOLDER}/"
            )
        if there is not None and is_md5_of(there.etag, body):
            return there.etag, False
        settings = {**self._arguments, "ContentType": content_type, "CacheControl": "no-cache"}
        return self._store.put(key, body, settings=settings).etag, True


def _groups(tasks: Iterator[GalleryTask], size: int) -> Iterator[list[GalleryTask]]:
    """The tasks in groups of one page; one empty group where there are none."""
    group = list(islice(tasks, size))
    yield group
    while group := list(islice(tasks, size)):
        yield group


def _state_in(index: bytes) -> Mapping[str, Any]:
    """What the index says that it knows; nothing for a page that is none."""
    found = index.decode("utf-8", "replace").partition(_STATE)[2].partition("</script>")[0]
    try:
        state = json.loads(found)
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def _etags_in(state: Mapping[str, Any]) -> dict[str, str | None]:
    """The ETag of each entry that the index knows, by the entry's name."""
    entries = state.get("entries")
    if not isinstance(entries, dict):
        return {}
    return {name: entry.get("etag") for name, entry in entries.items() if isinstance(entry, dict)}


def _name(key: str) -> str:
    return key.rpartition("/")[2]
