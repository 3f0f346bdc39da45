"""`dg scaffold defs luma_pipeline.LumaPipelineComponent NAME`: a defs.yaml with every setting and what it is for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from textwrap import wrap
from typing import Any

import dagster as dg

from luma_pipeline.component.settings import SettingRow, TopSettings, setting_rows

__all__ = ["LumaPipelineScaffolder"]

_HEAD = """\
# Task IDs from a table, answers from the provider, videos to S3.
# Values with `env` are read from that environment variable when a run starts. `dg check defs` says which are missing.
# Every other line that is commented out shows a default.
"""
_PYTHON = """\
import dagster as dg
from {module} import {kind}


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> {kind}:
    return {kind}(
        name="{name}",
        data_url=dg.EnvVar("{prefix}LUMA_DATA_URL"),
        source={{"url": dg.EnvVar("{prefix}LUMA_SOURCE_URL"), "table": dg.EnvVar("{prefix}LUMA_SOURCE_TABLE")}},
        provider={{"token": dg.EnvVar("{prefix}LUMA_API_TOKEN")}},
        videos={{"bucket": dg.EnvVar("{prefix}LUMA_S3_BUCKET"), "prefix": "{name}"}},
    )
"""


class LumaPipelineScaffolder(dg.Scaffolder):
    """Writes a component that loads as it is: what it needs are environment variables with its name before them."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write defs.yaml, or component.py where Python is wanted."""
        folder = request.target_path.parent if request.append else request.target_path
        name = _name(folder.name)
        if request.scaffold_format == "python":
            module, _, kind = request.type_name.rpartition(".")
            text = _PYTHON.format(module=module, kind=kind, name=name, prefix=f"{name.upper()}_")
            (request.target_path / "component.py").write_text(text, encoding="utf-8")
        elif request.append:
            with request.target_path.open("a", encoding="utf-8") as file:
                file.write(f"---\n{_yaml(request.type_name, f'{name}_2')}")
        else:
            text = _yaml(request.type_name, name)
            (request.target_path / "defs.yaml").write_text(text, encoding="utf-8")


def _name(folder: str) -> str:
    """A name for Dagster out of a folder's."""
    name = re.sub(r"\W", "_", folder, flags=re.ASCII)
    return name if name[:1].isalpha() else f"luma_{name}".rstrip("_")


def _yaml(type_name: str, name: str) -> str:
    lines = [*_HEAD.splitlines(), f"type: {type_name}", "", "attributes:"]
    given = {"name": name, "videos.prefix": name}
    defaults = {"pool": f"{name}_luma_api", "key_prefix": name}
    for group, rows in groupby(setting_rows(), key=lambda row: row.path.rpartition(".")[0]):
        indent = "  "
        if group:
            lines += ["", f"  # {TopSettings.model_fields[group].description}", f"  {group}:"]
            indent = "    "
        for row in rows:
            lines += [f"{indent}{line}" for line in _setting(row, name, given, defaults)]
    return "\n".join(lines) + "\n"


def _setting(row: SettingRow, name: str, given: Mapping[str, str], defaults: Mapping[str, str]) -> Iterator[str]:
    key = row.path.rpartition(".")[2]
    yield from (f"# {line}" for line in wrap(row.description, 100))
    if row.required:
        yield f"{key}:"
        yield f"  env: {name.upper()}_{row.variable}"
    elif row.path in given:
        yield f"{key}: {given[row.path]}"
    else:
        # JSON is YAML too.
        yield f"# {key}: {json.dumps(defaults.get(row.path, row.default))}"
