"""A task ID that the source has on several days is a task of the first alone."""

from __future__ import annotations

import itertools
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from luma_pipeline.source.table import SourceTable, SourceTasks
from tests.source.databases import AT, END, START, Database, database_of, generations

DAY = timedelta(days=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database_of(request, tmp_path)


def days(database: Database, first: int, last: int, **settings: Any) -> list[SourceTasks]:
    """The tasks of the days from `first` to `last`, counted from START: the same each by itself, and in one run."""
    windows = [(START + day * DAY, END + day * DAY) for day in range(first, last + 1)]
    found = []
    for run in (None, (windows[0][0], windows[-1][1]), (START - 50 * DAY, END + 50 * DAY)):
        with SourceTable(**{"url": database.url, "table": "generations", **settings}) as source:
            if run is not None:
                source.expect(*run)
            found.append([source.read(*window) for window in windows])
    assert found[0] == found[1] == found[2]
    return found[0]


def rows(*stored: tuple[Any, int]) -> list[dict[str, Any]]:
    """Rows of an ID and a day each, at noon."""
    return [{"task_id": task_id, "submitted_at": AT + day * DAY + timedelta(hours=12)} for task_id, day in stored]


FIRST, SECOND = uuid.UUID(int=1), uuid.UUID(int=2)
IDS: list[tuple[str, Any, list[Any]]] = [
    ("text", sa.Text, ["a", "b"]),
    ("text of different case", sa.String(9), ["A", "a"]),
    ("text with blanks around", sa.Text, ["a ", "a"]),
    ("integer", sa.Integer, [1, 11]),
    ("uuid", sa.Uuid, [FIRST, SECOND]),
]


@pytest.mark.parametrize(("kind", "ids"), [case[1:] for case in IDS], ids=[case[0] for case in IDS])
def test_an_id_of_two_days_is_of_the_first(database: Database, kind: Any, ids: list[Any]) -> None:
    first, second = ids
    database.create(generations(sa.DateTime, id_type=kind), rows((first, -40), (first, 0), (second, 0), (first, 1)))
    texts = [str(value) if database.is_postgres or kind is not sa.Uuid else value.hex for value in ids]
    long_ago = database.read(START - 40 * DAY, END - 40 * DAY)
    today, tomorrow = days(database, 0, 1)
    assert [part.table["task_id"].to_pylist() for part in (long_ago, today, tomorrow)] == [[texts[0]], [texts[1]], []]
    assert [part.ids_of_earlier_partitions for part in (long_ago, today, tomorrow)] == [0, 1, 1]
    assert [part.source_rows for part in (long_ago, today, tomorrow)] == [1, 2, 1]


def test_ids_that_the_database_takes_for_the_same_by_its_collation_are_two_tasks(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'source.db'}")
    kind = sa.Text(collation="NOCASE")
    database.create(generations(sa.DateTime, id_type=kind), rows(("A", 0), ("a", 5), ("A", 5), ("b", 5)))
    [day] = days(database, 5, 5)
    assert (day.table["task_id"].to_pylist(), day.ids_of_earlier_partitions) == (["a", "b"], 1)


def test_blank_ids_are_nobodys(database: Database) -> None:
    blanks = [(blank, day) for blank in (None, "", "  ") for day in (0, 5)]
    database.create(generations(sa.DateTime), rows(*blanks, ("a", 5)))
    [day] = days(database, 5, 5)
    assert (day.table["task_id"].to_pylist(), day.blank_ids, day.ids_of_earlier_partitions) == (["a"], 3, 0)


FORMS: dict[str, tuple[Any, Callable[[datetime], Any]]] = {
    "text with an offset": (sa.Text, lambda t: f"{(t + timedelta(hours=14)).isoformat()}+14:00"),
    "text of the basic format": (sa.Text, lambda t: f"{t:%Y%m%dT%H%M%SZ}"),
    "epoch milliseconds": (sa.BigInteger, lambda t: (t - datetime(1970, 1, 1)) // timedelta(milliseconds=1)),  # noqa: DTZ001
    "date": (sa.Date, lambda t: t.date()),
    "time without a zone": (sa.DateTime, lambda t: t),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_id_is_in_one_partition_the_first_however_times_are_kept(database: Database, form: str) -> None:
    kind, stored = FORMS[form]
    chance = random.Random(form)  # the same tasks in every run
    drawn = [(f"task-{chance.randrange(30)}", AT + chance.uniform(-3, 3) * DAY) for _ in range(60)]
    drawn = [(task_id, at.replace(microsecond=0)) for task_id, at in drawn]
    database.create(generations(kind), [{"task_id": task_id, "submitted_at": stored(at)} for task_id, at in drawn])
    first: dict[str, datetime] = {}
    for task_id, at in drawn:
        first[task_id] = min(first.get(task_id, at), at)
    found = days(database, -4, 3)
    pairs = [(task_id, number) for number, part in enumerate(found) for task_id in part.table["task_id"].to_pylist()]
    assert sorted(pairs) == sorted((task_id, (at - (AT - 4 * DAY)).days) for task_id, at in first.items())
    assert sum(part.source_rows for part in found) == len(drawn)
    for part in found:
        assert len(part.table) == part.source_rows - part.repeated_ids - part.ids_of_earlier_partitions


def test_only_a_row_of_a_partition_takes_an_id_away(database: Database) -> None:
    """Not one before the first partition, without a readable time, or that the condition leaves out."""
    table = generations(sa.Text, sa.Column("kind", sa.Text))
    stored = [("early", "2024-01-01"), ("late", "Tue, 24 Dec 2024"), ("other", "2024-12-01"), ("taken", "2024-12-02")]
    kinds = {"other": "y"}
    earlier = [{"task_id": i, "submitted_at": at, "kind": kinds.get(i, "x")} for i, at in stored]
    today = [{"task_id": i, "submitted_at": "2024-12-24T10:00:00Z", "kind": "x"} for i, _ in stored]
    database.create(table, [*earlier, *today])
    [day] = days(database, 0, 0, where="generations.kind = 'x'", since="2024-06-01T00:00:00+00:00")
    assert day.table["task_id"].to_pylist() == ["early", "late", "other"]
    assert day.ids_of_earlier_partitions == 1


def test_a_view_has_repeated_ids_as_well(database: Database) -> None:
    database.create(generations(sa.DateTime), rows(("a", 0), ("a", 5), ("b", 5)))
    database.run("CREATE VIEW recent AS SELECT * FROM generations")
    [day] = days(database, 5, 5, table="recent")
    assert day.table["task_id"].to_pylist() == ["b"]


@contextmanager
def statements() -> Iterator[list[str]]:
    """The SELECTs of the block from the table of generations."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM generations" in statement:
            seen.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


SCHEMAS: list[tuple[str, Sequence[str], bool]] = [
    ("primary key", ["task_id VARCHAR(40) PRIMARY KEY, n INT"], True),
    ("unique constraint", ["task_id VARCHAR(40), n INT, UNIQUE (task_id)"], True),
    ("unique index", ["task_id VARCHAR(40), n INT", "CREATE UNIQUE INDEX one ON generations (task_id)"], True),
    ("primary key of two", ["task_id VARCHAR(40), n INT, PRIMARY KEY (task_id, n)"], False),
    ("index", ["task_id VARCHAR(40), n INT", "CREATE INDEX one ON generations (task_id)"], False),
    (
        "unique index of some rows",
        ["task_id VARCHAR(40), n INT", "CREATE UNIQUE INDEX one ON generations (task_id) WHERE n > 0"],
        False,
    ),
    (
        "unique index of something else",
        ["task_id VARCHAR(40), n INT", "CREATE UNIQUE INDEX one ON generations (lower(task_id))"],
        False,
    ),
]


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
@pytest.mark.parametrize(("schema", "is_unique"), [case[1:] for case in SCHEMAS], ids=[case[0] for case in SCHEMAS])
def test_a_schema_that_says_ids_are_unique_is_believed(
    database: Database, schema: Sequence[str], is_unique: bool
) -> None:
    columns, *more = schema
    database.run(f"CREATE TABLE generations (submitted_at TIMESTAMP, {columns})", *more)
    database.run("INSERT INTO generations (task_id, n, submitted_at) VALUES ('a', 1, '2024-12-24 10:00:00')")
    source = SourceTable(url=database.url, table="generations")
    with statements() as asked:
        for start, end in itertools.pairwise([START, END, END + DAY]):
            source.read(start, end)
    source.close()
    # A day without a task asks for nothing more.
    assert len(asked) == (2 if is_unique else 3)


def test_tasks_with_a_row_every_minute_are_of_their_first_day(postgres_url: str) -> None:
    database = Database(postgres_url)
    database.run(
        "CREATE TABLE generations AS SELECT 'task-' || mod(n, 3) AS task_id,"
        " timestamp '2024-12-01' + n * interval '1 minute' AS submitted_at FROM generate_series(0, 99999) AS n"
    )
    last = database.read(START + 30 * DAY, END + 30 * DAY)
    assert (len(last.table), last.source_rows, last.repeated_ids, last.ids_of_earlier_partitions) == (0, 1440, 1437, 3)


def test_the_windows_of_a_run_look_for_repeated_ids_once(database: Database) -> None:
    database.create(generations(sa.DateTime), rows(*((f"t{day}", day) for day in range(20)), ("t1", 7), ("t3", -9)))
    with SourceTable(url=database.url, table="generations") as source:
        source.check()
        source.expect(START, END + 19 * DAY)
        with statements() as seen:
            found = [source.read(START + day * DAY, END + day * DAY) for day in range(20)]
    assert [part.table["task_id"].to_pylist() for part in found] == [
        [] if day == 3 else [f"t{day}"] for day in range(20)
    ]
    assert sum("task_id" in statement for statement in seen) == 20 + 2


def test_the_hours_of_a_run_read_their_day_once(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'source.db'}")
    hour = timedelta(hours=1)
    stored = [
        {"task_id": f"t{number % 40}", "submitted_at": f"{START + number * hour:%Y-%m-%d %H:%M}"}
        for number in range(-30, 54)
    ]
    database.create(generations(sa.Text), [*stored, {"task_id": " ", "submitted_at": f"{START:%Y-%m-%d %H:%M}"}])
    windows = [(START + number * hour, START + (number + 1) * hour) for number in range(48)]
    found = []
    for run in (None, (START, START + 48 * hour)):
        with SourceTable(url=database.url, table="generations") as source, statements() as seen:
            if run is not None:
                source.expect(*run)
            found.append([source.read(*window) for window in windows])
    assert found[0] == found[1]
    assert [part.source_rows for part in found[0]] == [2] + [1] * 47
    assert [part.blank_ids for part in found[0]] == [1] + [0] * 47
    # Two days, and a look for repeated IDs in two statements.
    assert sum("task_id" in statement and "SELECT" in statement for statement in seen) == 4
