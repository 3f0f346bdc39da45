"""The fast JSON reader says what the standard one says, of any bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.luma import Outcome, TaskResult, flatten
from luma_pipeline.luma.json_reader import entry_texts, read_json
from tests.properties.effort import examples

ODD = [
    *("18446744073709551616", "-9223372036854775809", "9" * 4300, "9" * 4301, "1e400", "-1e400", "1e-400", "1E5"),
    *("-0", "-0.0", "100000000000000000000000.0", "9007199254740993.0", "1.7976931348623159e308", "5e-324", "0e5"),
    *("NaN", "[Infinity]", "-Infinity", "01", "-01", "1.", ".5", "+1", "-", "1e", "tru", "nul", "1 x", "", " \t\r\n1"),
    *('"\\ud800"', '"\\ud83d\\ude00"', '"\\ude00\\ud83d"', '"\\ud83dA"', '{"\\ud800": 1}', '"\\x"', '"\\u12"', '"\\/"'),
    *('"\x01"', '"a\tb"', '"\x00"', '"\x7f"', "\x0b1", '"\\u0000"', "[1,]", "[1 2]", '{"a": 1,}', "{'a': 1}", "{1: 2}"),
    *('{"a": 1, "b": 2, "a": 3}', '{"a": {"b": 1}, "a": {"c": NaN}}', "\ufeff1", "// c\n1", "[" * 900 + "]" * 900),
    *("[" * 100_000, "[true, 1, 1.0, null]", '{"": {}}', "[[], {}]"),
]
BYTES = [
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b'{"\xff": 1}', b"1\x00", b"\xff\xfe"),
    *(text.encode(coding) for text in ("1", '{"a": "\u00e4"}') for coding in ("utf-16", "utf-16-be", "utf-32")),
]


def reading(read: Callable[[bytes], Any], raw: bytes) -> str:
    """What a reader makes of bytes: the value with its types, its order and its zeros' signs, or the kind of error."""
    try:
        return repr(read(raw))
    except RecursionError:
        return "too deep"
    except ValueError:
        return "no JSON"


# Texts as servers write them, and as they do not.
spaces = st.sampled_from(["", "", " ", "\n\t", "\r\n  "])
numbers = st.one_of(
    st.integers().map(str),
    st.integers(-(10**40), 10**40).map(str),
    st.floats().map(json.dumps),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?\Z"),
)
characters = st.one_of(
    st.characters(codec="utf-8", exclude_characters='"\\'),
    st.sampled_from(["\\n", "\\/", '\\"', "\\u00e4", "\\ud800", "\\udc00", "\\ud83d\\ude00", "\\uFFFD", "\\u0000"]),
)
strings = st.lists(characters, max_size=6).map(lambda parts: '"' + "".join(parts) + '"')
keys = st.one_of(st.sampled_from(['"a"', '"b"', '"\\u0061"']), strings)
scalars = st.one_of(numbers, strings, st.sampled_from(["true", "false", "null", "NaN", "-Infinity"]))


def _joined(opening: str, closing: str) -> Callable[[tuple[str, list[str]]], str]:
    return lambda parts: opening + parts[0] + f"{parts[0]},{parts[0]}".join(parts[1]) + parts[0] + closing


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(keys, spaces, inner).map(lambda pair: f"{pair[0]}{pair[1]}:{pair[1]}{pair[2]}")
    return st.one_of(
        st.tuples(spaces, st.lists(inner, max_size=4)).map(_joined("[", "]")),
        st.tuples(spaces, st.lists(pairs, max_size=5)).map(_joined("{", "}")),
    )


documents = st.recursive(scalars, _containers, max_leaves=12)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A document with a byte that is another, or cut."""
    raw = bytearray(draw(documents).encode())
    at = draw(st.integers(0, len(raw)))
    if draw(st.booleans()):
        return bytes(raw[:at])
    raw[at : at + 1] = draw(st.binary(max_size=2))
    return bytes(raw)


@pytest.mark.parametrize("raw", [*(text.encode() for text in ODD), *BYTES], ids=lambda raw: repr(raw[:24]))
def test_odd_json_is_read_as_by_the_standard_reader(raw: bytes) -> None:
    assert reading(read_json, raw) == reading(json.loads, raw)


@given(raw=st.one_of(documents.map(str.encode), _damaged(), st.binary(max_size=12)))
@examples(150)
def test_any_json_is_read_as_by_the_standard_reader(raw: bytes) -> None:
    assert reading(read_json, raw) == reading(json.loads, raw)


@given(bodies=st.lists(documents, max_size=3), space=spaces, repeated=st.booleans())
@examples(80)
def test_the_text_of_a_batchs_entry_is_what_stands_in_the_answer(bodies: list[str], space: str, repeated: bool) -> None:
    first = '"data": 1,' if repeated else ""
    entries = ",".join(f'{{{first}"data":{space}{body}{space}}}' for body in bodies)
    answer = f'{{"data": [], "data":{space}[{entries}]}}'
    texts = entry_texts(answer, "data")
    if texts is not None:
        assert [str(entry["data"], "utf-8") for entry in texts] == bodies
    elif not any(odd in answer for odd in ("NaN", "Infinity", "\\u", "\ufffd")):
        assert reading(json.loads, answer.encode()) == "no JSON"


PAGE_KEYS = ("id", "state", "video", "artifact", "created_at", "failure_reason", "request", "thumbnail")
answers = st.lists(
    st.dictionaries(st.sampled_from(PAGE_KEYS), documents, max_size=5).map(
        lambda fields: "{" + ",".join(f'"{key}": {value}' for key, value in fields.items()) + "}"
    ),
    min_size=1,
    max_size=4,
)


@given(texts=answers)
@examples(40)
def test_both_readers_give_the_same_rows(texts: list[str]) -> None:
    def rows(read: Callable[[bytes], Any]) -> str:
        polled_at = datetime(2025, 1, 1, tzinfo=UTC)
        try:
            results = [
                TaskResult(str(number), Outcome.RESOLVED, polled_at, generation=read(text.encode()), raw_response=text)
                for number, text in enumerate(texts)
            ]
        except ValueError:
            return "no JSON"
        return repr((flatten(results).table.to_pylist(), flatten(results).drift))

    assert rows(read_json) == rows(json.loads)
