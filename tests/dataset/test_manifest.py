"""What a run holds of a manifest: identities that are found by task and artifact, and rows on their way into a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA, Identities, ResultRows
from luma_pipeline.dataset.rows import take_rows

ARTIFACTS = ("video", "thumbnail")
MANY = 2_345
"""More than two batches."""


def row(number: int) -> dict[str, Any]:
    found = dict.fromkeys(VIDEOS_SCHEMA.names)
    named = {"task_id": f"t{number}", "artifact": "video", "status": "copied", "bucket": "b", "size_bytes": number}
    return {**found, **named}


@pytest.mark.parametrize("read", [0, 1, 1500], ids=["none is of a file", "one is of a file", "many are of a file"])
def test_identities_are_found_by_task_and_artifact_whichever_way_they_came(read: int) -> None:
    pairs = [(f"t{number}", ARTIFACTS[number % 3 == 0]) for number in range(MANY)]
    identities = Identities()
    assert len(identities) == 0
    assert identities.task_ids().equals(pa.chunked_array([], pa.string()))
    assert identities.find(pa.array(["t0"]), "video").tolist() == [-1]
    assert identities.find_one("t0", "video") == -1
    rows = [{"task_id": task_id, "artifact": artifact} for task_id, artifact in pairs[:read]]
    table = pa.Table.from_pylist(rows, pa.schema([("task_id", pa.string()), ("artifact", pa.string())]))
    identities.extend(table.slice(0, 700))
    identities.extend(table.slice(700))
    assert [identities.append(*pair) for pair in pairs[read:]] == list(range(read, MANY))
    identities.forget()

    assert len(identities) == MANY
    assert identities.task_ids().to_pylist() == [task_id for task_id, _ in pairs]
    asked = pa.array([*(task_id for task_id, _ in reversed(pairs)), "x", None])
    for artifact in (*ARTIFACTS, "video_raw"):
        numbers = {task_id: number for number, (task_id, of) in enumerate(pairs) if of == artifact}
        assert identities.find(asked, artifact).tolist() == [numbers.get(each, -1) for each in asked.to_pylist()]
        assert identities.find_one("t3", artifact) == numbers.get("t3", -1)
        assert identities.find_one("x", artifact) == -1


def test_an_identity_that_is_added_after_a_search_is_found_when_the_search_is_forgotten() -> None:
    identities = Identities()
    identities.append("a", "video")
    assert identities.find(pa.array(["a", "b"]), "video").tolist() == [0, -1]
    assert identities.append("b", "video") == 1
    identities.forget()
    assert identities.find(pa.array(["a", "b"]), "video").tolist() == [0, 1]
    assert identities.find_one("b", "video") == 1


@pytest.fixture
def results() -> Iterator[ResultRows]:
    rows = ResultRows()
    yield rows
    rows.close()


def test_rows_come_back_in_the_order_that_is_asked_for(results: ResultRows) -> None:
    assert [results.append(row(number)) for number in range(MANY)] == list(range(MANY))
    assert len(results) == MANY
    numbers = np.array([MANY - 1, 0, 1000, 999, 1, 1000])
    for _ in range(2):
        table = results.take(numbers)
        assert table.schema.equals(VIDEOS_SCHEMA)
        assert table.to_pylist() == [row(number) for number in numbers.tolist()]
    assert results.take(np.arange(MANY))["size_bytes"].to_pylist() == list(range(MANY))


def test_of_no_rows_none_are_taken(results: ResultRows) -> None:
    assert results.take(np.empty(0, dtype=np.int64)).equals(VIDEOS_SCHEMA.empty_table())


def test_each_table_is_loaded_once_and_those_without_a_row_never() -> None:
    tables = [pa.table({"number": list(range(start, start + 4))}) for start in range(0, 16, 4)]
    loaded: list[int] = []

    def load(number: int) -> pa.Table:
        loaded.append(number)
        return tables[number]

    wanted = np.array([13, 1, 12, 15, 14, 4, 0, 3])  # all of the last table, some of the first, none of the third
    assert take_rows(load, wanted // 4, wanted % 4)["number"].to_pylist() == wanted.tolist()
    assert loaded == [0, 1, 3]
