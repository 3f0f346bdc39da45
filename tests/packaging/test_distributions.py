"""What is in the wheel and the source distribution, and what they say of themselves."""

from __future__ import annotations

import email
import re
import shutil
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email.message import Message
from pathlib import Path

from tests.packaging.conftest import ROOT, Distributions, run


def project() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def in_wheel(distributions: Distributions) -> set[str]:
    with zipfile.ZipFile(distributions.wheel) as archive:
        return set(archive.namelist())


def in_source(distributions: Distributions) -> set[str]:
    with tarfile.open(distributions.source) as archive:
        return {member.name.split("/", 1)[1] for member in archive if member.isfile()}


def metadata(distributions: Distributions, name: str) -> str:
    with zipfile.ZipFile(distributions.wheel) as archive:
        [found] = [path for path in archive.namelist() if path.endswith(f".dist-info/{name}")]
        return archive.read(found).decode()


def headers(distributions: Distributions) -> Message:
    return email.message_from_string(metadata(distributions, "METADATA"))


def test_the_wheel_holds_every_file_of_the_package_and_no_other(distributions: Distributions) -> None:
    known = run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "luma_pipeline"], ROOT).split("\n")
    ours = {name for name in known if (ROOT / name).is_file()}
    assert {"luma_pipeline/py.typed", "luma_pipeline/sandbox/samples/life.mp4"} <= ours
    assert {name for name in in_wheel(distributions) if ".dist-info/" not in name} == ours


def test_the_source_distribution_holds_what_the_wheel_is_built_of_and_no_tests(distributions: Distributions) -> None:
    names = in_source(distributions)
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.cfg"} <= names
    assert {name for name in in_wheel(distributions) if ".dist-info/" not in name} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "deploy/"))]


def test_the_image_gets_the_same_package(distributions: Distributions, tmp_path: Path) -> None:
    names = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (line[1:] for line in names if line.startswith("!")):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", "out", "."], tmp_path)
    [wheel] = (tmp_path / "out").glob("*.whl")
    assert in_wheel(Distributions(wheel, distributions.source)) == in_wheel(distributions)


def test_check_wheel_contents_has_no_findings(distributions: Distributions) -> None:
    program = Path(sys.executable).parent / "check-wheel-contents"
    assert "OK" in run([str(program), str(distributions.wheel)], ROOT)


def test_the_metadata_is_what_pyproject_says(distributions: Distributions) -> None:
    found = headers(distributions)
    assert (found["Name"], found["Requires-Python"]) == ("luma-pipeline", project()["requires-python"])
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Description-Content-Type"] == "text/markdown"
    assert str(found.get_payload()).strip() == (ROOT / "README.md").read_text().strip()
    extras = project()["optional-dependencies"]
    assert isinstance(extras, dict)
    assert set(found.get_all("Provides-Extra") or []) == set(extras)


def test_the_metadata_names_no_machine_and_no_index(distributions: Distributions) -> None:
    text = metadata(distributions, "METADATA") + metadata(distributions, "RECORD")
    assert not re.search(r"file://|/home/|/root/|@ http", text)


def test_the_entry_points_are_those_of_pyproject(distributions: Distributions) -> None:
    parser = ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(metadata(distributions, "entry_points.txt"))
    given = project()
    groups = {"console_scripts": given["scripts"], **given.get("entry-points", {})}  # type: ignore[dict-item]
    assert {name: dict(parser[name]) for name in parser.sections()} == groups


def test_the_locks_name_no_index_and_no_machine() -> None:
    for name in ("requirements.lock", "requirements-lowest.lock"):
        lines = (ROOT / name).read_text().splitlines()
        assert lines
        assert not [line for line in lines if not re.match(r"[a-z0-9-]+==[^ /]+( ; [^/]+)?$", line)], name
    hashed = (ROOT / "requirements-hashed.lock").read_text().splitlines()
    of_package = r"([a-z0-9-]+==[^ /]+( ; [^/]+)?|    --hash=sha256:[0-9a-f]{64})( \\)?$"
    assert hashed
    assert not [line for line in hashed if not re.match(of_package, line)]
