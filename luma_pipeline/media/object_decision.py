"""What the object under an artifact's key is, by one table over its owner, size, ETag and digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["RULES", "Expected", "Match", "ObjectFacts", "Owner", "Rule", "Verdict", "compare", "decide"]


class Owner(Enum):
    """What the object's own metadata says."""

    THIS_COPY = "this copy"
    """This very copy wrote it."""
    ARTIFACT = "the artifact"
    """Another copy of the same artifact of the same task wrote it."""
    OTHER = "other"
    """It belongs to something else, or says nothing."""


class Expected(Enum):
    """What the object is compared with."""

    NOTHING = "nothing"
    """No row of the manifest names the key, and nothing is fetched yet."""
    MANIFEST = "manifest"
    """The row of the manifest that names the key."""
    FETCHED = "fetched"
    """The bytes that have come from the media host."""


class Match(Enum):
    """How a fact compares with what is expected."""

    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """One of the two sides does not tell it."""


class Verdict(Enum):
    """What to do."""

    AS_KNOWN = "as known"
    """The object of the manifest is there, as its row says."""
    PRESENT = "present"
    """The artifact is there, as the store says."""
    WRITTEN = "written"
    """This copy's own write is there, although its answer was lost or refused."""
    DAMAGED = "damaged"
    """A copy of the artifact with wrong bytes: it is replaced, or deleted where this copy wrote it."""
    FOREIGN = "foreign"
    """Another's object: it stays, unless `overwrite` is set."""


_ANY_OWNER = frozenset(Owner)
_ANY = frozenset(Match)
_SAME, _DIFFERENT, _UNKNOWN = frozenset({Match.SAME}), frozenset({Match.DIFFERENT}), frozenset({Match.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table. A row holds where each of the facts is among those that it names."""

    expected: Expected
    owner: frozenset[Owner]
    size: frozenset[Match]
    etag: frozenset[Match]
    digest: frozenset[Match]
    verdict: Verdict


_THIS_COPY, _ARTIFACT, _OTHER = (frozenset({owner}) for owner in Owner)

# fmt: off
RULES = (
    #    expected           owner        size        etag              digest             verdict
    Rule(Expected.NOTHING,  _OTHER,      _ANY,       _ANY,             _ANY,              Verdict.FOREIGN),
    Rule(Expected.NOTHING,  _ANY_OWNER,  _ANY,       _ANY,             _ANY,              Verdict.PRESENT),
    Rule(Expected.MANIFEST, _ANY_OWNER,  _SAME,      _SAME | _UNKNOWN, _ANY,              Verdict.AS_KNOWN),
    Rule(Expected.MANIFEST, _ARTIFACT,   _SAME,      _DIFFERENT,       _ANY,              Verdict.PRESENT),
    Rule(Expected.MANIFEST, _OTHER,      _SAME,      _DIFFERENT,       _SAME,             Verdict.PRESENT),
    Rule(Expected.MANIFEST, _ARTIFACT,   _DIFFERENT, _ANY,             _DIFFERENT,        Verdict.PRESENT),
    Rule(Expected.MANIFEST, _ARTIFACT,   _DIFFERENT, _ANY,             _SAME | _UNKNOWN,  Verdict.DAMAGED),
    Rule(Expected.MANIFEST, _ANY_OWNER,  _ANY,       _ANY,             _ANY,              Verdict.FOREIGN),
    Rule(Expected.FETCHED,  _THIS_COPY,  _SAME,      _ANY,             _ANY,              Verdict.WRITTEN),
    Rule(Expected.FETCHED,  _THIS_COPY,  _ANY,       _ANY,             _ANY,              Verdict.DAMAGED),
    Rule(Expected.FETCHED,  _ARTIFACT,   _ANY,       _ANY,             _ANY,              Verdict.PRESENT),
    Rule(Expected.FETCHED,  _OTHER,      _SAME,      _ANY,             _SAME,             Verdict.PRESENT),
    Rule(Expected.FETCHED,  _OTHER,      _ANY,       _ANY,             _ANY,              Verdict.FOREIGN),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """The facts of one object. `digest` is asked only where a row needs it, since it may read the object."""

    expected: Expected
    owner: Owner
    size: Match = Match.UNKNOWN
    etag: Match = Match.UNKNOWN
    digest: Callable[[], Match] = lambda: Match.UNKNOWN


def decide(facts: ObjectFacts) -> Verdict:
    """The verdict of the first row that holds.

    >>> decide(ObjectFacts(Expected.MANIFEST, Owner.OTHER, size=Match.SAME, etag=Match.SAME))
    <Verdict.AS_KNOWN: 'as known'>
    """
    for rule in RULES:
        if (
            rule.expected is facts.expected
            and facts.owner in rule.owner
            and facts.size in rule.size
            and facts.etag in rule.etag
            and (rule.digest == _ANY or facts.digest() in rule.digest)
        ):
            return rule.verdict
    raise AssertionError(f"no row for {facts}")


def compare(one: object, other: object) -> Match:
    """Whether two facts are the same; None and empty text on either side tell nothing."""
    if one in (None, "") or other in (None, ""):
        return Match.UNKNOWN
    return Match.SAME if one == other else Match.DIFFERENT
