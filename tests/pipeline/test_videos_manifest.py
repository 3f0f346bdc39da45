"""The rows of a manifest as a run holds them: found whatever their number and order, and small."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA, Identities, ManifestRows, digests_of

SOME = 2_500
"""More than two pages."""


def row(number: int, artifact: str = "video") -> dict[str, Any]:
    task_id = str(uuid.UUID(int=number + (1 << 100)))
    digest = hashlib.sha256(task_id.encode()).hexdigest()
    return {
        "task_id": task_id,
        "artifact": artifact,
        "status": "copied",
        "source_url": f"https://storage.cdn-luma.com/dream-machine/{uuid.UUID(digest[:32])}/{digest[32:]}/video.mp4",
        "bucket": "videos",
        "key": f"{task_id}/{artifact}.mp4",
        "size_bytes": number,
        "sha256": digest,
        "etag": digest[:32],
    }


@pytest.mark.parametrize("in_tables", [True, False])
def test_rows_are_found_and_taken_in_any_order(in_tables: bool) -> None:
    rows = ManifestRows()
    written = [row(number) for number in range(SOME)]
    if in_tables:
        rows.extend(pa.Table.from_pylist(written[:1_700], VIDEOS_SCHEMA))
        rows.extend(pa.Table.from_pylist(written[1_700:], VIDEOS_SCHEMA))
    else:
        for one in written:
            rows.append(one)
    assert len(rows) == SOME
    wanted = random.Random(1).sample(range(SOME), 700)
    places = rows.find(digests_of([written[number]["task_id"] for number in wanted], "video"))
    assert places.tolist() == wanted
    assert rows.take(places)["size_bytes"].to_pylist() == wanted
    assert [rows.row(place, ["size_bytes"])["size_bytes"] for place in places.tolist()] == wanted


def test_an_artifact_that_has_no_row_is_not_found() -> None:
    rows = ManifestRows()
    assert rows.find(digests_of(["a"], "video")).tolist() == [-1]
    rows = ManifestRows()
    rows.append(row(0))
    assert rows.find(digests_of([row(0)["task_id"], row(1)["task_id"]], "video")).tolist() == [0, -1]
    assert rows.find(digests_of([row(0)["task_id"]], "thumbnail")).tolist() == [-1]
    assert rows.take(np.empty(0, dtype=np.int64)).schema == VIDEOS_SCHEMA


def test_the_rows_of_an_older_version_have_nulls_for_what_it_did_not_know() -> None:
    rows = ManifestRows()
    table = pa.Table.from_pylist([row(0)], VIDEOS_SCHEMA).drop_columns(["etag"])
    rows.extend(table)
    assert rows.row(0, ["key", "etag"]) == {"key": row(0)["key"], "etag": None}


def test_an_identity_that_would_be_lost_is_refused() -> None:
    identities = Identities()
    identities.add("a", "video")
    assert identities.find(digests_of(["a", "b"], "video")).tolist() == [0, -1]
    with pytest.raises(AssertionError, match="after the first look"):
        identities.add("b", "video")


def test_a_row_takes_less_than_250_bytes() -> None:
    written = [row(number) for number in range(4 * SOME)]
    pool = pa.default_memory_pool().bytes_allocated()
    tracemalloc.start()
    try:
        rows = ManifestRows()
        for one in written:
            rows.append(one)
        rows.find(digests_of(["a"], "video"))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken + pa.default_memory_pool().bytes_allocated() - pool < 250 * len(written)
