"""`luma-pipeline dev`: three lines when everything can be clicked, and nothing left after Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.ports import free_ports

COMMAND = [sys.executable, "-m", "luma_pipeline.cli", "dev", "--port", "0"]
_PARTITIONS = """
{ assetNodes { assetKey { path } partitionStats { numPartitions numMaterialized } } }
"""


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def query(url: str, text: str) -> Any:
    return requests.post(f"{url}/graphql", json={"query": text}, timeout=30).json()["data"]


def processes_with(text: str) -> list[str]:
    """The command lines of all processes in whose environment or command line the text stands."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if text.encode() in command + variables and int(process.name) != os.getpid():
            found.append(command.decode(errors="replace"))
    return found


@pytest.mark.deployment
def test_dev_says_what_to_click_when_every_day_is_there_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "sandbox"
    command = [*COMMAND, "--webserver-port", str(free_ports(1)[0]), "--directory", str(directory)]
    # A shell's background job would ignore SIGINT, and so would what starts this test.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_ctrl_c
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        found = re.match(r"Open (http://127\.0\.0\.1:\d+)/", lines[0])
        assert found is not None, process.stderr.read() if process.stderr else ""
        assets = query(found[1], _PARTITIONS)["assetNodes"]
        counts = {"/".join(asset["assetKey"]["path"]): asset["partitionStats"] for asset in assets}
        for name in ("luma_tasks", "luma_generations", "luma_videos"):
            assert counts[name] == {"numPartitions": 4, "numMaterialized": 4}
        assert "luma_videos" in lines[1]
        assert "Ctrl-C" in lines[2]
        assert processes_with(str(directory))
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    assert told == "Starting the sandbox and Dagster...\nStopping...\n"
    assert processes_with(str(directory)) == []


def test_a_taken_port_of_the_ui_is_told_before_anything_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [*COMMAND, "--webserver-port", str(port), "--directory", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Port {port} on 127.0.0.1 is taken; choose another. (--webserver-port)" in done.stderr
    assert not (tmp_path / "data").exists()


def test_definitions_that_do_not_load_are_told_with_the_reason(tmp_path: Path) -> None:
    environment = {**os.environ, "LUMA_PARTITIONS": "yearly"}
    command = [*COMMAND, "--webserver-port", "0", "--directory", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "LUMA_PARTITIONS must be hourly, daily, weekly or monthly" in done.stderr
    assert "Traceback" not in done.stderr
