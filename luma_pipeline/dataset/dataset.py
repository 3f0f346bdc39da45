"""The dataset's room: the root of the Parquet datasets."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

from luma_pipeline.dataset.audits import Audits
from luma_pipeline.dataset.checkpoints import Checkpoints
from luma_pipeline.dataset.errors import DatasetSettingsError
from luma_pipeline.dataset.learnt_limits import LearntLimits
from luma_pipeline.dataset.local_storage import LocalStorage
from luma_pipeline.dataset.marks import Marks
from luma_pipeline.dataset.partition_file import PartitionFile
from luma_pipeline.dataset.peers import PeerEntries
from luma_pipeline.dataset.s3_storage import S3Storage, check_place
from luma_pipeline.dataset.storage import PARTITION_FILE, Storage
from luma_pipeline.dataset.tombstones import Tombstones
from luma_pipeline.dataset.verdicts import Verdicts

__all__ = ["SWEEP_AFTER_SECONDS", "Dataset", "check_root"]

# More than the one letter of a drive.
_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:")
SWEEP_AFTER_SECONDS = 3600.0
"""Age of unfinished files and uploads that no living writer has."""


@dataclass
class Dataset:
    """The root of the Parquet datasets: a local folder, or `s3://bucket/prefix`.

    S3 is reached by boto3's standard chain of settings and credentials. Folders whose names begin with an underscore
    are the pipeline's own; readers of Hive datasets skip them.

    >>> dataset = Dataset(url="data")
    >>> dataset.partition("luma_tasks", "date=2024-12-24").exists()
    False
    """

    url: str
    _opened: Storage | None = field(default=None, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def partition(self, dataset: str, folder: str) -> PartitionFile:
        """The file of one partition (`folder` is empty for an unpartitioned dataset)."""
        parts = (self._storage.root, dataset, folder, PARTITION_FILE)
        return PartitionFile(self._storage, "/".join(part for part in parts if part))

    def checkpoints(self, dataset: str, folder: str, *, is_empty: bool = False) -> Checkpoints:
        """The unfinished answers of one partition; `is_empty` if it is known that there were none a while ago."""
        return Checkpoints(self._storage, f"{self._storage.root}/_checkpoints/{dataset}/{folder}", is_empty=is_empty)

    def checkpointed(self, dataset: str) -> frozenset[str]:
        """The folders of a dataset that have checkpoints, by one listing."""
        return frozenset(self._storage.folders(f"{self._storage.root}/_checkpoints/{dataset}"))

    def marks(self, name: str) -> Marks:
        """A set of marks, such as those of partitions with open tasks."""
        return Marks(self._storage, f"{self._storage.root}/_{name}")

    def verdicts(self) -> Verdicts:
        """The verdicts on the partitions."""
        return Verdicts(self._storage, f"{self._storage.root}/_verdicts")

    def learnt_limits(self) -> LearntLimits:
        """What runs have learnt of the provider's limit."""
        return LearntLimits(self._storage, f"{self._storage.root}/_limits")

    def peers(self) -> PeerEntries:
        """What runs that are at work tell each other of the provider's limit."""
        return PeerEntries(self._storage, f"{self._storage.root}/_limits")

    def tombstones(self) -> Tombstones:
        """The tombstones of tasks that are forgotten."""
        return Tombstones(self._storage, f"{self._storage.root}/_tombstones")

    def audits(self) -> Audits:
        """What audits leave for those after them."""
        return Audits(self._storage, f"{self._storage.root}/_audit")

    def folders(self, dataset: str) -> set[str]:
        """The folders of the partitions of a dataset that have been written."""
        return set(self._storage.folders(f"{self._storage.root}/{dataset}", PARTITION_FILE))

    def remove_old_versions(self, dataset: str, folder: str) -> str:
        """Remove for good what a bucket with versions keeps of replaced and deleted files; why not, or empty text."""
        return self._storage.remove_old_versions(f"{self._storage.root}/{dataset}/{folder}")

    def check(self) -> None:
        """Raise DatasetError unless files can be listed and written under the root. Leaves nothing behind."""
        self._storage.check()

    def sweep(self, older_than_seconds: float = SWEEP_AFTER_SECONDS) -> int:
        """Remove temporary files, and abort uploads, that writers which were killed have left; how many.

        Only what has a name of ours and is older is removed. A fault is logged and not raised: the next run sweeps too.
        To be called once at a run's start.
        """
        return self._storage.sweep(older_than_seconds)

    def stop(self) -> None:
        """Let requests to a store end within ten seconds, with an error if need be, and begin none after that.

        Returns at once.
        """
        if self._opened is not None:
            self._opened.stop()

    def close(self) -> None:
        """Close the connections to a store. After a `stop`, what is still under way is cut at once."""
        if self._opened is not None:
            self._opened.close()

    @property
    def _storage(self) -> Storage:
        with self._lock:
            if self._opened is None:
                self._opened = _storage(self.url)
            return self._opened


def check_root(url: str) -> None:
    """Raise DatasetSettingsError for a URL that is no root of datasets. Nothing is opened or asked."""
    _place(url)


def _storage(url: str) -> Storage:
    place = _place(url)
    return LocalStorage(str(place), url) if isinstance(place, Path) else S3Storage(*place, url)


def _place(url: str) -> Path | tuple[str, str]:
    """The folder of a root, or its bucket and prefix."""
    if not url.strip() or "\0" in url:
        raise DatasetSettingsError("LUMA_DATA_URL is empty or has a NUL: give it a folder or s3://bucket/prefix")
    scheme = _SCHEME.match(url)
    if scheme is None:
        return Path(url).expanduser().absolute()
    path = url[scheme.end() :]
    if scheme[0] == "file:" and path.startswith("///"):
        return Path(path[2:])
    if scheme[0] != "s3:" or not path.startswith("//"):
        raise DatasetSettingsError(
            f"LUMA_DATA_URL must be a folder, file:///folder or s3://bucket/prefix, not {url[: scheme.end() + 2]}…"
        )
    if "?" in path or "#" in path:
        raise DatasetSettingsError(
            "LUMA_DATA_URL takes no ? and no #; the region, the endpoint and the keys are set by the AWS_… variables"
        )
    bucket, _, prefix = path[2:].partition("/")
    if not bucket:
        raise DatasetSettingsError("LUMA_DATA_URL names no bucket: it looks like s3://bucket/prefix")
    check_place(bucket, prefix.removesuffix("/"), url)
    return bucket, prefix.removesuffix("/")
