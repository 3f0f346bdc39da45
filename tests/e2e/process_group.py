"""Processes that end with whoever started them, however that one ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

_POLL_SECONDS = 0.1


class ProcessGroup:
    """Named commands that run side by side, each with its log file, until the context is left.

    The supervisor is a process of its own that waits for the end of its standard input, the one thing the kernel closes
    however the parent dies; then it kills its whole process group, grandchildren included.
    """

    def __init__(
        self, commands: Mapping[str, Sequence[str]], *, env: Mapping[str, str], directory: Path, logs: Path
    ) -> None:
        self._commands = {name: list(command) for name, command in commands.items()}
        self._env = dict(env)
        self._directory = directory
        self._logs = logs
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ProcessGroup:
        self._logs.mkdir(parents=True, exist_ok=True)
        plan = json.dumps({"commands": self._commands, "logs": str(self._logs)})
        self._supervisor = subprocess.Popen(
            [sys.executable, __file__, plan],
            stdin=subprocess.PIPE,
            cwd=self._directory,
            env=self._env,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._supervisor is None or self._supervisor.stdin is None:
            return
        self._supervisor.stdin.close()
        self._supervisor.wait(timeout=30)

    @property
    def group_id(self) -> int:
        """The process group, which is the supervisor's."""
        if self._supervisor is None:
            raise RuntimeError("nothing has been started")
        return self._supervisor.pid

    def ended(self) -> dict[str, int]:
        """Which of the commands have ended by themselves, with their exit codes."""
        return {path.stem: int(path.read_text()) for path in self._logs.glob("*.exit") if path.read_text()}

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of every log, under the command's name."""
        parts = []
        for path in sorted(self._logs.glob("*.log")):
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append("\n".join([f"--- {path.stem} ---", *tail]))
        return "\n".join(parts)


def _supervise(commands: Mapping[str, Sequence[str]], logs: Path) -> None:
    running: dict[str, subprocess.Popen[bytes]] = {}
    for name, command in commands.items():
        with (logs / f"{name}.log").open("wb") as log:
            running[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    while not select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
        for name, process in list(running.items()):
            if process.poll() is not None:
                (logs / f"{name}.exit").write_text(str(process.returncode))
                del running[name]
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _plan = json.loads(sys.argv[1])
    _supervise(_plan["commands"], Path(_plan["logs"]))
