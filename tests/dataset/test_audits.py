"""What one audit leaves for the next, and what is made of a file that is not as it was left."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from luma_pipeline.dataset import Dataset
from luma_pipeline.dataset.audits import AuditSummary, Hand

AT = datetime(2024, 12, 24, 18, 30, tzinfo=UTC)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    audits = Dataset(url=str(tmp_path)).audits()
    assert (audits.last(), audits.hand()) == (None, None)
    summary = AuditSummary(AT, 3, 40, 41, 5, 6, counts={"missing": 2}, errors=2, examples=({"kind": "missing"},))
    audits.put_last(summary)
    audits.put_hand(Hand(2**64 - 1, AT))
    found = audits.last()
    assert found is not None
    assert (found.audited_at, found.rows, found.counts, list(found.examples)) == (
        AT,
        40,
        {"missing": 2},
        [{"kind": "missing"}],
    )
    assert audits.hand() == Hand(2**64 - 1, AT)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"{}",
        b'{"audited_at": "2024-12-24", "place": "0", "at": "2024-12-24T00:00:00"}',
        b'{"audited_at": 7, "place": 7, "at": 7}',
        b'{"audited_at": "2024-12-24T00:00:00+00:00", "from_a_later_version": 1, "place": "x", "at": ""}',
    ],
)
def test_what_cannot_be_read_counts_as_nothing(tmp_path: Path, content: bytes) -> None:
    audits = Dataset(url=str(tmp_path)).audits()
    (tmp_path / "_audit").mkdir()
    for name in ("last.json", "hand.json"):
        (tmp_path / "_audit" / name).write_bytes(content)
    assert audits.last() is None
    assert audits.hand() is None


@pytest.mark.parametrize(
    ("summary", "is_well"),
    [
        (AuditSummary(AT, counts={"young": 3}), True),
        (AuditSummary(AT, errors=1), False),
        (AuditSummary(AT, warnings=1), False),
        (AuditSummary(AT, problems=("not listed",)), False),
    ],
)
def test_a_summary_is_well_where_nothing_is_left_to_do(summary: AuditSummary, is_well: bool) -> None:
    assert summary.is_well is is_well
