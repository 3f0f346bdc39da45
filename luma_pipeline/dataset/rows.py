"""The dataset's room: rows that lie in several tables, in the order that a caller asks for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Positions", "take_rows"]

Positions = npt.NDArray[np.int64]


def take_rows(
    load: Callable[[int], pa.Table], tables: npt.NDArray[np.integer], rows: npt.NDArray[np.integer]
) -> pa.Table:
    """Row `rows[i]` of the table with number `tables[i]`, for each i in order.

    `load` gives a table by its number; each is loaded once. All have one schema, and there is at least one row.

    >>> import numpy as np, pyarrow as pa
    >>> letters = [pa.table({"letter": ["a", "b"]}), pa.table({"letter": ["c"]})]
    >>> take_rows(letters.__getitem__, np.array([1, 0]), np.array([0, 1]))["letter"].to_pylist()
    ['c', 'b']
    """
    parts: list[pa.Table] = []
    index = np.empty(len(rows), dtype=np.int64)
    held = 0
    for number in np.unique(tables).tolist():
        inside = np.flatnonzero(tables == number)
        table = load(number)
        if len(inside) < len(table):
            table = table.take(pa.array(rows[inside]))
            index[inside] = held + np.arange(len(inside))
        else:
            index[inside] = held + rows[inside]
        parts.append(table)
        held += len(table)
    return pa.concat_tables(parts).take(pa.array(index))
