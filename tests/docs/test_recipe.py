"""The README's recipe for the real provider works as printed, in a virtual environment that has what it installs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from packaging.markers import default_environment
from packaging.requirements import Requirement

from luma_pipeline.sandbox.provider import TOKEN, Generation
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.docs.pages import DOCS, ROOT, blocks
from tests.e2e.conftest import ASSETS
from tests.e2e.graphql import DagsterClient, GraphQLError
from tests.ports import free_ports
from tests.world import World, running_world

pytestmark = pytest.mark.timeout(420)


def _recipe() -> str:
    """The indented commands of the README's section."""
    section = (ROOT / "README.md").read_text().partition("## With the real provider and S3\n")[2].partition("\n## ")[0]
    return "\n".join(line.removeprefix("    ") for line in section.splitlines() if line.startswith("    "))


RECIPE = _recipe()


def test_the_docs_have_the_readmes_recipe() -> None:
    printed = "".join(block.text for block in blocks(DOCS / "provider.md"))
    assert [line for line in RECIPE.splitlines() if line and line not in printed.splitlines()] == []


def _installed(names: list[str]) -> set[str]:
    """The distributions that `pip install` of these requirements brings, by what is installed here."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        found.add(wanted.name)
        known = {name: str(value) for name, value in default_environment().items()}
        environments: list[dict[str, Any]] = [{**known, "extra": extra} for extra in (*wanted.extras, "")]
        for line in distribution(wanted.name).requires or []:
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate(environment) for environment in environments):
                waiting.append(inner)
    return {name.lower().replace("_", "-").replace(".", "-") for name in found}


def _files_at_the_top(name: str) -> Iterator[Path]:
    installed = distribution(name)
    for file in installed.files or []:
        top = file.parts[0]
        if top not in {"..", "__pycache__"}:
            yield Path(str(installed.locate_file(top)))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the distributions that the recipe's pip command brings, and no other.

    They are linked from the test's own environment in place of being downloaded.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    command = re.search(r"^pip install (.*)$", RECIPE, re.MULTILINE)
    assert command is not None
    for name in _installed(command[1].replace("'", "").split()):
        if name == "luma-pipeline":
            (packages / "luma_pipeline").symlink_to(ROOT / "luma_pipeline")
            continue
        for path in set(_files_at_the_top(name)):
            target = packages / path.name
            if path.exists() and not target.exists():
                target.symlink_to(path)
    script = folder / "bin" / "dagster"
    installed = (Path(sys.executable).parent / "dagster").read_text()
    _, rest = installed.split("\n", 1)
    script.write_text(f"#!{folder / 'bin' / 'python'}\n{rest}")
    script.chmod(0o755)
    return folder


def test_the_environment_has_no_more_than_the_recipe_installs(environment: Path) -> None:
    """What the sandbox and the tests have beside it is not there."""
    assert {"duckdb", "pytest"} <= packages_distributions().keys()
    for module, expected in (("dagster_webserver", 0), ("psycopg", 0), ("duckdb", 1), ("pytest", 1)):
        done = subprocess.run(
            [environment / "bin" / "python", "-c", f"import {module}"], capture_output=True, check=False
        )
        assert done.returncode == expected, module


@pytest.fixture(scope="module")
def provider_and_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("real")
    with ObjectStore(directory / "s3") as store, running_world(directory, store, "my-videos") as world:
        store.create_bucket("my-lake")
        world.provider.add(Generation("task-1", urls=world.cdn.publish("task-1")))
        yield world


def test_the_recipe_works_as_printed_in_a_new_virtual_environment(
    environment: Path, provider_and_stores: World, tmp_path: Path, postgres_url: str
) -> None:
    """The servers are local: only the values that name them are put in place of the printed ones."""
    world = provider_and_stores
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE generations (task_id text, submitted_at timestamptz)")
        connection.exec_driver_sql("INSERT INTO generations VALUES ('task-1', '2026-01-01 01:00:00Z')")
    engine.dispose()
    values = {"LUMA_API_TOKEN": TOKEN, "LUMA_SOURCE_URL": postgres_url}
    lines = [line for line in RECIPE.splitlines() if line and not line.startswith("pip install")]
    assert len(lines) == 6
    shell = []
    for line in lines:
        name = line.removeprefix("export ").partition("=")[0]
        shell.append(f"export {name}='{values[name]}'" if name in values else line)
    [port] = free_ports(1)
    shell[-1] = f"exec {shell[-1]} -h 127.0.0.1 -p {port}"
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LUMA_", "AWS_", "DAGSTER_", "PYTHON", "VIRTUAL_ENV"))
    }
    variables = {
        **inherited,
        **world.store.environment(),
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "LUMA_BASE_URL": world.provider.base_url,
        "LUMA_ALLOW_PRIVATE_MEDIA": "true",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    log = tmp_path / "log"
    # Dagster reads the name of the code location from the module.
    client = DagsterClient(f"http://127.0.0.1:{port}", location="luma_pipeline.definitions")
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", "\n".join(shell)],
            cwd=tmp_path,
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_loaded(client, process, log)
            run_id = client.launch_run(ASSETS, partition="2026-01-01")
            assert _run_ends(client, run_id) == "SUCCESS", client.run_events(run_id)
        finally:
            client.close()
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert world.object_keys() == {"task-1/video.mp4"}


def _wait_until_loaded(client: DagsterClient, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(480):
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            if client.location_error() is None:
                return
        except (requests.RequestException, GraphQLError):
            pass
        time.sleep(0.25)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def _run_ends(client: DagsterClient, run_id: str) -> str:
    while not (run := client.run(run_id)).is_finished:
        time.sleep(0.5)
    return run.status
