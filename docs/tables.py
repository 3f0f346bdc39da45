"""Writes the tables of the docs from the code: settings, columns, checks, options, table definitions.

python docs/tables.py writes what has changed; a test tells whether that has been done.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from luma_pipeline.audit.findings import AUDIT_COLUMNS, AUDIT_SCHEMA
from luma_pipeline.component import LumaPipelineComponent, SettingRow, setting_rows
from luma_pipeline.component.settings import TopSettings
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
from luma_pipeline.orchestration.audit import LumaAuditConfig
from luma_pipeline.orchestration.checks import check_specs
from luma_pipeline.orchestration.forget import ForgetConfig
from luma_pipeline.orchestration.run_config import LumaRunConfig

PAGES = Path(__file__).parent
_MARKED = re.compile(r"(?P<start><!-- table: (?P<name>[\w ]+) -->\n).*?(?P<end><!-- /table -->)", re.DOTALL)


def main() -> None:
    """Write the tables into the pages."""
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text()
        if (new := with_tables(text)) != text:
            page.write_text(new)


def with_tables(text: str) -> str:
    """A page with its tables as the code has them now."""
    return _MARKED.sub(lambda found: f"{found['start']}\n{TABLES[found['name']]()}\n{found['end']}", text)


def settings_table() -> str:
    """Every setting, with a heading for each group."""
    parts = []
    for group, found in groupby(setting_rows(), key=lambda row: row.path.rpartition(".")[0]):
        rows = [(f"`{row.path}`", f"`{row.variable}`", row.kind, _default(row), row.description) for row in found]
        about = (
            TopSettings.model_fields[group].description if group else "Where the datasets are, and names in Dagster."
        )
        head = f"## {group or 'At the top'}\n\n{about}\n\n"
        parts.append(head + _table(("in YAML", "variable", "type", "default", "meaning"), rows))
    return "\n".join(parts)


def _default(row: SettingRow) -> str:
    if row.required:
        return "**required**"
    if row.variable_default != row.default:
        return f"{_value(row.variable_default)}; in YAML {_value(row.default)}"
    return _value(row.default)


def columns_table(dataset: str) -> str:
    """The columns of a dataset, as the UI shows them."""
    specs = {spec.key.path[-1]: spec for spec in LumaPipelineComponent().definitions().resolve_all_asset_specs()}
    schema: dg.TableSchema = specs[dataset].metadata["dagster/column_schema"]
    rows = [
        (f"`{column.name}`", f"`{column.type}`", "" if column.constraints.nullable else "never", column.description)
        for column in schema.columns
    ]
    return _table(("column", "type", "null", "meaning"), rows)


def checks_table() -> str:
    """Every asset check."""
    return _table(
        ("check", "asset", "blocking", "what it says when it passes"),
        [
            (f"`{spec.name}`", f"`{spec.asset_key.path[-1]}`", "yes" if spec.blocking else "", spec.description)
            for spec in check_specs()
        ],
    )


def options_table(config: type[dg.Config] = LumaRunConfig) -> str:
    """What a single run can be told."""
    return _table(
        ("option", "default", "meaning"),
        [(f"`{name}`", _value(field.default), field.description) for name, field in config.model_fields.items()],
    )


_SQL_TYPES: Mapping[pa.DataType, str] = {
    pa.string(): "string",
    pa.large_string(): "string",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float64(): "double",
    pa.bool_(): "boolean",
    pa.timestamp("us", "UTC"): "timestamp",
}


def athena_table() -> str:
    """CREATE TABLE for Athena, whose partitions are found by their names."""
    return f"""```sql title="Athena"
CREATE EXTERNAL TABLE luma_videos (
{_sql_columns(VIDEOS_SCHEMA)}
)
PARTITIONED BY (`date` string)
STORED AS PARQUET
LOCATION 's3://my-lake/luma/luma_videos/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.date.type' = 'date',
  'projection.date.format' = 'yyyy-MM-dd',
  'projection.date.range' = '2024-01-01,NOW+1DAYS',
  'storage.location.template' = 's3://my-lake/luma/luma_videos/date=${{date}}/'
)
```
"""


def spark_table() -> str:
    """CREATE TABLE for Spark's catalog."""
    return f"""```sql title="Spark SQL"
CREATE TABLE luma_videos (
{_sql_columns(VIDEOS_SCHEMA)},
  `date` date
)
USING parquet
PARTITIONED BY (`date`)
LOCATION 's3a://my-lake/luma/luma_videos'
```
"""


def scaling_table() -> str:
    """What `benchmarks/scaling.py` forecasts."""
    table: Callable[[], str] = runpy.run_path(str(PAGES.parent / "benchmarks" / "scaling.py"))["table"]
    return table()


def _sql_columns(schema: pa.Schema) -> str:
    return ",\n".join(f"  `{field.name}` {_SQL_TYPES[field.type]}" for field in schema)


def _value(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{','.join(map(str, value))}`" if isinstance(value, (list, tuple)) else f"`{value}`"


def _table(head: Iterable[str], rows: Iterable[Iterable[str | None]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(cell or "").replace("\n", " ").replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


TABLES: Mapping[str, Callable[[], str]] = {
    "settings": settings_table,
    "checks": checks_table,
    "run options": lambda: options_table(LumaRunConfig),
    "audit options": lambda: options_table(LumaAuditConfig),
    "luma_audit": lambda: _table(
        ("column", "type", "meaning"),
        [(f"`{field.name}`", f"`{field.type}`", AUDIT_COLUMNS[field.name]) for field in AUDIT_SCHEMA],
    ),
    "forget options": lambda: options_table(ForgetConfig),
    "luma_tasks": lambda: columns_table("luma_tasks"),
    "luma_generations": lambda: columns_table("luma_generations"),
    "luma_videos": lambda: columns_table("luma_videos"),
    "Athena": athena_table,
    "Spark SQL": spark_table,
    "scaling": scaling_table,
}


if __name__ == "__main__":
    main()
