"""Answers become typed rows, whatever is in them, and nothing is lost."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from luma_pipeline.luma import FINAL_STATES, GENERATIONS_SCHEMA, Outcome, TaskResult, flatten, to_table
from luma_pipeline.luma.responses import read_answer
from luma_pipeline.luma.schema import FIELDS, TIMESTAMP, Field
from luma_pipeline.luma.timestamps import parse_timestamp
from tests.properties.effort import examples

PAGE = json.loads((Path(__file__).parent / "page_example.json").read_text())
POLLED = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def resolved(body: Any, task_id: str = "t") -> TaskResult:
    return TaskResult(
        task_id, Outcome.RESOLVED, POLLED, http_status=200, generation=body, raw_response=json.dumps(body)
    )


def changed(**fields: Any) -> dict[str, Any]:
    return {**PAGE, **fields}


def test_the_pages_example_fills_every_column_with_its_field() -> None:
    row = to_table([resolved(PAGE)]).to_pylist()[0]
    for field in FIELDS:
        value: Any = PAGE
        for key in field.path:
            value = value[key] if value is not None else None
        if field.name == "created_at":
            value = datetime(2024, 12, 24, 18, 1, 25, 319000, tzinfo=UTC)
        elif field.name == "artifact_created_at":
            value = None  # the provider's "no time"
        assert row[field.name] == value, field.name
    assert (row["task_id"], row["outcome"], row["http_status"], row["polled_at"]) == ("t", "resolved", 200, POLLED)
    assert json.loads(row["raw_response"]) == PAGE


def test_the_pages_example_has_no_drift() -> None:
    assert flatten([resolved(PAGE)]).drift == ()


def test_the_schema_names_every_field_of_the_page_once() -> None:
    names = [field.name for field in FIELDS]
    assert len(set(names)) == len(names) == 45
    assert {"video_download_url", "artifact_thumbnail_palette_grid", "last_frame_media_type"} <= set(names)


ODD = [
    (changed(video={**PAGE["video"], "width": "1360"}), "video_width", 1360, False),
    (changed(video={**PAGE["video"], "width": 1360.0}), "video_width", 1360, False),
    (changed(video={**PAGE["video"], "width": 1360.5}), "video_width", None, True),
    (changed(video={**PAGE["video"], "width": True}), "video_width", None, True),
    (changed(video={**PAGE["video"], "width": 2**70}), "video_width", None, True),
    (changed(video={**PAGE["video"], "download_url": ""}), "video_download_url", None, False),
    (changed(video={**PAGE["video"], "url": 5}), "video_url", None, True),
    (changed(video={**PAGE["video"], "url": "\ud800"}), "video_url", None, True),
    (changed(video=None), "video_url", None, False),
    (changed(video={}), "video_url", None, False),
    (changed(video="gone"), "video_url", None, True),
    (changed(video_raw={**PAGE["video_raw"], "duration": "5.25"}), "video_raw_duration", 5.25, False),
    (changed(video_raw={**PAGE["video_raw"], "duration": 5}), "video_raw_duration", 5.0, False),
    (changed(video_raw={**PAGE["video_raw"], "duration": float("nan")}), "video_raw_duration", None, True),
    (changed(created_at="0001-01-01T00:00:00Z"), "created_at", None, False),
    (
        changed(created_at="2024-12-24T18:01:25.319123Z"),
        "created_at",
        datetime(2024, 12, 24, 18, 1, 25, 319123, tzinfo=UTC),
        False,
    ),
    (
        changed(created_at="2024-12-24T18:01:25.319123987Z"),
        "created_at",
        datetime(2024, 12, 24, 18, 1, 25, 319123, tzinfo=UTC),
        False,
    ),
    (
        changed(created_at="2024-12-24T20:01:25+02:00"),
        "created_at",
        datetime(2024, 12, 24, 18, 1, 25, tzinfo=UTC),
        False,
    ),
    (changed(created_at="yesterday"), "created_at", None, True),
    (changed(created_at=1735063285), "created_at", None, True),
    (changed(liked=None), "id", PAGE["id"], False),
    (changed(liked=True), "id", PAGE["id"], True),
    (changed(video={**PAGE["video"], "thumbnail": "https://x/y.jpg"}), "video_url", PAGE["video"]["url"], True),
]


@pytest.mark.parametrize(("body", "column", "value", "drifts"), ODD)
def test_an_odd_field_costs_its_own_column_at_most(body: Any, column: str, value: Any, drifts: bool) -> None:
    flattened = flatten([resolved(PAGE, "good"), resolved(body, "odd")])
    rows = flattened.table.to_pylist()
    assert rows[1][column] == value
    assert rows[0] == to_table([resolved(PAGE, "good")]).to_pylist()[0]
    assert [drift.example_task_id for drift in flattened.drift] == (["odd"] if drifts else [])


def test_drift_is_counted_by_field_and_type() -> None:
    bodies = [changed(batch_id="b"), changed(batch_id="c"), changed(batch_id=7), changed(video={"width": "wide"})]
    drift = flatten([resolved(body, f"t{index}") for index, body in enumerate(bodies)]).drift
    found = {(d.field, d.found, d.unknown, d.count, d.example_task_id) for d in drift}
    assert found == {
        ("batch_id", "integer", True, 1, "t2"),
        ("batch_id", "string", True, 2, "t0"),
        ("video.width", "string", False, 1, "t3"),
    }


def test_columns_that_are_null_in_every_row_keep_their_type() -> None:
    table = to_table([TaskResult("t", Outcome.NOT_FOUND, POLLED, http_status=404)])
    assert table.schema.equals(GENERATIONS_SCHEMA)
    assert to_table([]).schema.equals(GENERATIONS_SCHEMA)


def test_submitted_times_come_from_the_caller() -> None:
    table = to_table([resolved(PAGE), resolved(PAGE)], [POLLED, None])
    assert table["submitted_at"].to_pylist() == [POLLED, None]


@pytest.mark.parametrize(
    "polled",
    [
        POLLED,
        POLLED.astimezone(timezone(timedelta(hours=-5, minutes=-30))),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
def test_the_time_of_an_answer_is_kept_to_the_microsecond(polled: datetime) -> None:
    assert to_table([TaskResult("t", Outcome.NOT_FOUND, polled)])["polled_at"].to_pylist() == [polled]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.sampled_from(["", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "completed", "\ud800", "1e999"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(PAGE))
    for _ in range(draw(st.integers(0, 4))):
        path = draw(st.sampled_from(FIELDS)).path
        holder = body
        for key in path[: draw(st.integers(0, len(path) - 1))]:
            if not isinstance(holder.get(key), dict):
                break
            holder = holder[key]
        holder[draw(st.sampled_from([*path, "new"]))] = draw(anything)
    return body


@given(st.lists(answers(), min_size=1, max_size=4))
@examples(70)
def test_any_json_in_any_field_is_a_row_that_keeps_its_text(bodies: list[dict[str, Any]]) -> None:
    outcomes = [resolved(body, f"t{index}") for index, body in enumerate(bodies)]
    table = to_table(outcomes)
    assert table.schema.equals(GENERATIONS_SCHEMA)
    table.validate(full=True)
    assert table["task_id"].to_pylist() == [outcome.task_id for outcome in outcomes]
    assert table["raw_response"].to_pylist() == [outcome.raw_response for outcome in outcomes]


@given(anything)
@examples(50)
def test_any_value_of_a_text_field_is_either_kept_or_drift(value: Any) -> None:
    flattened = flatten([resolved(changed(failure_reason=value))])
    kept = flattened.table["failure_reason"].to_pylist()[0]
    empty = value is None or value == "" or value == [] or value == {}
    assert kept == value or empty or [d.field for d in flattened.drift] == ["failure_reason"]


@pytest.mark.parametrize("name", ["failure_reason", "created_at"])
@pytest.mark.parametrize("value", [False, True, 0, 0.0, 7, [0], {"a": 1}], ids=str)
def test_a_value_of_another_type_is_drift_also_beside_an_empty_text(name: str, value: Any) -> None:
    for values in (["", value], [value, ""], ["", value, "2024-12-24T18:01:25Z"]):
        flattened = flatten([resolved(changed(**{name: each})) for each in values])
        assert [(drift.field, drift.count) for drift in flattened.drift] == [(name, 1)]
        assert flattened.table[name].null_count == 2


@pytest.mark.parametrize("name", ["failure_reason", "created_at"])
def test_what_is_empty_in_any_way_is_null_and_no_drift(name: str) -> None:
    values: list[Any] = ["", None, [], {}]
    flattened = flatten([resolved(changed(**{name: value})) for value in values])
    assert flattened.drift == ()
    assert flattened.table[name].null_count == 4


def test_a_task_id_that_utf8_cannot_say_is_still_a_row() -> None:
    assert pa.types.is_string(to_table([resolved(PAGE, "a\ud800b")])["task_id"].type)


times = st.from_regex(
    r"(000[0-2]|1969|2024|9999)-(01|02|12)-(01|29|31)([T ](00|23):(00|59)(:(00|60)(\.[0-9]{1,9})?)?(Z|z|[+-]23:59)?)?",
    fullmatch=True,
)


@given(st.lists(times | st.sampled_from(["0001-01-01T00:00:00Z", "", None, 5]), min_size=1, max_size=3))
@example(["9999-12-31T00:59-23:59"])
@examples(50)
def test_a_rows_values_do_not_depend_on_its_neighbours(values: list[Any]) -> None:
    bodies = [changed(created_at=value) for value in values]
    together = flatten([resolved(body, f"t{index}") for index, body in enumerate(bodies)])
    alone = [flatten([resolved(body, f"t{index}")]) for index, body in enumerate(bodies)]
    assert together.table.to_pylist() == [part.table.to_pylist()[0] for part in alone]
    assert sum(drift.count for drift in together.drift) == sum(drift.count for part in alone for drift in part.drift)


@given(st.lists(answers(), min_size=2, max_size=4))
@examples(30)
def test_a_rows_drift_does_not_depend_on_its_neighbours(bodies: list[dict[str, Any]]) -> None:
    outcomes = [resolved(body, f"t{index}") for index, body in enumerate(bodies)]
    together, alone = flatten(outcomes), [flatten([outcome]) for outcome in outcomes]
    assert together.table.equals(pa.concat_tables([part.table for part in alone]))
    assert sum(drift.count for drift in together.drift) == sum(drift.count for part in alone for drift in part.drift)


FEW: list[Any] = [0, 1, 2, True, False, 1.0, 2.0, "2", "", None, {}, [1]]  # 1, True and 1.0 are equal to Python


@pytest.mark.parametrize(
    ("name", "key"), [("video", "width"), ("video_raw", "duration"), ("thumbnail", "palette"), ("last_frame", "new")]
)
def test_what_artifact_says_again_is_read_as_if_it_alone_said_it(name: str, key: str) -> None:
    columns = [field.name for field in FIELDS if field.path[0] == "artifact"]
    for value, again in itertools.product(FEW, FEW):
        artifact = {**PAGE["artifact"], name: {**PAGE[name], key: again}}
        twice = flatten([resolved(changed(artifact=artifact, **{name: {**PAGE[name], key: value}}))])
        once = flatten([resolved({"artifact": artifact})])
        assert twice.table.select(columns).equals(once.table.select(columns)), (value, again)
        assert [drift for drift in twice.drift if drift.field.startswith("artifact.")] == list(once.drift)


def test_what_is_not_on_the_page_may_be_nested_however_deep() -> None:
    deep: list[Any] = []
    again: list[Any] = []
    for _ in range(20_000):
        deep, again = [deep], [again]
    body = {"video": {"new": deep}, "artifact": {"video": {"new": again}}}
    drift = flatten([TaskResult("t", Outcome.RESOLVED, POLLED, generation=body)]).drift
    assert [(d.field, d.found) for d in drift] == [("artifact.video.new", "array"), ("video.new", "array")]


DEEP = b'{"state": "completed", "new": ' + b"[" * 500 + b"]" * 500 + b"}"
RAW = [
    DEEP,
    b'{"state": "completed", "video": {"width": ' + b"9" * 400 + b"}}",
    b'{"state": "completed", "request": {"prompt": "\\ud83d"}}',
    b'{"state": "completed", "video_raw": {"duration": -Infinity}, "created_at": NaN}',
    b'{"state": "completed", "state": "failed"}',
    b'\xef\xbb\xbf{"state": "completed"}',
    '{"state": "completed", "request": {"prompt": "日本 🎬"}}'.encode(),
]


@pytest.mark.parametrize("raw", RAW)
def test_what_json_allows_is_a_row_with_its_text(raw: bytes) -> None:
    answer = read_answer(200, raw)
    outcome = TaskResult("t", Outcome.RESOLVED, POLLED, generation=answer.body, raw_response=answer.text)
    table = to_table([outcome])
    table.validate(full=True)
    row = table.to_pylist()[0]
    assert row["raw_response"] == raw.decode()
    assert row["state"] in FINAL_STATES


# A further field is one line, whatever its type and its object.

IS_LOOP = Field("loop", ("loop",), pa.bool_())
BOOLEANS: list[tuple[Any, bool | None, str | None]] = [
    (True, True, None),
    (False, False, None),
    (None, None, None),
    ("", None, None),
    (1, None, "integer"),
    ("true", None, "string"),
]


@pytest.mark.parametrize(("value", "read", "drift"), BOOLEANS)
def test_a_field_may_be_true_or_false(value: Any, read: bool | None, drift: str | None) -> None:
    flattened = flatten([resolved({"state": "pending", "loop": value})], fields=(*FIELDS, IS_LOOP))
    assert flattened.table["loop"].to_pylist() == [read]
    assert [found.found for found in flattened.drift] == ([drift] if drift else [])


CLIP = {"url": "u", "seed": 7}
REPEATED = [
    ("beside alone", [("video", "seed")], "artifact.video.seed"),
    ("in the artifact alone", [("artifact", "video", "seed")], "video.seed"),
    ("in both", [("video", "seed"), ("artifact", "video", "seed")], None),
]


@pytest.mark.parametrize(("paths", "drift"), [case[1:] for case in REPEATED], ids=[case[0] for case in REPEATED])
def test_a_field_may_be_in_one_of_two_objects_that_say_the_same(
    paths: list[tuple[str, ...]], drift: str | None
) -> None:
    own = [Field(f"own_{number}", path, pa.int64()) for number, path in enumerate(paths)]
    answer = {"state": "completed", "video": CLIP, "artifact": {"video": CLIP}}
    flattened = flatten([resolved(answer)], fields=(*FIELDS, *own))
    assert [flattened.table[field.name][0].as_py() for field in own] == [7] * len(own)
    assert flattened.table["video_url"].to_pylist() == flattened.table["artifact_video_url"].to_pylist() == ["u"]
    assert [found.field for found in flattened.drift] == ([drift] if drift else [])


def test_an_object_that_only_the_artifact_has_is_read() -> None:
    camera = Field("artifact_camera_name", ("artifact", "camera", "name"), pa.string())
    table = flatten([resolved({"artifact": {"camera": {"name": "n"}}})], fields=(*FIELDS, camera)).table
    assert table["artifact_camera_name"].to_pylist() == ["n"]


def test_true_in_one_object_and_one_in_the_other_are_not_the_same() -> None:
    fields = (
        Field("video_loop", ("video", "loop"), pa.bool_()),
        Field("again", ("artifact", "video", "loop"), pa.bool_()),
    )
    answer = {"video": {"loop": True}, "artifact": {"video": {"loop": 1}}}
    flattened = flatten([resolved(answer)], fields=fields)
    assert flattened.table.select(["video_loop", "again"]).to_pylist() == [{"video_loop": True, "again": None}]
    assert [found.field for found in flattened.drift] == ["artifact.video.loop"]


@pytest.mark.parametrize(
    "text",
    [
        *("2024-12-24T18:60:00Z", "2024-12-24T18:00:61Z", "2024-12-24T24:00:01Z", "2024-12-24T25:00:00Z"),
        *("2024-13-24T18:00:00Z", "2024-12-32", "2024-02-30", "0000-01-01", "9999-12-31T24:00:00Z", "yesterday", ""),
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_a_text_that_names_no_moment_is_no_time(text: str) -> None:
    assert parse_timestamp(text) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-12-24T18:59:59Z", datetime(2024, 12, 24, 18, 59, 59, tzinfo=UTC)),
        ("2024-12-24T23:59:60Z", datetime(2024, 12, 25, tzinfo=UTC)),
        ("2024-12-24T23:59:60.9Z", datetime(2024, 12, 25, tzinfo=UTC)),
        ("2024-12-24T24:00:00.000Z", datetime(2024, 12, 25, tzinfo=UTC)),
        ("2024-12-24T01:30+05:30", datetime(2024, 12, 23, 20, tzinfo=UTC)),
        ("2024-12-24T01:30-05:30", datetime(2024, 12, 24, 7, tzinfo=UTC)),
        ("2024-12-24T01:30:00.1234569Z", datetime(2024, 12, 24, 1, 30, 0, 123456, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read_to_the_microsecond(text: str, moment: datetime) -> None:
    assert parse_timestamp(text) == moment


def test_times_without_a_zone_are_utc() -> None:
    naive = datetime(2024, 12, 24, 18)  # noqa: DTZ001 - as a caller may give it
    table = flatten([resolved(PAGE)], [naive]).table
    assert table["submitted_at"].to_pylist() == [naive.replace(tzinfo=UTC)]


@pytest.mark.parametrize(
    "number", [10**400, -(10**400), "1e999", "nan", "inf", True, [1.0]], ids=lambda value: str(value)[:8]
)
def test_a_number_that_no_column_can_hold_is_drift(number: Any) -> None:
    flattened = flatten([resolved({**PAGE, "video_raw": {"duration": number}})])
    assert flattened.table["video_raw_duration"].to_pylist() == [None]
    assert [drift.field for drift in flattened.drift] == ["video_raw.duration"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [(2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (2.0, 2), ("7", 7), ("-7", -7)]
    + [(odd, None) for odd in (" 7", 2**63, -(2**63) - 1, 2.5, "7.5", "7e0", True)],
)
def test_a_whole_number_is_taken_where_it_is_one(sent: Any, kept: int | None) -> None:
    flattened = flatten([resolved({**PAGE, "video_raw": {"width": sent}})])
    assert flattened.table["video_raw_width"].to_pylist() == [kept]
    assert len(flattened.drift) == (kept is None)


KINDS = (
    Field("flag", ("flag",), pa.bool_()),
    Field("count", ("count",), pa.int64()),
    Field("share", ("share",), pa.float64()),
    Field("note", ("note",), pa.string()),
    Field("at", ("at",), TIMESTAMP),
)
ONE_BY_ONE: list[tuple[str, Any, Any]] = [
    # field, what was sent, what its column has
    *(("flag", value, value) for value in (True, False)),
    *(("count", value, value) for value in (-(2**63), 2**63 - 1, -127, 0)),
    *(("share", value, value) for value in (-1.5, 0.0, 1e300)),
    *(("note", value, value) for value in ("a", "é")),
    ("at", "0002-01-01T00:00:00Z", datetime(2, 1, 1, tzinfo=UTC)),
    ("at", "2024-12-24T18:00:00", datetime(2024, 12, 24, 18, tzinfo=UTC)),
    ("at", "2024-12-24T18:00:00+01:00", datetime(2024, 12, 24, 17, tzinfo=UTC)),
    ("at", "9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    *(("at", value, None) for value in ("0001-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "", None)),
]


@pytest.mark.parametrize(("name", "sent", "kept"), ONE_BY_ONE)
def test_a_value_is_read_alike_alone_and_beside_one_of_another_type(name: str, sent: Any, kept: Any) -> None:
    odd: Any = [1]
    for values, expected in (([sent], [kept]), ([sent, sent], [kept, kept]), ([sent, odd, sent], [kept, None, kept])):
        flattened = flatten([resolved({"state": "x", name: value}) for value in values], fields=KINDS)
        assert flattened.table[name].to_pylist() == expected
        named = [(drift.field, drift.found, drift.count) for drift in flattened.drift if not drift.unknown]
        assert named == ([(name, "array", 1)] if odd in values else [])


def test_columns_have_their_types_whatever_is_in_them() -> None:
    nothing = TaskResult("t", Outcome.REQUEST_FAILED, datetime(2024, 12, 24, tzinfo=UTC))
    for results in ([], [nothing], [nothing, resolved(PAGE)]):
        table = to_table(results)
        assert table.schema.equals(GENERATIONS_SCHEMA)
        assert {field.name for field in KINDS} <= set(to_table(results, fields=KINDS).schema.names)
    assert [row["id"] for row in table.to_pylist()] == [None, PAGE["id"]]


def test_what_utf8_cannot_say_is_replaced_and_a_missing_text_stays_missing() -> None:
    at = datetime(2024, 12, 24, tzinfo=UTC)
    results = [TaskResult(task_id, Outcome.REQUEST_FAILED, at, error_message=task_id) for task_id in ("a", "\ud800")]
    results.append(TaskResult("b", Outcome.REQUEST_FAILED, at))
    table = to_table(results)
    assert table["task_id"].to_pylist() == ["a", "?", "b"]
    assert table["error_message"].to_pylist() == ["a", "?", None]


def test_a_value_in_the_place_of_an_object_is_drift_with_its_own_type() -> None:
    flattened = flatten([resolved(changed(video=value)) for value in ("text", 7, None)])
    assert [(drift.field, drift.found) for drift in flattened.drift] == [("video", "integer"), ("video", "string")]


def test_the_time_of_an_answer_without_a_zone_is_utc() -> None:
    at = datetime(2024, 12, 24, 18, 1, 2, 345678)  # noqa: DTZ001 - as a caller may give it
    table = flatten([TaskResult("t", Outcome.REQUEST_FAILED, at)] * 2).table
    assert table["polled_at"].to_pylist() == [at.replace(tzinfo=UTC)] * 2
