"""The dataset's room: tables of other versions with the columns of a schema."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from luma_pipeline.dataset.errors import UnreadableFileError

__all__ = ["conformed", "fields_of"]


def fields_of(schema: pa.Schema, names: Sequence[str] | None) -> pa.Schema:
    """The schema of some columns, in the order of `names`; of all columns for None."""
    return schema if names is None else pa.schema([schema.field(name) for name in names])


def conformed(table: pa.Table, schema: pa.Schema, path: str) -> pa.Table:
    """A table of another version with the columns of `schema`: a column that the table lacks is null.

    Raises:
        UnreadableFileError: A column that must be there is missing, has nulls, or is of a type that cannot be
            converted. `path` is named in the message.
    """
    if table.schema.equals(schema):
        return table
    return pa.Table.from_arrays([_column(table, field, path) for field in schema], schema=schema)


def _column(table: pa.Table, field: pa.Field, path: str) -> pa.ChunkedArray | pa.Array:
    is_there = field.name in table.schema.names
    if not is_there and field.nullable:
        return pa.nulls(len(table), field.type)
    if not is_there:
        raise _other_schema(path, f"it has no column {field.name}")
    column = table[field.name]
    if column.null_count and not field.nullable:
        raise _other_schema(path, f"its column {field.name} has nulls")
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise _other_schema(path, f"its column {field.name} is of type {column.type}, not {field.type}") from error


def _other_schema(path: str, fault: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"{path} is no file of this dataset: {fault}. Move it away, or restore the right file, and materialize its "
        "partition again: what it should hold is then made again."
    )
