"""Workflows, templates and hooks are well-formed, and may do no more than they need."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.conftest import ROOT

BIN = Path(sys.executable).parent
GITHUB = ROOT / ".github"


def workflows() -> dict[str, Any]:
    return {path.stem: yaml.safe_load(path.read_text()) for path in (GITHUB / "workflows").glob("*.yml")}


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.github-workflows", "workflows/*.yml"),
        ("custom.github-workflows-require-timeout", "workflows/ci.yml"),
        ("vendor.dependabot", "dependabot.yml"),
        ("vendor.github-issue-forms", "ISSUE_TEMPLATE/[!c]*.yml"),
        ("vendor.github-issue-config", "ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_the_files_of_github_meet_their_schema(schema: str, pattern: str) -> None:
    files = [str(path) for path in GITHUB.glob(pattern)]
    assert files
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", schema, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflows_have_no_security_findings() -> None:
    command = [str(BIN / "zizmor"), "--offline", "--no-progress", "--quiet", str(GITHUB)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_supported_python_runs_what_lands() -> None:
    test = workflows()["ci"]["jobs"]["test"]
    assert test["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert "bash .ci/run" in [step.get("run") for step in test["steps"]]


def test_only_publishing_may_write() -> None:
    for name, workflow in workflows().items():
        assert workflow["permissions"] == {"contents": "read"}, name
        for job_name, job in workflow["jobs"].items():
            assert job.get("permissions", {}) == ({"id-token": "write"} if job_name == "publish" else {})
    publish = workflows()["release"]["jobs"]["publish"]
    assert publish["needs"] == "build"
    assert workflows()["release"]["jobs"]["build"]["needs"] == "test"
    assert "secrets." not in "".join(path.read_text() for path in (GITHUB / "workflows").glob("*.yml"))


def test_every_hook_runs_a_program_of_the_lock() -> None:
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        program = shlex.split(hook["entry"])[0]
        assert hook["language"] == "system"
        assert (BIN / Path(program).name).exists(), program


def test_pre_commit_takes_its_settings() -> None:
    command = [str(BIN / "pre-commit"), "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
