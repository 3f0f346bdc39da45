"""What the object under a key is: one example for each row of the table, and no row that is never reached."""

from __future__ import annotations

import itertools

import pytest

from luma_pipeline.media.object_decision import RULES, Expected, Match, ObjectFacts, Owner, Verdict, compare, decide

SAME, DIFFERENT, UNKNOWN = Match.SAME, Match.DIFFERENT, Match.UNKNOWN
NOTHING, MANIFEST, FETCHED = Expected.NOTHING, Expected.MANIFEST, Expected.FETCHED
COPY, ARTIFACT, OTHER = Owner.THIS_COPY, Owner.ARTIFACT, Owner.OTHER

ROWS = [
    # expected, owner, size, etag, digest, verdict, number of the row
    (NOTHING, OTHER, UNKNOWN, UNKNOWN, UNKNOWN, Verdict.FOREIGN, 0),
    (NOTHING, ARTIFACT, UNKNOWN, UNKNOWN, UNKNOWN, Verdict.PRESENT, 1),
    (MANIFEST, OTHER, SAME, SAME, UNKNOWN, Verdict.AS_KNOWN, 2),
    (MANIFEST, ARTIFACT, SAME, UNKNOWN, UNKNOWN, Verdict.AS_KNOWN, 2),
    (MANIFEST, ARTIFACT, SAME, DIFFERENT, DIFFERENT, Verdict.PRESENT, 3),
    (MANIFEST, OTHER, SAME, DIFFERENT, SAME, Verdict.PRESENT, 4),
    (MANIFEST, ARTIFACT, DIFFERENT, DIFFERENT, DIFFERENT, Verdict.PRESENT, 5),
    (MANIFEST, ARTIFACT, DIFFERENT, DIFFERENT, UNKNOWN, Verdict.DAMAGED, 6),
    (MANIFEST, ARTIFACT, DIFFERENT, SAME, SAME, Verdict.DAMAGED, 6),
    (MANIFEST, OTHER, SAME, DIFFERENT, DIFFERENT, Verdict.FOREIGN, 7),
    (MANIFEST, OTHER, SAME, DIFFERENT, UNKNOWN, Verdict.FOREIGN, 7),
    (MANIFEST, OTHER, DIFFERENT, SAME, SAME, Verdict.FOREIGN, 7),
    (FETCHED, COPY, SAME, UNKNOWN, UNKNOWN, Verdict.WRITTEN, 8),
    (FETCHED, COPY, DIFFERENT, UNKNOWN, UNKNOWN, Verdict.DAMAGED, 9),
    (FETCHED, ARTIFACT, DIFFERENT, UNKNOWN, UNKNOWN, Verdict.PRESENT, 10),
    (FETCHED, OTHER, SAME, UNKNOWN, SAME, Verdict.PRESENT, 11),
    (FETCHED, OTHER, SAME, UNKNOWN, DIFFERENT, Verdict.FOREIGN, 12),
    (FETCHED, OTHER, SAME, UNKNOWN, UNKNOWN, Verdict.FOREIGN, 12),
    (FETCHED, OTHER, DIFFERENT, UNKNOWN, SAME, Verdict.FOREIGN, 12),
]


@pytest.mark.parametrize(("expected", "owner", "size", "etag", "digest", "verdict", "row"), ROWS)
def test_each_row(
    expected: Expected, owner: Owner, size: Match, etag: Match, digest: Match, verdict: Verdict, row: int
) -> None:
    assert decide(ObjectFacts(expected, owner, size, etag, lambda: digest)) is verdict
    assert RULES[row].verdict is verdict


def test_no_row_is_without_an_example() -> None:
    assert {number for *_, number in ROWS} == set(range(len(RULES)))


def test_every_combination_has_a_verdict_and_reads_an_object_only_where_a_row_asks_for_its_digest() -> None:
    read: list[tuple[Expected, Owner, Match, Match]] = []
    for expected, owner, size, etag in itertools.product(Expected, Owner, Match, Match):

        def digest(facts: tuple[Expected, Owner, Match, Match] = (expected, owner, size, etag)) -> Match:
            read.append(facts)
            return Match.UNKNOWN

        decide(ObjectFacts(expected, owner, size, etag, digest))

    assert set(read) == {
        (MANIFEST, OTHER, SAME, DIFFERENT),
        *((MANIFEST, ARTIFACT, DIFFERENT, etag) for etag in Match),
        *((FETCHED, OTHER, SAME, etag) for etag in Match),
    }


@pytest.mark.parametrize(
    ("one", "other", "match"),
    [(7, 7, SAME), (0, 0, SAME), (7, 8, DIFFERENT), (0, 7, DIFFERENT), ("a", "a", SAME), ("a", "b", DIFFERENT)]
    + [(one, other, UNKNOWN) for one in (None, "") for other in (None, "", "a", 7)]
    + [(one, other, UNKNOWN) for other in (None, "") for one in ("a", 7)],
)
def test_facts_that_nobody_tells_are_unknown(one: object, other: object, match: Match) -> None:
    assert compare(one, other) is match


def test_a_digest_that_nobody_looks_for_is_unknown() -> None:
    assert decide(ObjectFacts(MANIFEST, ARTIFACT, DIFFERENT)) is Verdict.DAMAGED
