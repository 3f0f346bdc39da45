"""How an environment differs from the lock: `python -m tests.packaging.installed_packages`, with no network.

Prints each difference, and fails if there is any. The bytes of every installed module are compared with the digest that
its package has recorded.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements-hashed.lock"
OWN = {"luma-pipeline", "pip", "setuptools"}
"""What an environment has beside the lock: this package, and what `venv` puts there."""


@dataclass(frozen=True)
class Locked:
    """A package of the lock: its version, and the digests of its files on the index."""

    version: str
    hashes: tuple[str, ...]
    is_for_here: bool


def read_lock(text: str) -> dict[str, Locked]:
    """The packages of a lock by name. Of one with several platforms that of this one counts."""
    found: dict[str, Locked] = {}
    for block in re.split(r"\n(?=\S)", text.replace("\\\n", " ").strip()):
        line, *hashes = re.split(r"\s+--hash=", block.strip())
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        is_for_here = requirement.marker is None or requirement.marker.evaluate()
        name = canonicalize_name(requirement.name)
        if is_for_here or name not in found:
            found[name] = Locked(specifier.version, tuple(hashes), is_for_here)
    return found


def differences(lock: Mapping[str, Locked], installed: Iterable[Distribution], *, reads_files: bool) -> Iterator[str]:
    """Each way in which what is installed is not what the lock says."""
    missing = {name for name, locked in lock.items() if locked.is_for_here}
    for package in installed:
        name = canonicalize_name(package.name)
        missing.discard(name)
        if name in OWN:
            continue
        if name not in lock:
            yield f"{name} {package.version} is installed, and the lock has no such package"
        elif lock[name].version != package.version:
            yield f"{name} {package.version} is installed, and the lock says {lock[name].version}"
        if reads_files:
            yield from _changed_files(name, package)
    yield from (f"{name} is not installed" for name in sorted(missing))


def _changed_files(name: str, package: Distribution) -> Iterator[str]:
    for file in package.files or ():
        # The programs in `bin` are written by pip, with the path of this environment.
        if file.hash is None or file.suffix == ".pyc" or ".." in file.parts:
            continue
        path = Path(str(file.locate()))
        if not path.exists():
            yield f"{name}: {file} is gone"
            continue
        digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, path.read_bytes()).digest()).rstrip(b"=")
        if digest.decode() != file.hash.value:
            yield f"{name}: {file} has other bytes than its package"


def main() -> int:
    found = list(differences(read_lock(LOCK.read_text()), distributions(), reads_files=True))
    sys.stdout.write("".join(f"{line}\n" for line in found) or "What is installed is what the lock says.\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
