"""The wheel in new virtual environments, with the oldest and the newest Python here and every dependency's ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, Distributions, new_environment, pip, pythons, run

pytestmark = [pytest.mark.timeout(600), pytest.mark.deployment]


def ends() -> list[tuple[str, str]]:
    """The oldest and the newest Python here, each with a lock: the lowest versions exist for the oldest Python only."""
    oldest, newest = pythons()[0], pythons()[-1]
    is_floor = "3.11." in run([oldest, "--version"], ROOT)
    found = [(oldest, "requirements-lowest.lock")] if is_floor else []
    return [*found, (newest, "requirements.lock")]


@pytest.mark.parametrize(("python", "lock"), ends(), ids=lambda end: end)
def test_the_wheel_works_in_a_new_environment(
    distributions: Distributions, tmp_path: Path, python: str, lock: str
) -> None:
    wheel = f"luma-pipeline[sandbox,postgres] @ {distributions.wheel.as_uri()}"
    programs = new_environment(python, tmp_path / "venv", wheel, constraints=ROOT / lock)
    pip(programs, "check")
    where = run([str(programs / "python"), "-c", "import luma_pipeline; print(luma_pipeline.__file__)"], tmp_path)
    assert where.startswith(str(tmp_path))
    run([str(programs / "dagster"), "definitions", "validate", "-m", "luma_pipeline.definitions"], tmp_path)
    said = run([str(programs / "luma-pipeline"), "demo", "--directory", "sandbox", "--port", "0"], tmp_path)
    assert "videos copied" in said
    assert len(list((tmp_path / "sandbox" / "data" / "luma_videos").rglob("*.parquet"))) >= 4


def test_the_providers_client_works_where_dagster_is_not_installed(
    distributions: Distributions, tmp_path: Path
) -> None:
    requirements = ["requests", "pyarrow", "msgspec"]
    programs = new_environment(pythons()[-1], tmp_path / "venv", *requirements, constraints=ROOT / "requirements.lock")
    pip(programs, "install", "--quiet", "--no-deps", str(distributions.wheel))
    code = (
        "import importlib.util, luma_pipeline\n"
        "from luma_pipeline.luma import LumaClient, ProviderConfig, to_table\n"
        "assert importlib.util.find_spec('dagster') is None\n"
        "with LumaClient(ProviderConfig(token='t', base_url='http://127.0.0.1:9')) as client:\n"
        "    print(to_table(client.fetch([])).num_rows, luma_pipeline.__version__)\n"
    )
    assert run([str(programs / "python"), "-c", code], tmp_path).split()[0] == "0"
