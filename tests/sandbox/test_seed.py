"""The seeded source table: the same after a restart, with every kind of row a source has."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sqlalchemy import create_engine, text

from luma_pipeline.sandbox.cdn import CdnServer
from luma_pipeline.sandbox.generation import Oddity
from luma_pipeline.sandbox.seed import seed

NOW = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)


def rows(url: str) -> list[tuple[str | None, str]]:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            query = text("SELECT task_id, submitted_at FROM generations ORDER BY id")
            return [(row.task_id, row.submitted_at) for row in connection.execute(query)]
    finally:
        engine.dispose()


def test_seeding_again_changes_nothing_and_another_day_adds_only_itself(tmp_path: Path) -> None:
    url, cdn = f"sqlite:///{tmp_path / 'source.db'}", CdnServer()
    first = seed(url, cdn, now=NOW, days=3)
    before = rows(url)
    again = seed(url, cdn, now=NOW + timedelta(hours=5), days=3, open_task_minutes=(99,))
    assert (again.generations, again.rows, rows(url)) == (first.generations, first.rows, before)
    later = seed(url, cdn, now=NOW + timedelta(days=2), days=3)
    assert later.generations[: len(first.generations)] == first.generations
    assert rows(url)[: len(before)] == before
    assert (first.first_day, first.last_day, later.last_day) == (date(2026, 3, 2), date(2026, 3, 4), date(2026, 3, 6))


def test_two_sandboxes_of_the_same_moment_are_the_same(tmp_path: Path) -> None:
    one, other = (
        seed(f"sqlite:///{tmp_path / name}.db", CdnServer(), now=NOW, days=2).generations for name in ("one", "other")
    )
    assert [(task.task_id, task.phases, task.oddities) for task in one] == [
        (task.task_id, task.phases, task.oddities) for task in other
    ]


def test_the_table_holds_null_blank_repeated_unknown_failing_and_open_ids(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'source.db'}"
    source = seed(url, CdnServer(), now=NOW, days=4, open_task_minutes=(1, 3))
    ids = [task_id for task_id, _ in rows(url)]
    known = {generation.task_id: generation for generation in source.generations}
    assert None in ids
    assert any(task_id is not None and not task_id.strip() for task_id in ids)
    assert max(Counter(ids).values()) > 1
    assert any(task_id and task_id.strip() and task_id not in known for task_id in ids)
    assert set(known) <= set(ids)
    assert source.rows == len(ids)
    assert source.task_ids == len({task_id for task_id in ids if task_id and task_id.strip()})
    assert any("/" in task_id for task_id in known)
    states = [
        Counter(task.state_at(NOW + timedelta(minutes=minute)) for task in known.values()) for minute in (0, 1, 3)
    ]
    assert [counts["completed"] - states[0]["completed"] for counts in states] == [0, 1, 2]
    assert states[0]["failed"] > 0
    assert states[2]["pending"] == 1
    oddities = {oddity for task in known.values() for oddity in task.oddities}
    assert {Oddity.PRESIGNED_DOWNLOAD, Oddity.UNKNOWN_STATE, Oddity.NUMBERS_AS_STRINGS, Oddity.PROXY_HTML} <= oddities


def test_no_row_lies_outside_its_days_or_in_the_future(tmp_path: Path) -> None:
    for name, now in (("noon", NOW), ("midnight", datetime(2026, 3, 4, 0, 0, 5, tzinfo=UTC))):
        url = f"sqlite:///{tmp_path / name}.db"
        seed(url, CdnServer(), now=now, days=2)
        times = [datetime.fromisoformat(submitted_at) for _, submitted_at in rows(url)]
        assert times[0].date() == date(2026, 3, 3)
        assert max(times) <= now.replace(tzinfo=None)
        assert {moment.date() for moment in times} == {date(2026, 3, 3), date(2026, 3, 4)}
