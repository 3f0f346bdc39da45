"""The audit's room: copies again what is wrong in the bucket, and puts it into the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from luma_pipeline.audit.manifest import ManifestRow
from luma_pipeline.dataset import PartitionFile, StaleVersionError
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
from luma_pipeline.engine.provider_links import ProviderLinks
from luma_pipeline.engine.resources import OpenResources
from luma_pipeline.engine.videos import DIGEST_COLUMNS, row_of
from luma_pipeline.luma import LumaClient, ProviderConfig
from luma_pipeline.media import Artifact, CopyRequest, CopyResult, CopyStatus, LinkSource, MediaCopier, TransferConfig

__all__ = ["Repairer", "replace_rows", "row_after"]

Identity = tuple[str, str]
"""Task and artifact of a row."""
_ATTEMPTS = 8
_COMPARED = ("key", "size_bytes", "sha256", "etag")


class Repairer:
    """Asks the provider for fresh links and copies, over what stands in the bucket. `opened` closes both at the end.

    Raises BucketError or LumaError where the bucket or the provider cannot be used.
    """

    def __init__(
        self,
        opened: OpenResources,
        videos: TransferConfig,
        provider: ProviderConfig,
        link_preference: Sequence[LinkSource],
    ) -> None:
        links = ProviderLinks(opened.keep_client(LumaClient(provider)), link_preference)
        # A damaged object is replaced only by a whole file: what is not fetched to its end is never written.
        self._copier = opened.keep_copier(MediaCopier(replace(videos, overwrite=True), refresh=links.renewed))

    def copy_again(self, rows: Sequence[ManifestRow]) -> list[CopyResult | None]:
        """Copy the artifact of each row, with a link that the provider is asked for now; None: no artifact of ours.

        Raises BucketError and LumaError: nothing more can be copied.
        """
        known = frozenset(Artifact)
        futures = [
            self._copier.submit(CopyRequest(row.task_id, Artifact(row.artifact), None))
            if row.artifact in known
            else None
            for row in rows
        ]
        return [None if future is None else future.result() for future in futures]


def row_after(result: CopyResult) -> Mapping[str, Any] | None:
    """The row of the manifest after a copy; None where nothing was copied."""
    return row_of(result) if result.status is CopyStatus.COPIED else None


def replace_rows(file: PartitionFile, old: Sequence[ManifestRow], new: Sequence[Mapping[str, Any]]) -> set[ManifestRow]:
    """Put new values in place of rows, and write the partition; returns the old rows that were there to be replaced.

    A row that another run has changed meanwhile stays as it is.

    Raises:
        DatasetError: The partition cannot be read or written.
    """
    by_identity = {(row.task_id, row.artifact): (row, values) for row, values in zip(old, new, strict=True)}
    for attempt in range(_ATTEMPTS):
        replaced: set[ManifestRow] = set()
        try:
            with file.open(whole=True) as reader:
                tables = (
                    _patched(table, by_identity, replaced)
                    for table in reader.batches(VIDEOS_SCHEMA.names, VIDEOS_SCHEMA)
                )
                file.replace(VIDEOS_SCHEMA, tables, DIGEST_COLUMNS, over=reader.version)
        except StaleVersionError:
            if attempt + 1 == _ATTEMPTS:
                raise
        else:
            return replaced
    raise AssertionError("unreachable")


def _patched(
    table: pa.Table,
    by_identity: Mapping[Identity, tuple[ManifestRow, Mapping[str, Any]]],
    replaced: set[ManifestRow],
) -> pa.Table:
    identities = list(zip(table["task_id"].to_pylist(), table["artifact"].to_pylist(), strict=True))
    if not any(identity in by_identity for identity in identities):
        return table
    rows = table.to_pylist()
    for identity, row in zip(identities, rows, strict=True):
        old, values = by_identity.get(identity, (None, {}))
        if old is not None and all(row[name] == getattr(old, name) for name in _COMPARED):
            row.update(values)
            replaced.add(old)
    return pa.Table.from_pylist(rows, VIDEOS_SCHEMA)
