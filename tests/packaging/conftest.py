"""The wheel and the source distribution, built as for a release, and the Pythons of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_MINORS = range(11, 15)


@dataclass(frozen=True)
class Distributions:
    """The files of a release."""

    wheel: Path
    source: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Both, built of the files that git knows: the source first, and the wheel out of it."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    known = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT).split("\0")
    for name in filter(None, known):
        if (ROOT / name).is_file() and name.split("/")[0] not in {"docs", "tests"}:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    (tree / "tests").mkdir()
    (tree / "tests" / "test_stray.py").write_text("")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)], tree)
    [wheel], [source] = out.glob("*.whl"), out.glob("*.tar.gz")
    return Distributions(wheel, source)


def pythons() -> list[str]:
    """The Pythons of this machine that the package supports, oldest first; this one is always among them."""
    found: dict[int, str] = {sys.version_info.minor: sys.executable}
    for minor in _MINORS:
        on_path = shutil.which(f"python3.{minor}")
        of_pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"3.{minor}.*/bin/python"))
        for candidate in filter(None, [on_path, *map(str, of_pyenv)]):
            check = f"import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, {minor}))"
            if minor not in found and subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:
                found[minor] = candidate
    return [found[minor] for minor in sorted(found)]


def run(command: list[str], directory: Path, **environment: str) -> str:
    """What a command prints, in an environment without this one's settings; fails the test with it if it fails."""

    unwanted = ("LUMA_", "AWS_", "DAGSTER_", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    done = subprocess.run(
        command, cwd=directory, env=kept | environment, capture_output=True, text=True, check=False, timeout=420
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def new_environment(python: str, directory: Path, *requirements: str, constraints: Path) -> Path:
    """A new virtual environment with these requirements; returns its folder of programs."""
    run([python, "-m", "venv", "--without-pip", str(directory)], directory.parent)
    # What is imported is compiled then, and that is little of what is installed.
    pip(directory / "bin", "install", "--quiet", "--no-compile", "--constraint", str(constraints), *requirements)
    return directory / "bin"


def pip(programs: Path, *arguments: str) -> None:
    """Our pip at work on another environment, which needs none of its own."""
    there = ["--disable-pip-version-check", "--python", str(programs / "python")]
    run([sys.executable, "-m", "pip", *there, *arguments], programs)
