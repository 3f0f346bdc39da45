"""The source room: whether the database itself makes sure that no two rows have the same ID."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from luma_pipeline.source.columns import is_stored_freely

__all__ = ["is_enforced_unique"]

_INDEX_OF_POSTGRESQL = sa.text(
    """
    SELECT count(*) FROM pg_catalog.pg_index AS i
    JOIN pg_catalog.pg_class AS c ON c.oid = i.indrelid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
    WHERE c.oid = CAST(:relation AS regclass) AND a.attname = :column AND i.indnkeyatts = 1
    AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
    AND (c.relkind = 'p' OR NOT EXISTS (SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhparent = c.oid))
    """
)
"""A failed CREATE INDEX CONCURRENTLY leaves an index that is not valid. A table's index does not hold for the rows of
tables that inherit from it, and these are read with it. A deferred rule holds for all that is committed."""
_WITHOUT_SWITCH = ("sqlite", "mysql", "mariadb")
"""Databases in which a unique index cannot be disabled. SQL Server and Oracle can disable one, and reflection does not
tell; warehouses such as Redshift and Snowflake enforce none."""


def is_enforced_unique(connection: sa.Connection, table: sa.Table, column: sa.Column[Any]) -> bool:
    """Whether the database refuses a second row of the table with the same value in the column.

    False where this is not sure. Views have no such rules.
    """
    dialect = connection.dialect.name
    if dialect == "postgresql":
        relation = ".".join(_quoted(name) for name in (table.schema, table.name) if name is not None)
        found = connection.execute(_INDEX_OF_POSTGRESQL, {"relation": relation, "column": column.name})
        return bool(found.scalar_one())
    if dialect not in _WITHOUT_SWITCH:
        return False
    if is_stored_freely(column) and not isinstance(column.type, (sa.String, sa.Integer)):
        # Without a type, 1 and '1' are two values of SQLite, and one task ID.
        return False
    return [column.name] in _unique_keys(table)


def _quoted(name: str) -> str:
    """The name for a cast to regclass. SQLAlchemy's quoting doubles percent signs, as in the text of a statement."""
    return '"' + name.replace('"', '""') + '"'


def _unique_keys(table: sa.Table) -> list[list[str]]:
    rules = [rule for rule in table.constraints if isinstance(rule, (sa.PrimaryKeyConstraint, sa.UniqueConstraint))]
    keys = [[part.name for part in rule.columns] for rule in rules]
    for index in table.indexes:
        is_partial = any(name.endswith("_where") and rule is not None for name, rule in index.dialect_kwargs.items())
        if index.unique and not is_partial:
            keys.append([getattr(part, "name", "") for part in index.expressions])
    return keys
