"""The provider's room: the columns of `luma_generations`, and where in an answer each comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from luma_pipeline.luma.errors import InvalidSettingError

__all__ = ["FIELDS", "GENERATIONS_SCHEMA", "SCHEMA_VERSION", "TIMESTAMP", "Field", "generations_schema", "page_fields"]

SCHEMA_VERSION = 1
"""Kept in the metadata of every file; raised when a column changes its name, its type or its meaning."""

TIMESTAMP = pa.timestamp("us", tz="UTC")
"""Every time in the datasets: microseconds, UTC."""


FIELD_TYPES = (pa.string(), pa.int64(), pa.float64(), pa.bool_(), TIMESTAMP)
"""The types that a field can have."""


@dataclass(frozen=True)
class Field:
    """One typed column taken from the provider's answer. `path` leads to it from the top of the answer.

    Raises:
        InvalidSettingError: The type is none of FIELD_TYPES.
    """

    name: str
    path: tuple[str, ...]
    type: pa.DataType

    def __post_init__(self) -> None:
        if self.type not in FIELD_TYPES:
            known = ", ".join(map(str, FIELD_TYPES))
            raise InvalidSettingError(f"the field {self.name} must be of one of the types {known}, not {self.type}")


_LINK_AND_SIZE = {"url": pa.string(), "width": pa.int64(), "height": pa.int64()}
_VIDEO = {**_LINK_AND_SIZE, "download_url": pa.string()}
_IMAGE = {**_LINK_AND_SIZE, "palette": {"grid": pa.string()}, "media_type": pa.string()}
_VIDEO_RAW = {**_LINK_AND_SIZE, "duration": pa.float64(), "media_type": pa.string()}

# The fields of the provider's page "Query: Single Task", in its order.
_PAGE = {
    "id": pa.string(),
    "state": pa.string(),
    "video": _VIDEO,
    "request": {"prompt": pa.string(), "aspect_ratio": pa.string()},
    "artifact": {
        "video": _VIDEO,
        "thumbnail": _IMAGE,
        "video_raw": _VIDEO_RAW,
        "created_at": TIMESTAMP,
        "last_frame": _IMAGE,
    },
    "thumbnail": _IMAGE,
    "video_raw": _VIDEO_RAW,
    "created_at": TIMESTAMP,
    "last_frame": _IMAGE,
    "failure_reason": pa.string(),
}


def page_fields(page: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[Field]:
    """The typed columns of a page: objects of keys and Arrow types, nested as in the answer.

    >>> [field.name for field in page_fields({"id": pa.string(), "video": {"url": pa.string()}})]
    ['id', 'video_url']
    """
    for name, what in page.items():
        here = (*path, name)
        if isinstance(what, Mapping):
            yield from page_fields(what, here)
        else:
            yield Field("_".join(here), here, what)


FIELDS: tuple[Field, ...] = tuple(page_fields(_PAGE))
"""Every field of the provider's page, flattened with `_`."""


def generations_schema(fields: Iterable[Field]) -> pa.Schema:
    """The columns of a table of generations with these typed columns.

    One row per task. `raw_response` is the whole body as it came. Its offsets have 64 bits, since a table of a million
    answers holds more than 2 GiB of text.
    """
    return pa.schema(
        [
            pa.field("task_id", pa.string(), nullable=False),
            pa.field("submitted_at", TIMESTAMP),
            pa.field("outcome", pa.string(), nullable=False),
            pa.field("http_status", pa.int32()),
            pa.field("error_code", pa.string()),
            pa.field("error_message", pa.string()),
            pa.field("attempts", pa.int32(), nullable=False),
            pa.field("polled_at", TIMESTAMP, nullable=False),
            *(pa.field(field.name, field.type) for field in fields),
            pa.field("raw_response", pa.large_string()),
        ]
    )


GENERATIONS_SCHEMA: pa.Schema = generations_schema(FIELDS)
"""The columns of `luma_generations`."""
