"""The sandbox's source table and the tasks its provider knows: the same for the same days, at every start."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import (
    Column,
    Connection,
    Date,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    select,
)

from luma_pipeline.sandbox import samples
from luma_pipeline.sandbox.cdn import CdnServer
from luma_pipeline.sandbox.generation import Generation, Oddity, Phase, State

TABLE = "generations"
TASK_ID_COLUMN = "task_id"
TIME_COLUMN = "submitted_at"
EXTRA_COLUMNS = ("customer", "prompt")

_SEED = 20241224
_METADATA = MetaData()
_GENERATIONS = Table(
    TABLE,
    _METADATA,
    Column("id", Integer, primary_key=True),
    Column(TASK_ID_COLUMN, String, nullable=True),
    Column(TIME_COLUMN, DateTime, nullable=False, comment="UTC"),
    Column("customer", String, nullable=False),
    Column("prompt", String, nullable=False),
)
_DAYS = Table(
    "sandbox_days",
    _METADATA,
    Column("day", Date, primary_key=True),
    Column("seeded_at", DateTime, nullable=False, comment="UTC"),
    Column("tasks", Integer, nullable=False),
    Column("open_task_minutes", String, nullable=False),
)

_CUSTOMERS = ("acme-films", "blue-harbour", "kite-studio", "north-museum")
_PROMPTS = {
    "gradients": ("a slow sunrise over calm water", "dusk settling on a salt flat", "northern lights, no wind"),
    "mandelbrot": ("falling into a coastline without end", "a coral reef seen through a kaleidoscope", "mermaid"),
    "life": ("city lights from above at night", "fireflies finding each other", "a fleet of lanterns on a river"),
    "sierpinski": ("a cathedral of triangles", "frost growing on a window", "origami mountains, one take"),
}
_FAILURES = (
    "The prompt was rejected by moderation.",
    "The input image could not be read.",
    "Internal error, refunded.",
)
# Four a day, in turn; each on a task that is completed.
_ODDITIES = (
    Oddity.PRESIGNED_DOWNLOAD,
    Oddity.NUMBERS_AS_STRINGS,
    Oddity.MISSING_OBJECTS,
    Oddity.PROXY_HTML,
    Oddity.EXTRA_FIELDS,
    Oddity.NULL_OBJECTS,
    Oddity.EMPTY_DOWNLOAD_URL,
    Oddity.CUT_BODY,
    Oddity.CREATED_AT_MICROSECONDS,
    Oddity.EMPTY_OBJECTS,
    Oddity.THUMBNAIL_STRING,
    Oddity.GZIP_BODY,
    Oddity.CREATED_AT_YEAR_ONE,
    Oddity.THUMBNAIL_NULL,
    Oddity.THUMBNAIL_OBJECT,
    Oddity.MISSING_DOWNLOAD_URL,
)
_PASSING_ODDITIES = frozenset({Oddity.PROXY_HTML, Oddity.CUT_BODY})
_ODDITIES_A_DAY = 4
# Which of a day's tasks are not simply completed, by their place in it.
_FAILED_TASKS = frozenset({1, 7})
_WILD_ID = 2
_UNKNOWN_TASK = 3
_EVERY_OTHER_DAY_ODD_TASK = 6
_FIRST_ODD_TASK = 8
_EPOCH = date(2024, 1, 1)


@dataclass(frozen=True)
class SeededSource:
    """The source table, and the tasks of its rows that the provider knows. Days are UTC, both included.

    `task_ids` is the number of distinct IDs that are neither null nor blank.
    """

    url: str
    first_day: date
    last_day: date
    rows: int
    task_ids: int
    generations: tuple[Generation, ...]


@dataclass(frozen=True)
class _Row:
    task_id: str | None
    submitted_at: datetime
    customer: str
    prompt: str
    generation: Generation | None = None


@dataclass(frozen=True)
class _Day:
    day: date
    seeded_at: datetime
    tasks: int
    open_task_minutes: tuple[float, ...]

    @property
    def is_open(self) -> bool:
        """Whether the day was still going on when it was seeded."""
        return self.day == self.seeded_at.date()


def seed(
    url: str,
    cdn: CdnServer,
    *,
    now: datetime,
    days: int = 4,
    tasks_per_day: int = 12,
    open_task_minutes: Sequence[float] = (1, 3, 10),
) -> SeededSource:
    """Fill the table at a SQLAlchemy URL, and publish its videos on the CDN.

    A new table gets the `days` up to the one of `now` (aware), a table seeded before gets the days since then, and
    one seeded today is left as it is. What a day holds is a function of its date and of the values it was seeded with,
    which are kept beside it; so a task's states depend on the clock alone, not on restarts. Each day has completed and
    failed tasks, IDs the provider does not know, null, blank and repeated IDs, and oddities of answers; the last day
    also has a task for each of `open_task_minutes` that is finished so many minutes after the seeding, and one that
    never is.
    """
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            _METADATA.create_all(connection)
            seeded = _read_days(connection)
            for day in _missing_days(seeded, now, days):
                fresh = _Day(day, now.astimezone(UTC), tasks_per_day, tuple(open_task_minutes))
                _insert_day(connection, fresh, list(_rows(fresh)))
                seeded.append(fresh)
    finally:
        engine.dispose()
    rows = [row for day in seeded for row in _rows(day)]
    generations = tuple(row.generation.published(cdn) for row in rows if row.generation is not None)
    task_ids = {row.task_id for row in rows if row.task_id and row.task_id.strip()}
    return SeededSource(url, seeded[0].day, seeded[-1].day, len(rows), len(task_ids), generations)


def _missing_days(seeded: list[_Day], now: datetime, days: int) -> list[date]:
    today = now.astimezone(UTC).date()
    first = seeded[-1].day + timedelta(days=1) if seeded else today - timedelta(days=days - 1)
    return [first + timedelta(days=offset) for offset in range((today - first).days + 1)]


def _read_days(connection: Connection) -> list[_Day]:
    return [
        _Day(
            row.day,
            row.seeded_at.replace(tzinfo=UTC),
            row.tasks,
            tuple(float(minutes) for minutes in row.open_task_minutes.split()),
        )
        for row in connection.execute(select(_DAYS).order_by(_DAYS.c.day))
    ]


def _insert_day(connection: Connection, day: _Day, rows: list[_Row]) -> None:
    connection.execute(
        insert(_DAYS).values(
            day=day.day,
            seeded_at=day.seeded_at.replace(tzinfo=None),
            tasks=day.tasks,
            open_task_minutes=" ".join(str(minutes) for minutes in day.open_task_minutes),
        )
    )
    values = [
        {
            TASK_ID_COLUMN: row.task_id,
            TIME_COLUMN: row.submitted_at.replace(tzinfo=None),
            "customer": row.customer,
            "prompt": row.prompt,
        }
        for row in rows
    ]
    connection.execute(insert(_GENERATIONS), values)


def _rows(day: _Day) -> Iterator[_Row]:
    """The day's rows, oldest first; random only by the date."""
    rng = random.Random(f"{_SEED}:{day.day}")
    times = _submission_times(day, rng)
    known: list[_Row] = []
    for index, submitted_at in enumerate(times):
        task_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        if index == _WILD_ID:
            # An ID is data: a gateway may use any characters.
            task_id = f"kite/{day.day}: take #{index}?é"
        row = _row(day, task_id, submitted_at, rng, index, _oddities(day, index))
        known.append(row)
        yield row
    last = times[-1]
    yield _Row(None, last, rng.choice(_CUSTOMERS), "never submitted: no ID")
    yield _Row(rng.choice(("", "   ")), last, rng.choice(_CUSTOMERS), "never submitted: blank ID")
    yield _Row(known[0].task_id, last, known[0].customer, known[0].prompt)
    if day.is_open:
        yield from _open_rows(day, rng)


