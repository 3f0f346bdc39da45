"""Dagster as a user runs it: code server, webserver and daemon as processes, over a SQLite instance of their own."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import dagster as dg
import requests

from tests.e2e.graphql import Backfill, DagsterClient, GraphQLError, Run
from tests.e2e.process_group import ProcessGroup
from tests.ports import free_ports

T = TypeVar("T")

_LOCATION = "luma_pipeline"
_POLL_SECONDS = 0.25

# Dagster's daemon looks for backfills every 30 seconds and has no setting for it. And it fails a backfill whose code
# location was not up when it first looked: so it begins when the code server listens. The daemon is otherwise its own.
_DAEMON = """
import socket, sys, time
import dagster._daemon.controller as controller
controller.DEFAULT_DAEMON_INTERVAL_SECONDS = float(sys.argv.pop(1))
port = int(sys.argv.pop(1))
while True:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
from dagster._daemon.cli import main
main()
"""


class DeploymentError(RuntimeError):
    """Dagster did not start, or did not get where the test waited for; the message ends with the processes' logs."""


class DagsterDeployment:
    """A context manager around one Dagster with `module` as its only code location.

    Parameters
    ----------
    directory
        Where everything is kept: `DAGSTER_HOME`, logs of the processes, storage of the runs.
    module
        The module with the `Definitions`, importable from `python_path` or from the environment.
    env
        Settings for the code under test. Of the test's own environment, variables that begin with `LUMA_`, `AWS_` or
        `DAGSTER_` are not handed down.
    instance
        Settings put over those of `dagster.yaml` that the deployment writes.
    daemon_interval
        Seconds between two looks of the backfill daemon.
    """

    def __init__(
        self,
        directory: Path,
        module: str = "luma_pipeline.definitions",
        *,
        env: Mapping[str, str] | None = None,
        instance: Mapping[str, object] | None = None,
        python_path: Path | None = None,
        daemon_interval: float = 1.0,
    ) -> None:
        self.home = directory / "dagster_home"
        self._directory = directory
        self._module = module
        self._env = dict(env or {})
        self._instance = dict(instance or {})
        self._python_path = python_path
        self._daemon_interval = daemon_interval
        self._exit = ExitStack()
        self._client: DagsterClient | None = None
        self._processes: ProcessGroup | None = None

    def __enter__(self) -> DagsterDeployment:
        self.home.mkdir(parents=True, exist_ok=True)
        code_port, web_port = free_ports(2)
        # JSON is YAML too.
        (self.home / "dagster.yaml").write_text(json.dumps(_INSTANCE | self._instance))
        (self.home / "workspace.yaml").write_text(
            json.dumps(
                {"load_from": [{"grpc_server": {"host": "127.0.0.1", "port": code_port, "location_name": _LOCATION}}]}
            )
        )
        _create_tables(self.home)
        self._processes = ProcessGroup(
            self._commands(code_port, web_port),
            env=self._environment(),
            directory=self._directory,
            logs=self._directory / "logs",
        )
        with ExitStack() as starting:
            starting.enter_context(self._processes)
            self._client = DagsterClient(f"http://127.0.0.1:{web_port}", location=_LOCATION)
            starting.callback(self._client.close)
            self._wait_until_loaded()
            self._exit = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def client(self) -> DagsterClient:
        """GraphQL as the UI speaks it."""
        if self._client is None:
            raise DeploymentError("the deployment has not been entered")
        return self._client

    @property
    def url(self) -> str:
        """The address of the UI, without a slash at its end."""
        return self.client.url

    @property
    def process_group_id(self) -> int:
        """The group of all of the deployment's processes, runs included."""
        if self._processes is None:
            raise DeploymentError("the deployment has not been entered")
        return self._processes.group_id

    def wait_for_run(self, run_id: str, *, timeout: float = 120) -> Run:
        """The run when it has ended, well or badly."""
        return self.wait_until(lambda: self.client.run(run_id), lambda run: run.is_finished, timeout=timeout)

    def wait_for_backfill(self, backfill_id: str, *, timeout: float = 180) -> Backfill:
        """The backfill when it has ended, well or badly, and all its runs with it."""
        return self.wait_until(
            lambda: self.client.backfill(backfill_id),
            lambda backfill: backfill.is_finished and all(run.is_finished for run in backfill.runs),
            timeout=timeout,
        )

    def wait_until(self, look: Callable[[], T], good: Callable[[T], bool], *, timeout: float = 60) -> T:
        """What `look` returns, as soon as it is `good`; raises DeploymentError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            seen = look()
            if good(seen):
                return seen
            if time.monotonic() > deadline:
                raise DeploymentError(f"after {timeout:.0f} s still: {seen}\n{self._log_tail()}")
            time.sleep(_POLL_SECONDS)

    def kill_run(self, run_id: str) -> list[int]:
        """Kill -9 the run's process and those of its steps; returns the process IDs that were still there."""
        killed = []
        for process_id in self.client.process_ids(run_id):
            try:
                os.kill(process_id, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.append(process_id)
        return killed

    def _commands(self, code_port: int, web_port: int) -> dict[str, list[str]]:
        workspace = str(self.home / "workspace.yaml")
        python = [sys.executable, "-W", "ignore"]
        return {
            "code_server": [
                *python,
                *["-m", "dagster", "api", "grpc", "--module-name", self._module, "--host", "127.0.0.1"],
                *["--port", str(code_port), "--location-name", _LOCATION, "--inject-env-vars-from-instance"],
                "--use-python-environment-entry-point",
            ],
            "webserver": [
                *python,
                *["-m", "dagster_webserver", "--host", "127.0.0.1", "--port", str(web_port), "--workspace", workspace],
            ],
            "daemon": [
                *python,
                "-c",
                _DAEMON,
                str(self._daemon_interval),
                str(code_port),
                "run",
                "--workspace",
                workspace,
            ],
        }

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("LUMA_", "AWS_", "DAGSTER_"))
        }
        paths = [str(self._python_path)] if self._python_path else []
        paths += [path for path in [inherited.get("PYTHONPATH")] if path]
        return (
            inherited
            | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
            | {"DAGSTER_HOME": str(self.home), "DAGSTER_DISABLE_TELEMETRY": "1"}
            | self._env
        )

    def _wait_until_loaded(self, timeout: float = 90) -> None:
        def state() -> str | None:
            if self._processes is not None and self._processes.ended():
                raise DeploymentError(f"ended by itself: {self._processes.ended()}\n{self._log_tail()}")
            try:
                return self.client.location_error()
            except (requests.ConnectionError, GraphQLError) as error:
                return str(error)

        self.wait_until(state, lambda error: error is None, timeout=timeout)

    def _log_tail(self) -> str:
        return self._processes.log_tail() if self._processes is not None else ""


_INSTANCE: dict[str, object] = {
    "telemetry": {"enabled": False},
    # The UI's first visitor is otherwise greeted by a dialog that covers the page.
    "nux": {"enabled": False},
    "run_coordinator": {
        "module": "dagster._core.run_coordinator",
        "class": "QueuedRunCoordinator",
        "config": {"dequeue_interval_seconds": 1},
    },
}


def _create_tables(home: Path) -> None:
    """Make the instance's SQLite files now: processes that start side by side would race for it and die."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.get_runs_count()
        instance.all_asset_keys()
        instance.all_instigator_state()
