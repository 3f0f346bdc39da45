"""A Dagster project in a folder, loaded in this process as `dg` and the code server load one."""

from __future__ import annotations

import uuid
from pathlib import Path
from textwrap import dedent

import dagster as dg
import pytest
from dagster.components.core.component_tree import ComponentTree

TYPE = "luma_pipeline.LumaPipelineComponent"


class Project:
    """A project without anything in its folder of definitions."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = f"project_{uuid.uuid4().hex}"
        self.root = directory
        self.defs = directory / self.module / "defs"
        self.defs.mkdir(parents=True)
        for folder in (self.defs.parent, self.defs):
            (folder / "__init__.py").touch()
        (directory / "pyproject.toml").write_text(
            f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{self.module}"\n'
        )
        monkeypatch.syspath_prepend(str(directory))

    def write(self, path: str, text: str) -> Path:
        """A file below the folder of definitions."""
        file = self.defs / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
        return file

    def component(self, name: str, attributes: str, type_name: str = TYPE) -> Path:
        """The file of a component. The first line of its attributes is line 3."""
        lines = "".join(f"  {line}\n" for line in dedent(attributes).strip("\n").splitlines())
        return self.write(f"{name}/defs.yaml", f"type: {type_name}\nattributes:\n{lines}")

    def load(self) -> dg.Definitions:
        """The definitions of the whole project."""
        return ComponentTree.for_project(self.root).build_defs()

    def refusal(self) -> str:
        """Why the project does not load, in the words of the innermost error."""
        with pytest.raises(Exception, match="Error while") as caught:
            self.load()
        error: BaseException = caught.value
        while error.__cause__ is not None:
            error = error.__cause__
        assert type(error).__name__ == "SettingsError", repr(error)
        return str(error)
