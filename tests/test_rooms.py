"""The rooms stay apart: the provider's and the media room can be used where Dagster is not wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_walls_between_the_rooms_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_core_rooms_load_no_dagster() -> None:
    code = (
        "import luma_pipeline.luma, luma_pipeline.media, sys; sys.exit('dagster' in sys.modules "
        "or 'sqlalchemy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
