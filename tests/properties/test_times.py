"""Times of any form: each is read as the moment that it names, or told of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.dataset import Dataset
from luma_pipeline.luma import GATEWAY, Outcome, TaskResult
from luma_pipeline.luma.flatten import flatten
from luma_pipeline.luma.timestamps import parse_timestamp
from luma_pipeline.source.times import to_utc
from tests.properties.effort import examples
from tests.properties.wild import FORMS, moments, offsets

NOW = datetime(2024, 12, 24, 18, tzinfo=UTC)
digits_of_a_second = st.text("0123456789", min_size=1, max_size=12)
moments_as_text = st.tuples(moments, offsets, st.sampled_from(FORMS), digits_of_a_second | st.none())


def said(at: datetime, offset: timezone, form: object, digits: str | None) -> tuple[str, datetime]:
    """A text that names a moment, and the moment: cut to microseconds."""
    local = at.replace(microsecond=0).astimezone(offset)
    fraction = timedelta(microseconds=int((digits or "0").ljust(6, "0")[:6]))
    return form(local, f".{digits}" if digits else ""), local.astimezone(UTC) + fraction  # type: ignore[operator]


@examples(300)
@given(moments_as_text)
def test_a_moment_in_any_form_is_read_as_that_moment(drawn: tuple[datetime, timezone, object, str | None]) -> None:
    text, moment = said(*drawn)
    found = parse_timestamp(text)
    assert found is not None
    assert (found if found.tzinfo else found.replace(tzinfo=UTC)) == moment
    assert to_utc(text, ZoneInfo("UTC")) == moment


@examples(40)
@given(drawn=st.lists(moments_as_text, min_size=1, max_size=6))
def test_a_column_of_times_has_the_moments_in_arrow_and_in_duckdb(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[datetime, timezone, object, str | None]]
) -> None:
    texts, expected = zip(*(said(*each) for each in drawn), strict=True)
    results = [
        TaskResult(f"t{number}", Outcome.RESOLVED, NOW, generation={"state": "completed", "created_at": text})
        for number, text in enumerate(texts)
    ]
    flattened = flatten(results)
    assert flattened.drift == ()
    # The provider writes "no time" as the first moment of the first year.
    expected = tuple(None if moment.year == 1 else moment for moment in expected)
    assert flattened.table["created_at"].to_pylist() == list(expected)
    file = Dataset(url=str(tmp_path_factory.mktemp("data"))).partition("luma_generations", "")
    file.replace(GATEWAY.schema, [flattened.table])
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    epochs = database.execute(f"SELECT epoch_us(created_at) FROM read_parquet('{file.path}')").fetchall()
    epoch, microsecond = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
    assert [found for (found,) in epochs] == [at and (at - epoch) // microsecond for at in expected]


NO_TIMES = ["2024-12-24 10:00,00Z", "2024-12-24 23:59.60", "2024-12-24T15:00:00:123Z", "2024-W52-2T10:00:00"]


@pytest.mark.parametrize("text", NO_TIMES)
def test_what_only_python_takes_for_a_time_is_none(text: str) -> None:
    assert parse_timestamp(text) is None


near_times = st.from_regex(r"[0-9]{1,4}-?[0-9]{1,2}-?[0-9]{1,2}[Tt ]?[0-9:]{0,9}([.,][0-9]{0,13})?(Z|[+-][0-9:]{1,5})?")


@examples(400)
@given(st.text(max_size=30) | near_times)
def test_any_text_is_a_time_or_none_and_never_an_error(text: str) -> None:
    found = parse_timestamp(text)
    flattened = flatten([TaskResult("t", Outcome.RESOLVED, NOW, generation={"state": "x", "created_at": text})])
    (kept,) = flattened.table["created_at"].to_pylist()
    if found is not None and found.year > 1:
        assert kept == (found if found.tzinfo else found.replace(tzinfo=UTC))
    else:
        assert kept is None
        is_no_time = not text or found is not None or text.startswith("0000-")
        assert [drift.field for drift in flattened.drift] == ([] if is_no_time else ["created_at"])
    in_source = to_utc(text, ZoneInfo("UTC"))
    assert in_source is None or in_source.tzinfo is UTC
