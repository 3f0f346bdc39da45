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

from luma_pipeline.dataset import manifest
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA, Identities, ResultRows

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
def test_identities_are_found_in_any_order(in_tables: bool) -> None:
    identities = Identities()
    written = [row(number) for number in range(SOME)]
    if in_tables:
        identities.extend(pa.Table.from_pylist(written[:1_700], VIDEOS_SCHEMA))
        identities.extend(pa.Table.from_pylist(written[1_700:], VIDEOS_SCHEMA))
    else:
        assert [identities.append(one["task_id"], "video") for one in written] == list(range(SOME))
    assert len(identities) == SOME
    searched = random.Random(1).sample(range(SOME), 700)
    ids = pa.array([written[number]["task_id"] for number in searched])
    assert identities.find(ids, "video").tolist() == searched
    assert [identities.find_one(task_id, "video") for task_id in ids.to_pylist()] == searched


def test_an_artifact_that_is_not_there_is_not_found() -> None:
    identities = Identities()
    assert identities.find(pa.array(["a"]), "video").tolist() == [-1]
    assert identities.find_one("a", "video") == -1
    identities.forget()
    identities.append("a", "thumbnail")
    identities.append("a", "video")
    assert identities.find(pa.array(["a", "b"]), "video").tolist() == [1, -1]
    assert identities.find(pa.array(["a"]), "last_frame").tolist() == [-1]
    assert [identities.find_one("a", name) for name in ("video", "thumbnail", "last_frame")] == [1, 0, -1]


def test_what_is_added_after_a_search_is_found_when_the_search_is_forgotten() -> None:
    identities = Identities()
    identities.append("a", "video")
    assert identities.find(pa.array(["a", "b"]), "video").tolist() == [0, -1]
    identities.append("b", "video")
    identities.forget()
    assert identities.find(pa.array(["a", "b"]), "video").tolist() == [0, 1]


def test_rows_are_taken_in_any_order_whether_in_memory_or_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = random.Random(1).sample(range(SOME), 700)
    for limit in (16 * 1024 * 1024, 1):
        monkeypatch.setattr(manifest, "_BYTES_IN_MEMORY", limit)
        rows = ResultRows()
        assert [rows.append(row(number)) for number in range(SOME)] == list(range(SOME))
        assert rows.take(np.array(searched))["size_bytes"].to_pylist() == searched
        assert rows.take(np.empty(0, dtype=np.int64)).schema == VIDEOS_SCHEMA
        rows.close()


def test_a_row_takes_less_than_60_bytes_to_be_found_and_less_than_250_to_be_held() -> None:
    written = [row(number) for number in range(4 * SOME)]
    for limit, add in ((60, _found), (250, _held)):
        pool = pa.default_memory_pool().bytes_allocated()
        tracemalloc.start()
        try:
            kept = add(written)
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken + pa.default_memory_pool().bytes_allocated() - pool < limit * len(written)
        del kept


def _found(written: list[dict[str, Any]]) -> Identities:
    identities = Identities()
    for one in written:
        identities.append(one["task_id"], "video")
    identities.find(pa.array(["a"]), "video")
    identities.forget()
    return identities


def _held(written: list[dict[str, Any]]) -> ResultRows:
    rows = ResultRows()
    for one in written:
        rows.append(one)
    return rows
