"""The provider's room: reading JSON with the faster of two readers, wherever both say the same.

msgspec refuses what it would read otherwise than the standard reader: NaN and Infinity, numbers beyond a double, half a
surrogate pair, other encodings than UTF-8. What it refuses is read by the standard one. Integers of any size, numbers,
repeated keys (the last counts) and the order of keys are the same in both; `tests/luma/test_json_reader.py` compares
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

__all__ = ["entry_texts", "read_json"]

_REFUSALS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_decode = msgspec.json.Decoder().decode


def read_json(raw: bytes) -> Any:
    """What `json.loads` reads.

    Raises ValueError and RecursionError as it does.

    >>> read_json(b'[1, NaN]')
    [1, nan]
    """
    try:
        return _decode(raw)
    except _REFUSALS:
        pass
    return json.loads(raw)


def entry_texts(text: str, key: str) -> Sequence[Mapping[str, msgspec.Raw]] | None:
    """The values of each object in the list under `key`, as they stand in the text; None where this cannot be told.

    >>> [str(entry["data"], "utf-8") for entry in entry_texts('{"list": [{"data": {"a":  1.0}}]}', "list")]
    ['{"a":  1.0}']
    """
    if "\ufffd" in text:  # may stand for bytes that are no UTF-8
        return None
    try:
        return _entries_decoder(key)(text)
    except _REFUSALS:
        return None


@cache
def _entries_decoder(key: str) -> Callable[[str], Sequence[Mapping[str, msgspec.Raw]]]:
    # By name: a provider's key need not be one of Python's.
    entries = ("entries", list[dict[str, msgspec.Raw]], msgspec.field(name=key))
    decode = msgspec.json.Decoder[Any](msgspec.defstruct("Answer", [entries])).decode
    return lambda text: decode(text).entries
