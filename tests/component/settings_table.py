"""The README's table of settings. Run as a module it writes the table into the README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from luma_pipeline.component import setting_rows

README = Path(__file__).parents[2] / "README.md"
_TABLE = re.compile(r"(?<=<!-- settings -->\n\n).*?(?=\n<!-- /settings -->)", re.DOTALL)


def settings_table() -> str:
    """Every setting as a row of Markdown."""
    lines = ["| variable | in YAML | default | meaning |", "| --- | --- | --- | --- |"]
    for row in setting_rows():
        default = "**required**" if row.required else _shown(row.variable_default)
        if row.variable_default != row.default:
            default += f", in YAML {_shown(row.default)}"
        lines.append(f"| `{row.variable}` | `{row.path}` | {default} | {row.description} |")
    return "\n".join(lines) + "\n"


def _shown(default: Any) -> str:
    if default in (None, "", [], {}):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{','.join(default) if isinstance(default, list) else default}`"


def table_in_readme() -> str:
    """The table as the README has it."""
    found = _TABLE.search(README.read_text())
    assert found is not None
    return found[0]


if __name__ == "__main__":
    README.write_text(_TABLE.sub(lambda _: settings_table(), README.read_text()))
