"""The audit's room: copies again what is wrong in the bucket, and puts it into the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pyarrow as pa

from luma_pipeline.audit.manifest import ManifestRow
from luma_pipeline.dataset import PartitionFile, StaleVersionError, Tombstones
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
from luma_pipeline.engine.provider_links import ProviderLinks
from luma_pipeline.engine.resources import OpenResources
from luma_pipeline.engine.videos import DIGEST_COLUMNS, row_of
from luma_pipeline.luma import LumaClient, ProviderConfig
from luma_pipeline.media import Artifact, CopyRequest, CopyResult, LinkSource, MediaCopier, TransferConfig

__all__ = ["Repairer", "replace_rows"]

_ATTEMPTS = 8
_COMPARED = ("key", "size_bytes", "sha256", "etag")
_ARTIFACTS = frozenset(artifact.value for artifact in Artifact)


class Repairer:
    """Asks the provider for fresh links and copies, over what stands in the bucket. `opened` closes both at the end.

    The client and the copier are made with the first repair.
    """

    def __init__(
        self,
        opened: OpenResources,
        videos: TransferConfig,
        provider: ProviderConfig,
        link_preference: Sequence[LinkSource],
        tombstones: Tombstones,
    ) -> None:
        self._tombstones = tombstones
        self._opened = opened
        self._videos = videos
        self._provider = provider
        self._link_preference = link_preference
        self._copier: MediaCopier | None = None

    def copy_again(self, rows: Sequence[ManifestRow]) -> list[CopyResult | None]:
        """Copy the artifact of each row, with a link that the provider is asked for now; None: no artifact of ours, or
        of a task that is forgotten.

        A damaged object is replaced by a whole file, or stays as it is: what is not fetched to its end is not written.

        Raises BucketError and LumaError: nothing more can be copied.
        """
        if not rows:
            return []
        if self._copier is None:
            links = ProviderLinks(self._opened.keep_client(LumaClient(self._provider)), self._link_preference)
            copier = MediaCopier(replace(self._videos, overwrite=True), refresh=links.renewed)
            self._copier = self._opened.keep_copier(copier)
        copier = self._copier
        forgotten = self._tombstones.now()
        futures: list[Future[CopyResult] | None] = []
        for row in rows:
            is_known = row.artifact in _ARTIFACTS and not forgotten.has(row.task_id)
            request = CopyRequest(row.task_id, Artifact(row.artifact), None) if is_known else None
            futures.append(None if request is None else copier.submit(request))
        results = [None if future is None else future.result() for future in futures]
        forgotten = self._tombstones.now()
        copier.purge({row.task_id: [row.key] if row.key else [] for row in rows if forgotten.has(row.task_id)})
        return results

    @staticmethod
    def row_after(result: CopyResult) -> Mapping[str, Any]:
        """The row of the manifest after a copy."""
        return row_of(result)


def replace_rows(file: PartitionFile, patches: Mapping[ManifestRow, Mapping[str, Any]]) -> set[ManifestRow]:
    """Put new values into rows, and write the partition; returns the rows that were there to get them.

    A row that a run has changed meanwhile stays as it is.

    Raises:
        DatasetError: The partition cannot be read or written.
    """
    by_identity = {(row.task_id, row.artifact): row for row in patches}
    for attempt in range(_ATTEMPTS):
        done: set[ManifestRow] = set()

        def patched(table: pa.Table, done: set[ManifestRow] = done) -> pa.Table:
            identities = list(zip(table["task_id"].to_pylist(), table["artifact"].to_pylist(), strict=True))
            if by_identity.keys().isdisjoint(identities):
                return table
            rows = table.to_pylist()
            for identity, row in zip(identities, rows, strict=True):
                old = by_identity.get(identity)
                if old is not None and all(row[name] == getattr(old, name) for name in _COMPARED):
                    row.update(patches[old])
                    done.add(old)
            return pa.Table.from_pylist(rows, VIDEOS_SCHEMA)

        try:
            with file.open(whole=True) as reader:
                tables = map(patched, reader.batches(VIDEOS_SCHEMA.names, VIDEOS_SCHEMA))
                file.replace(VIDEOS_SCHEMA, tables, DIGEST_COLUMNS, over=reader.version)
        except StaleVersionError:
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return done
    raise AssertionError("unreachable")
