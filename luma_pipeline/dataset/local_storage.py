"""The dataset's room: datasets in a local folder, or in one that is mounted."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

import pyarrow as pa

from luma_pipeline.dataset.errors import (
    DatasetError,
    DatasetSettingsError,
    DatasetUnavailableError,
    StaleVersionError,
    UnreadableFileError,
)
from luma_pipeline.dataset.storage import OpenedFile, StoredFile, is_temporary_name, temporary_name

__all__ = ["LocalStorage"]

T = TypeVar("T")

_MOST_SWEPT_ENTRIES = 200_000
"""Files and folders that one sweep reads, which takes about a second."""
_MOST_REMOVALS = 100
"""Times that a folder is made again for one file."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}

_log = logging.getLogger(__name__)


class LocalStorage:
    """Files in a folder. A file is written in its folder under a temporary name, forced to disk, and renamed."""

    whole_bytes = 0

    def __init__(self, root: str, url: str) -> None:
        self.root = root
        self._url = url

    def list(self, folder: str, prefix: str = "") -> list[StoredFile]:
        """See `Storage.list`. Names that begin with a dot are left out."""
        found = []
        with self._explained(), contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another run has just removed it
                    if entry.name.startswith(prefix) and not entry.name.startswith(".") and entry.is_file():
                        modified_at = datetime.fromtimestamp(entry.stat().st_mtime, UTC)
                        found.append(StoredFile(entry.path, entry.name, modified_at))
        return found

    def names(self, folder: str) -> Sequence[str]:
        """See `Storage.names`. Names that begin with a dot are left out."""
        with self._explained(), contextlib.suppress(FileNotFoundError):
            return [name for name in os.listdir(folder) if not name.startswith(".")]
        return []

    def folders(self, folder: str, holding: str | None = None) -> Sequence[str]:
        """See `Storage.folders`."""
        with self._explained(), contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            is_held = [(entry, holding is None or os.path.exists(f"{entry.path}/{holding}")) for entry in entries]
            return [entry.name for entry, is_there in is_held if is_there and entry.is_dir()]
        return []

    def open(self, path: str, *, whole: bool = False) -> OpenedFile:  # noqa: ARG002
        """See `Storage.open`. A file that is open stays as it is when another run replaces it."""
        try:
            # Before pyarrow 25, an OSFile has no working fileno().
            while True:
                found = os.stat(path)
                source = pa.OSFile(path)
                if _version(os.stat(path)) == _version(found):
                    return OpenedFile(source, _version(found), found.st_size)
                source.close()
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(path) from None
        except PermissionError as error:
            raise UnreadableFileError(
                f"{path} cannot be read: {error}. Give the user that runs this the right to read it."
            ) from error
        except OSError as error:
            raise self._translated(error) from error

    def version(self, path: str) -> str:
        """See `Storage.version`."""
        with self._explained():
            try:
                return _version(os.stat(path))
            except (FileNotFoundError, NotADirectoryError):
                return ""

    def modified_at(self, path: str) -> datetime | None:
        """See `Storage.modified_at`."""
        with self._explained(), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return datetime.fromtimestamp(os.stat(path).st_mtime, UTC)
        return None

    def write(self, path: str, content: bytes) -> None:
        """See `Storage.write`."""
        if content:
            self.replace(path, lambda file: file.write(content))
            return
        with self._explained():  # an empty file is never half of one
            _created(Path(path)).close()
            os.utime(path)

    def replace(self, path: str, write: Callable[[IO[bytes]], T], over: str | None = None) -> T:
        """See `Storage.replace`. Between the comparison of versions and the renaming another run can replace it."""
        target = Path(path)
        temporary = target.with_name(temporary_name(target.name, uuid.uuid4().hex))
        with self._explained():
            try:
                with _created(temporary) as file:
                    result = write(file)
                    file.flush()
                    os.fsync(file.fileno())
                if over is not None and self.version(path) != over:
                    raise StaleVersionError(f"{path} has been replaced by another run")
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another run has removed the file already, and the folder
                _sync_folder(target.parent)
        return result

    def delete(self, path: str) -> None:
        """See `Storage.delete`."""
        with self._explained():
            Path(path).unlink(missing_ok=True)

    def delete_all(self, paths: Sequence[str]) -> None:
        """See `Storage.delete_all`."""
        for path in paths:
            self.delete(path)

    def prune(self, folder: str) -> None:
        """See `Storage.prune`."""
        with contextlib.suppress(OSError):  # it is not empty, or not there
            Path(folder).rmdir()

    def remove_old_versions(self, folder: str) -> str:  # noqa: ARG002
        """See `Storage.remove_old_versions`. A folder keeps none."""
        return ""

    def check(self) -> None:
        """See `Storage.check`."""
        probe = Path(self.root) / temporary_name("write-probe", uuid.uuid4().hex)
        with self._explained():
            try:
                with _created(probe) as file:
                    file.write(b"probe")
            finally:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    probe.unlink()

    def sweep(self, older_than_seconds: float) -> int:
        """See `Storage.sweep`. Folders near the root come first, and no more than 200,000 entries are read."""
        latest = time.time() - older_than_seconds
        folders, seen, swept = deque([self.root]), 0, 0
        while folders and seen < _MOST_SWEPT_ENTRIES:
            folder = folders.popleft()
            try:
                with os.scandir(folder) as entries:
                    for entry in islice(entries, _MOST_SWEPT_ENTRIES - seen):
                        seen += 1
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        elif is_temporary_name(entry.name) and entry.stat(follow_symlinks=False).st_mtime <= latest:
                            Path(entry.path).unlink()
                            swept += 1
            except FileNotFoundError:
                continue  # another run was first
            except OSError as error:
                _log.warning("%s was not swept: %s", folder, error)
        return swept

    def stop(self) -> None:
        """See `Storage.stop`."""

    def close(self) -> None:
        """See `Storage.close`."""

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._translated(error) from error

    def _translated(self, error: OSError) -> DatasetError:
        where = f"the datasets under {self._url} (LUMA_DATA_URL)"
        if error.errno in _FULL:
            return DatasetUnavailableError(
                f"{where} cannot be written: {error}. Make room on that disk, and run again."
            )
        if error.errno == errno.ESTALE:
            return StaleVersionError(f"another machine has replaced a file of {where}: {error}")
        if error.errno in _FORBIDDEN:
            return DatasetSettingsError(
                f"{where} cannot be read or written: {error}. Give the user that runs this the right to read and write "
                "there, or set LUMA_DATA_URL to another folder."
            )
        return DatasetSettingsError(f"{where} cannot be read or written: {error}. Check LUMA_DATA_URL.")


def _created(path: Path) -> IO[bytes]:
    for _ in range(_MOST_REMOVALS):
        # Another run may remove the folder, which is empty, before the file is in it.
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("wb")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


def _version(found: os.stat_result) -> str:
    # Not the inode: some network file systems give one file another each time.
    return f"{found.st_size} {found.st_mtime_ns}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
