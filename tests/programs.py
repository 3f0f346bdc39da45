"""Programs of the system that some tests need, and no Python package brings."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["program"]


def program(name: str, package: str) -> str:
    """The path of a program. Without it the test is skipped, and fails where TESTS_NEVER_SKIP is set, as in CI."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed: apt-get install {package}"
        if os.environ.get("TESTS_NEVER_SKIP"):
            pytest.fail(message)
        pytest.skip(message)
    return found
