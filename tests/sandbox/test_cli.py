"""The command line: what a person sees, and that nothing is left running."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import requests

from luma_pipeline import __version__
from luma_pipeline.sandbox.stack import Sandbox

COMMAND = [sys.executable, "-m", "luma_pipeline.cli"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def read_exports(process: subprocess.Popen[str]) -> dict[str, str]:
    """The settings as the shell would set them, read up to the last one."""
    assert process.stdout is not None
    found: dict[str, str] = {}
    while "DAGSTER_HOME" not in found:
        line = process.stdout.readline()
        assert line, "the sandbox ended before it had printed its settings"
        match = re.fullmatch(r"export (\w+)=(\S*)\n", line)
        if match is not None:
            found[match[1]] = match[2]
    return found


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_version_and_wrong_usage() -> None:
    assert run("--version").stdout == f"luma-pipeline {__version__}\n"
    assert run().returncode == 2
    assert run("sandbox", "--port", "many").returncode == 2


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_the_sandbox_prints_settings_that_work_and_leaves_no_process(tmp_path: Path, ending: signal.Signals) -> None:
    command = [*COMMAND, "sandbox", "--directory", str(tmp_path / "sandbox"), "--port", "0"]
    # A shell's background job would ignore SIGINT, and so would what starts this test.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_heed_ctrl_c) as process:
        settings = read_exports(process)
        weed = int((tmp_path / "sandbox" / "s3" / "weed.pid").read_text())
        os.kill(weed, 0)
        headers = {"Authorization": f"Bearer {settings['LUMA_API_TOKEN']}"}
        answer = requests.get(f"{settings['LUMA_BASE_URL']}/luma/generations/x", headers=headers, timeout=10)
        assert answer.status_code == 404
        client = boto3.client(
            "s3",
            endpoint_url=settings["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
            region_name=settings["AWS_REGION"],
        )
        assert client.list_objects_v2(Bucket=settings["LUMA_S3_BUCKET"])["KeyCount"] == 0
        assert settings["LUMA_SOURCE_URL"] == f"sqlite:///{tmp_path / 'sandbox' / 'source.db'}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", settings["LUMA_PARTITIONS_START"])
        process.send_signal(ending)
        assert process.wait(timeout=30) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(weed, 0)


def test_a_taken_port_is_refused_with_what_to_change(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("sandbox", "--directory", str(tmp_path), "--port", str(port))
    assert result.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken" in result.stderr
    assert "--port" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    # An import hook that hides a package, as if it had not been installed.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'duckdb' else find_spec(name, package)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        [*COMMAND, "demo", "--directory", str(tmp_path / "sandbox")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "pip install 'luma-pipeline[sandbox]'" in result.stderr
    assert not (tmp_path / "sandbox").exists()


def test_the_environment_of_a_real_account_does_not_reach_the_sandboxs_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    with Sandbox(tmp_path) as sandbox:
        environment = sandbox.process_environment()
        exports = sandbox.exports()
    assert "AWS_PROFILE" not in environment
    assert "AWS_SESSION_TOKEN" not in environment
    assert exports.startswith("unset AWS_PROFILE AWS_SESSION_TOKEN\n")
