"""The locks: each package with its version and its hashes, and an environment that is what they say."""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT
from tests.packaging.installed_packages import LOCK, Locked, differences, read_lock

HASHED = read_lock(LOCK.read_text())


def test_every_package_has_a_version_and_its_hashes() -> None:
    assert len(HASHED) > 100
    for name, locked in HASHED.items():
        assert locked.hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in locked.hashes), name


def test_both_locks_have_the_same_packages_for_the_same_platforms() -> None:
    with_hashes = re.findall(r"^(\S.*?)(?: \\)?$", LOCK.read_text(), re.MULTILINE)
    assert with_hashes == (ROOT / "requirements.lock").read_text().splitlines()


def test_what_is_installed_here_is_what_the_lock_says() -> None:
    if sys.prefix != str(ROOT / ".venv"):
        pytest.skip("this is not the environment that `make` has made of the lock")
    # `make benchmark-extra` puts further packages beside those of the lock.
    found = [line for line in differences(HASHED, distributions(), reads_files=False) if "no such package" not in line]
    assert found == []


def package(site: Path, name: str, version: str, body: str = "x = 1\n") -> None:
    """An installed package of one module, whose recorded digest is that of `x = 1`."""
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    (site / f"{name}.py").write_text(body)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    digest = "sha256=nia_NpkRxFwkPGhBR7I_yeHc_PJX0pmhxjIBam_NM_Q"
    (folder / "RECORD").write_text(f"{name}.py,{digest},6\n{name}-{version}.dist-info/RECORD,,\n")


def test_each_difference_is_told(tmp_path: Path) -> None:
    package(tmp_path, "good", "1.0")
    package(tmp_path, "older", "1.0")
    package(tmp_path, "stray", "1.0")
    package(tmp_path, "changed", "1.0", "x = 2\n")
    package(tmp_path, "pip", "1.0")
    lock = {
        **{name: Locked("1.0", (), True) for name in ("good", "changed", "absent")},
        "older": Locked("2.0", (), True),
        "elsewhere": Locked("1.0", (), False),
    }
    assert sorted(differences(lock, distributions(path=[str(tmp_path)]), reads_files=True)) == [
        "absent is not installed",
        "changed: changed.py has other bytes than its package",
        "older 1.0 is installed, and the lock says 2.0",
        "stray 1.0 is installed, and the lock has no such package",
    ]
    (tmp_path / "good.py").unlink()
    assert "good: good.py is gone" in list(differences(lock, distributions(path=[str(tmp_path)]), reads_files=True))


def test_a_lock_is_read_with_its_platforms() -> None:
    text = (
        'one==1.0 ; sys_platform == "nowhere" \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n'
        "one==2.0 ; sys_platform != 'nowhere' \\\n    --hash=sha256:cc\ntwo==1.0 ; sys_platform == 'nowhere' \\\n"
        "    --hash=sha256:dd\n"
    )
    assert read_lock(text) == {
        "one": Locked("2.0", ("sha256:cc",), True),
        "two": Locked("1.0", ("sha256:dd",), False),
    }
