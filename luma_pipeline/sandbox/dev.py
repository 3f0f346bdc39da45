"""`dagster dev` on the sandbox: started quietly, and waited for until its UI shows the assets."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from types import TracebackType

import requests

from luma_pipeline.sandbox.server import PortTakenError
from luma_pipeline.sandbox.stack import Sandbox

__all__ = ["DagsterDev", "DagsterDevError"]

_HOST = "127.0.0.1"
_START_SECONDS = 120.0
_POLL_SECONDS = 0.25
_STOP_SECONDS = 20.0
_LOADED = """
{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError {
    __typename ... on PythonError { message } } } } } }
"""


class DagsterDevError(Exception):
    """Dagster did not start, or has ended; the message says why and where its log is."""


class DagsterDev:
    """A context manager around `dagster dev` with the sandbox's settings. Entering returns once the UI has the assets.

    `port` is the UI's; 0 picks a free one. The output goes to `log_path`.

    Raises:
        PortTakenError: Another program listens on the port.
        DagsterDevError: Dagster ended while it started, or the definitions do not load.
    """

    def __init__(self, sandbox: Sandbox, *, port: int) -> None:
        self._sandbox = sandbox
        self._port = _free_port(port)
        self._process: subprocess.Popen[bytes] | None = None
        self.log_path = sandbox.directory / "dagster.log"

    @property
    def url(self) -> str:
        """The address of the UI, without a slash at its end."""
        return f"http://{_HOST}:{self._port}"

    def __enter__(self) -> DagsterDev:
        command = [sys.executable, "-m", "dagster", "dev", "-m", "luma_pipeline.definitions"]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "-h", _HOST, "-p", str(self._port)],
                env=self._sandbox.process_environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its own group: Ctrl-C comes here first, and no process of it is left when this one has gone.
                start_new_session=True,
            )
        try:
            self._wait_until_loaded(self._process)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def wait(self) -> None:
        """Wait until Dagster ends by itself, and raise DagsterDevError then."""
        if self._process is not None:
            code = self._process.wait()
            raise DagsterDevError(f"dagster dev ended with exit code {code}; its log: {self.log_path}")

    def _wait_until_loaded(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._has_loaded():
            if process.poll() is not None:
                self.wait()
            if time.monotonic() > deadline:
                raise DagsterDevError(f"dagster dev was not ready in {_START_SECONDS:.0f} s; its log: {self.log_path}")
            time.sleep(_POLL_SECONDS)

    def _has_loaded(self) -> bool:
        try:
            answer = requests.post(f"{self.url}/graphql", json={"query": _LOADED}, timeout=10).json()
            entries = answer["data"]["workspaceOrError"]["locationEntries"]
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return False
        found = [entry["locationOrLoadError"] or {"__typename": "loading"} for entry in entries]
        for location in found:
            if location["__typename"] == "PythonError":
                raise DagsterDevError(f"the definitions do not load: {location['message'].strip()}")
        return bool(found) and all(location["__typename"] == "RepositoryLocation" for location in found)

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port(port: int) -> int:
    """The port, or a free one for 0. Dagster would tell of a taken one in its log alone."""
    with socket.socket() as probe:
        # A port that was closed a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            raise PortTakenError(f"Port {port} on {_HOST} is taken; choose another.") from None
        return int(probe.getsockname()[1])