def _row(
    day: _Day, task_id: str, submitted_at: datetime, rng: random.Random, index: int, oddities: tuple[Oddity, ...]
) -> _Row:
    customer, prompt = rng.choice(_CUSTOMERS), rng.choice(_PROMPTS[samples.clip_of(task_id).name])
    finished_after = min(rng.uniform(40, 90), (day.seeded_at - submitted_at).total_seconds())
    failure_reason = rng.choice(_FAILURES)
    if index == _UNKNOWN_TASK:
        return _Row(task_id, submitted_at, customer, prompt)
    generation = Generation(
        task_id,
        _phases(finished_after, State.FAILED if index in _FAILED_TASKS else State.COMPLETED),
        prompt,
        created_at=submitted_at,
        failure_reason=failure_reason,
        oddities=oddities,
        odd_answers=1 if _PASSING_ODDITIES.intersection(oddities) else None,
    )
    return _Row(task_id, submitted_at, customer, prompt, generation)


def _oddities(day: _Day, index: int) -> tuple[Oddity, ...]:
    ordinal = (day.day - _EPOCH).days
    turn = index - _FIRST_ODD_TASK
    if 0 <= turn < _ODDITIES_A_DAY:
        return (_ODDITIES[(ordinal * _ODDITIES_A_DAY + turn) % len(_ODDITIES)],)
    if index == _EVERY_OTHER_DAY_ODD_TASK:
        return (Oddity.NOT_AN_OBJECT,) if ordinal % 4 == 0 else (Oddity.NOT_FOUND_200,) if ordinal % 2 else ()
    return ()


def _open_rows(day: _Day, rng: random.Random) -> Iterator[_Row]:
    midnight = datetime.combine(day.day, time(), UTC)
    submitted_at = max(midnight, day.seeded_at - timedelta(seconds=30))
    waited = (day.seeded_at - submitted_at).total_seconds()
    lives = [(_phases(waited + 60 * minutes, State.COMPLETED), ()) for minutes in day.open_task_minutes]
    for phases, oddities in (*lives, ((Phase(0, State.PENDING),), (Oddity.UNKNOWN_STATE,))):
        task_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        prompt = rng.choice(_PROMPTS[samples.clip_of(task_id).name])
        generation = Generation(task_id, phases, prompt, created_at=submitted_at, oddities=oddities)
        yield _Row(task_id, submitted_at, rng.choice(_CUSTOMERS), prompt, generation)


def _phases(finished_after_seconds: float, end: State) -> tuple[Phase, ...]:
    return (
        Phase(0, State.PENDING),
        Phase(finished_after_seconds / 2, State.PROCESSING),
        Phase(finished_after_seconds, end),
    )


def _submission_times(day: _Day, rng: random.Random) -> list[datetime]:
    midnight = datetime.combine(day.day, time(), UTC)
    end = midnight + timedelta(days=1)
    if day.is_open:
        end = max(midnight, day.seeded_at - timedelta(minutes=3))
    span = (end - midnight).total_seconds()
    seconds = sorted(rng.uniform(0, span) for _ in range(day.tasks))
    return [midnight + timedelta(milliseconds=int(second * 1000)) for second in seconds]
