"""What the index of the bucket makes of a page, and how much of what it has seen it keeps."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from luma_pipeline.media.object_index import _is_usable, _is_within, _Memory, _Span
from luma_pipeline.s3 import ListedObject, ListedPage

AT = datetime(2024, 12, 24, tzinfo=UTC)


def page(*keys: str, is_last: bool = False) -> ListedPage:
    return ListedPage(tuple(ListedObject(key, 1, "etag", AT) for key in keys), is_last, None if is_last else "more")


@pytest.mark.parametrize(
    ("listed", "is_usable"),
    [
        (page("b", "c"), True),
        (page("b", "a"), False),
        (page("a"), False),
        (page("0", "b"), False),
        (page("b", "b"), False),
        (page(), False),
        (page(is_last=True), True),
    ],
)
def test_a_page_counts_only_in_the_order_of_bytes_and_after_its_beginning(listed: ListedPage, is_usable: bool) -> None:
    assert _is_usable(listed, "a") is is_usable


@pytest.mark.parametrize(
    ("start", "base", "end", "is_within"),
    [
        *(("a/", base, "c/", True) for base in ("a/", "b/", "a/x/", "b")),
        *(("a/", base, "c/", False) for base in ("c/", "0/", "B/", "a-b/")),
        # In the order of bytes, and not where folders are put in order.
        ("a-b/", "a/x/", "b/", False),
        ("a", "a-b/", "a/", False),
        # In the order of bytes, and not where capitals are not known.
        ("B/", "a/", "c/", False),
        ("A/", "Z/", "a/", False),
    ],
)
def test_a_base_lies_between_two_keys_only_where_every_store_orders_it_so(
    start: str, base: str, end: str, is_within: bool
) -> None:
    assert _is_within(start, base, end) is is_within


def test_a_span_answers_each_base_once_and_none_that_its_page_may_cut() -> None:
    objects = {"b/video.mp4": ListedObject("b/video.mp4", 1, "etag", AT)}
    span = _Span("a/video.", page("b/video.mp4", "c/video.mp4"), {"b/video.": objects})
    assert span.answer("a/video.") == {}
    assert span.answer("b/video.") == objects
    assert span.answer("b/video.") is None
    assert span.answer("c/video.") is None, "more of its objects may follow"
    assert span.answer("d/video.") is None
    assert span.answer("Zero/video.") is None
    last = _Span("a/video.", page("b/video.mp4", is_last=True), {})
    assert last.answer("d/video.") == {}


def span(start: str, end: str, keys: int = 1) -> _Span:
    return _Span(start, page(*[f"{start}{number:04}" for number in range(keys - 1)], end), {})


def test_a_span_takes_the_place_of_those_that_begin_within_it_and_knows_what_they_have_answered() -> None:
    memory = _Memory()
    memory.keep(span("b/", "d/"))
    assert memory.find("c/") == {}
    memory.keep(span("a/", "e/"))
    assert memory.find("c/") is None, "it has been answered once"
    assert memory.find("b/") == {}
    assert memory.find("f/") is None
    memory.keep(span("f/", "h/"))
    assert memory.find("g/") == {}
    memory.keep(span("0/", "z/"))
    assert [memory.find(base) for base in ("b/", "c/", "g/")] == [None] * 3
    assert memory.find("h/") == {}


def test_a_span_is_believed_for_a_minute() -> None:
    memory = _Memory()
    for name, age in (("a", 59), ("c", 61)):
        old = span(f"{name}/", f"{name}z/")
        old.taken_at -= age
        memory.keep(old)
    assert memory.find("a/x/") == {}
    memory = _Memory()
    memory.keep(old)
    assert memory.find("c/x/") is None


def test_the_oldest_spans_go_where_they_hold_too_many_keys() -> None:
    memory = _Memory()
    for start, end in (("a/", "b/"), ("c/", "d/"), ("e/", "f/")):
        memory.keep(span(start, end, 4_000))
    assert memory.find("a/x/") is None
    assert memory.find("c/x/") == {}
    assert memory.find("e/x/") == {}
    memory.keep(span("g/", "h/", 4_000))
    assert memory.find("c/y/") is None
    assert memory.find("e/y/") == {}


def test_looking_ahead_is_tried_now_and_then_where_it_does_not_pay() -> None:
    memory = _Memory()
    tried = [memory.advance() for _ in range(64 + 32)]
    assert tried[:64] == [4] * 64
    assert [number for number, advance in enumerate(tried[64:], 65) if advance] == [80, 96]
    memory.keep(span("a/", "c/"))
    assert memory.find("b/") == {}
    assert memory.advance() == 32
