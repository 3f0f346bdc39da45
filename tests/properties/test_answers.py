"""Any JSON gives a row, and a row loses nothing on its way into a file and out of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.dataset import Dataset, PartitionFile
from luma_pipeline.luma import GATEWAY, LUMA, Flattened, LumaClient, Outcome, ProviderConfig, TaskResult
from luma_pipeline.luma.flatten import flatten
from luma_pipeline.luma.results import FINAL_STATES, printable
from luma_pipeline.luma.schema import TIMESTAMP, Field
from luma_pipeline.luma.stored_answers import drift_in, reflatten
from luma_pipeline.luma.timestamps import parse_timestamp
from luma_pipeline.sandbox.provider import TOKEN, Answer, Endpoint, ProviderServer
from tests.properties.effort import examples
from tests.properties.wild import anything, as_body, pages, task_ids

PAGE: dict[str, Any] = json.loads((Path(__file__).parent.parent / "luma" / "page_example.json").read_text())
NOW = datetime(2024, 12, 24, 18, tzinfo=UTC)
EMPTY: list[Any] = [None, "", [], {}]
wrappers = st.sampled_from(["data", "result", "response", "generation"])


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    """An answer: mostly like the page's, in wrappers or not, or any other JSON."""
    if draw(st.integers(0, 5)) == 0:
        return draw(anything)
    body = draw(pages(PAGE))
    for _ in range(draw(st.integers(0, 2))):
        around: dict[str, Any] = {draw(wrappers): draw(st.sampled_from([body, [body], json.dumps(body)]))}
        body = around | draw(st.sampled_from([{}, {"code": "success"}, {"task_id": "t", "status": "SUCCESS"}]))
    return body


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with ProviderServer() as server:
        yield server


@pytest.fixture(scope="module", params=[GATEWAY, LUMA], ids=lambda spec: spec.name)
def client(provider: ProviderServer, request: pytest.FixtureRequest) -> Iterator[LumaClient]:
    config = ProviderConfig(
        token=TOKEN,
        base_url=provider.base_url,
        spec=request.param,
        max_attempts=1,
        unavailable_after=10**9,
        requests_per_second=1e6,
        verify_task_id=False,
    )
    with LumaClient(config) as client:
        yield client


ENDPOINTS = {"gateway": Endpoint.SINGLE, "luma": Endpoint.LUMA}


@pytest.fixture
def file(tmp_path_factory: pytest.TempPathFactory) -> PartitionFile:
    return Dataset(url=str(tmp_path_factory.mktemp("data"))).partition("luma_generations", "date=2024-12-24")


def is_drift(flattened: Flattened, field: Field) -> bool:
    """Whether the field, or an object around it, is named as drift."""
    paths = {printable(".".join(field.path[:depth])) for depth in range(1, len(field.path) + 1)}
    return any(drift.field in paths for drift in flattened.drift)


def is_no_time(value: Any) -> bool:
    time = parse_timestamp(value) if isinstance(value, str) else None
    return str(value).startswith("0000-") if time is None else time.year <= 1


def value_at(answer: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = answer
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def is_same(kept: Any, sent: Any) -> bool:
    """Whether a column's value is the one that was sent, where numbers and times may have been sent as text."""
    if isinstance(kept, datetime):
        return isinstance(sent, str)
    if isinstance(kept, bool) or isinstance(sent, bool):
        return kept is sent
    if isinstance(kept, (int, float)):
        return math.isclose(kept, float(sent), rel_tol=1e-12) and (type(sent) is not int or int(kept) == sent)
    return bool(kept == sent)


@examples(40)
@given(drawn=st.lists(st.tuples(task_ids, bodies(), st.sampled_from([200, 200, 200, 201, 404, 500, 302])), max_size=4))
def test_any_json_is_a_row_that_comes_back_from_its_file_as_it_was(
    client: LumaClient, provider: ProviderServer, file: PartitionFile, drawn: list[tuple[str, Any, int]]
) -> None:
    sent = {task_id: (as_body(body), status) for task_id, body, status in drawn}
    for task_id, (body, status) in sent.items():
        answer = Answer(status, {"Content-Type": "application/json"}, body)
        provider.script(task_id, [answer], endpoint=ENDPOINTS[client.spec.name])
    results = [client.fetch_one(task_id) for task_id in sent]
    flattened = flatten(results, [NOW] * len(results), client.spec.fields)
    table = flattened.table
    table.validate(full=True)
    for result, row in zip(results, table.to_pylist(), strict=True):
        body, status = sent[result.task_id]
        assert row["task_id"] == result.task_id
        assert row["raw_response"] == body.decode()
        assert row["http_status"] == status
        assert (row["outcome"] == Outcome.RESOLVED) == (row["error_code"] is None) == (result.generation is not None)
        if result.generation is not None:
            assert result.state
            assert result.state.strip()
            assert result.is_final == (result.state in FINAL_STATES)
            for field in client.spec.fields:
                value = value_at(result.generation, field.path)
                if row[field.name] is not None:
                    assert is_same(row[field.name], value), field
                elif value not in EMPTY and not (field.type == TIMESTAMP and is_no_time(value)):
                    assert is_drift(flattened, field), field

    file.replace(client.spec.schema, [table], ("task_id", "raw_response"))
    with file.open() as reader:
        (again,) = reader.batches(schema=client.spec.schema)
    assert again.equals(table.cast(client.spec.schema))
    # What is read again out of the row is what was read out of the answer.
    once_more = reflatten(again, client.spec)
    assert once_more.table.equals(again)
    assert sum(drift.count for drift in once_more.drift) == sum(drift.count for drift in flattened.drift)
    assert once_more.answers == sum(result.generation is not None for result in results)
    assert drift_in(again, client.spec) == tuple(flattened.drift)


@examples(25)
@given(drawn=st.lists(pages(PAGE), min_size=1, max_size=5))
def test_duckdb_reads_what_was_written(file: PartitionFile, drawn: list[Any]) -> None:
    results = [
        TaskResult(f"t{number}", Outcome.RESOLVED, NOW, generation=body if isinstance(body, dict) else {})
        for number, body in enumerate(drawn)
    ]
    table = flatten(results, fields=GATEWAY.fields).table
    file.replace(GATEWAY.schema, [table])
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    found = database.execute(f"SELECT * FROM read_parquet('{file.path}', hive_partitioning = false)")
    names = [column[0] for column in found.description]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    assert rows == table.to_pylist()


@examples(40)
@given(
    drawn=st.lists(bodies(), min_size=1, max_size=4),
    dropped=st.sets(st.sampled_from([field.name for field in GATEWAY.fields]), max_size=5),
)
def test_columns_that_an_older_file_lacks_are_filled_with_what_they_would_have_been(
    file: PartitionFile, drawn: list[Any], dropped: set[str]
) -> None:
    results = []
    for number, body in enumerate(drawn):
        text = as_body(body).decode()
        table = reflatten(_row(f"t{number}", text), GATEWAY)
        results.append(table.table)
    whole = pa.concat_tables(results)
    older = pa.schema([field for field in GATEWAY.schema if field.name not in dropped])
    file.replace(older, [whole.select(older.names)])
    with file.open() as reader:
        (read,) = reader.batches(schema=GATEWAY.schema)
    assert reflatten(read, GATEWAY).table.equals(whole)


def _row(task_id: str, text: str) -> pa.Table:
    row = {"task_id": task_id, "outcome": "resolved", "attempts": 1, "polled_at": NOW, "raw_response": text}
    return pa.Table.from_pylist([row], GATEWAY.schema)
