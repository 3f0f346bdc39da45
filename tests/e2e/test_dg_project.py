"""An empty `dg` project that has the wheel: two components, scaffolded, copy their videos side by side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import requests
import sqlalchemy as sa

from luma_pipeline.sandbox.provider import TOKEN
from luma_pipeline.sandbox.seed import TABLE
from luma_pipeline.sandbox.stack import Sandbox
from tests.e2e.graphql import DagsterClient, GraphQLError
from tests.e2e.process_group import ProcessGroup
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
ASSETS = ("luma_tasks", "luma_generations", "luma_videos")
COMPONENT = "luma_pipeline.LumaPipelineComponent"

_PYPROJECT = """\
[project]
name = "proj"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "proj"
"""
_DEFINITIONS = """\
from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""


@dataclass
class Project:
    """An empty project, and a virtual environment in which nothing of this repository is but the wheel."""

    root: Path
    python: Path
    env: dict[str, str]

    def dg(self, *arguments: str) -> str:
        """What a command of `dg` says; it must end well."""
        done = subprocess.run(
            [self.python, "-m", "dagster_dg_cli.cli", *arguments],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def set(self, component: str, settings: Mapping[str, object]) -> None:
        """Give settings of a scaffolded component other values: the lines that show their defaults are filled in."""
        path = self.root / "src" / "proj" / "defs" / component / "defs.yaml"
        lines = path.read_text().splitlines()
        for name, value in settings.items():
            [number] = [number for number, line in enumerate(lines) if line.strip().startswith(f"# {name}: ")]
            lines[number] = lines[number].split("#")[0] + f"{name}: {json.dumps(value)}"
        path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    directory = tmp_path_factory.mktemp("dg")
    wheel = _built_wheel(directory)
    venv.create(directory / "venv", symlinks=True)
    python = directory / "venv" / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    # The packages that the wheel needs are those of this environment. As a path only: its .pth files, which lead to
    # the checkout, are not read.
    packages = directory / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "lock.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    root = directory / "proj"
    (root / "src" / "proj" / "defs").mkdir(parents=True)
    (root / "pyproject.toml").write_text(_PYPROJECT)
    for folder in ("proj", "proj/defs"):
        (root / "src" / folder / "__init__.py").touch()
    (root / "src" / "proj" / "definitions.py").write_text(_DEFINITIONS)
    home = directory / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("LUMA_", "AWS_", "DAGSTER_"))
    }
    env = inherited | {
        "PYTHONPATH": str(root / "src"),
        "VIRTUAL_ENV": str(directory / "venv"),
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "PATH": f"{directory / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    return Project(root, python, env)


def _built_wheel(directory: Path) -> Path:
    """The wheel of this checkout, built from a copy: setuptools leaves folders beside the sources."""
    source = directory / "source"
    leave = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "luma_pipeline", source / "luma_pipeline", ignore=leave)
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(directory.glob("*.whl"))


def test_the_wheel_and_nothing_else_of_the_checkout_is_there(project: Project) -> None:
    code = "import luma_pipeline; print(luma_pipeline.__file__)"
    done = subprocess.run(
        [project.python, "-c", code], env=project.env, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(str(project.python.parents[1])), done.stdout + done.stderr


# Thirty seconds of work on a machine that has nothing else to do.
@pytest.mark.deployment
@pytest.mark.timeout(600)
def test_two_scaffolded_components_copy_their_videos_side_by_side(project: Project, tmp_path: Path) -> None:
    assert COMPONENT in project.dg("list", "components", "--json")
    for name in ("eu", "us"):
        project.dg("scaffold", "defs", COMPONENT, name)
    with Sandbox(tmp_path / "sandbox") as sandbox:
        day = sandbox.source.first_day
        _split(sandbox.source.url)
        for name in ("eu", "us"):
            sandbox.object_store.create_bucket(f"videos-{name}")
            given = {"base_url": sandbox.provider.base_url, "allow_private_media": True, "start": day.isoformat()}
            project.set(name, given)
            project.env |= {
                f"{name.upper()}_LUMA_API_TOKEN": TOKEN,
                f"{name.upper()}_LUMA_SOURCE_URL": sandbox.source.url,
                f"{name.upper()}_LUMA_SOURCE_TABLE": f"{name}_{TABLE}",
                f"{name.upper()}_LUMA_DATA_URL": str(tmp_path / f"data-{name}"),
                f"{name.upper()}_LUMA_S3_BUCKET": f"videos-{name}",
            }
        project.env |= sandbox.object_store.environment()
        said = project.dg("check", "defs")
        assert "All component YAML validated" in said
        assert "All definitions loaded successfully" in said
        with _dg_dev(project, tmp_path / "logs") as client:
            runs = [
                client.launch_run(
                    [f"{name}/{asset}" for asset in ASSETS], partition=day.isoformat(), job=f"{name}_luma_job"
                )
                for name in ("eu", "us")
            ]
            while not all(client.run(run).is_finished for run in runs):
                time.sleep(0.5)
            for run in runs:
                assert client.run(run).status == "SUCCESS", client.run_events(run)
            for name in ("eu", "us"):
                assert client.instigation_status(f"{name}_luma_schedule") == "STOPPED"
                assert client.partitions_with_status(f"{name}/luma_videos", "MATERIALIZED") == [day.isoformat()]
        s3 = sandbox.object_store.client()
        kept = {}
        for name in ("eu", "us"):
            rows = ds.dataset(tmp_path / f"data-{name}" / "luma_videos", partitioning="hive").to_table().to_pylist()
            kept[name] = {row["task_id"] for row in rows if row["status"] == "copied"}
            listed = s3.list_objects_v2(Bucket=f"videos-{name}", Prefix=f"{name}/").get("Contents", [])
            assert {item["Key"] for item in listed} == {row["key"] for row in rows if row["status"] == "copied"}
        assert kept["eu"]
        assert kept["us"]
        assert kept["eu"].isdisjoint(kept["us"])


def _split(url: str) -> None:
    """Two tables out of the sandbox's one, each with half of the customers."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for name, condition in (("eu", "<"), ("us", ">=")):
            statement = f"CREATE TABLE {name}_{TABLE} AS SELECT * FROM {TABLE} WHERE customer {condition} 'c'"
            connection.exec_driver_sql(statement)
    engine.dispose()


@contextmanager
def _dg_dev(project: Project, logs: Path) -> Iterator[DagsterClient]:
    """`dg dev` on the project, and a client of it."""
    [port] = free_ports(1)
    command = [str(project.python), "-W", "ignore", "-m", "dagster_dg_cli.cli", "dev", "--port", str(port)]
    client = DagsterClient(f"http://127.0.0.1:{port}", location="proj")
    with ProcessGroup({"dg_dev": command}, env=project.env, directory=project.root, logs=logs) as processes:
        while (why := _not_ready(client)) is not None:
            assert not processes.ended(), f"{why}\n{processes.log_tail()}"
            time.sleep(0.25)
        yield client
    client.close()


def _not_ready(client: DagsterClient) -> str | None:
    try:
        return client.location_error()
    except (requests.ConnectionError, GraphQLError) as error:
        return str(error)
