"""The rooms stay apart: the provider's and the media room can be used where Dagster is not wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import luma_pipeline

_WITHOUT_SETTINGS = {name: value for name, value in os.environ.items() if not name.startswith("LUMA_")}
ROOT = Path(__file__).parent.parent


def test_the_walls_between_the_rooms_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("luma_pipeline, luma_pipeline.luma, luma_pipeline.media", ("dagster", "sqlalchemy")),
        ("luma_pipeline.engine.run", ("dagster", "pydantic")),
        # The code server loads the definitions again and again, and reads no data.
        ("luma_pipeline.definitions", ("pandas", "boto3", "botocore.session")),
    ],
)
def test_what_is_not_needed_is_not_imported(modules: str, unwanted: tuple[str, ...]) -> None:
    code = f"import {modules}, sys; sys.exit(', '.join(set({unwanted}) & set(sys.modules)) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=_WITHOUT_SETTINGS
    )
    assert done.returncode == 0, done.stderr


def test_the_package_gives_its_names_when_they_are_used() -> None:
    for name in luma_pipeline.__all__:
        assert getattr(luma_pipeline, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'run_partitions'"):
        _ = luma_pipeline.run_partitions
