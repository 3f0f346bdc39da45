"""A process that forks the processes of runs and readers, so that all of them together pay for the imports once.

It reads one order a line on standard input, as JSON, and says on standard output what it has started and what has
ended. A run is a process of its own, with the environment, the output and the signals of Dagster's own run worker.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import random
import select
import signal
import sqlite3
import sys
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import boto3.session  # noqa: F401
import dagster as dg
import duckdb  # noqa: F401
import pandas as pd  # noqa: F401
import psycopg  # noqa: F401
import pyarrow.dataset  # noqa: F401
import sqlalchemy as sa
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._utils.interrupts import capture_interrupts

from luma_pipeline.component import LumaPipelineComponent
from luma_pipeline.engine import run as _engine_run  # noqa: F401
from luma_pipeline.s3 import make_client
from tests.faults import readers
from tests.faults.scenario import is_mark

_POLL_SECONDS = 0.02


def serve() -> dict[str, Any] | None:
    """Fork for each order until standard input ends; returns the order in the child, None in the parent."""
    children: dict[int, str] = {}
    waiting = b""
    while True:
        if select.select([0], [], [], _POLL_SECONDS)[0]:
            data = os.read(0, 65536)
            if not data:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return None
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                order: dict[str, Any] = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    return order
                children[pid] = order["name"]
                _say({"name": order["name"], "pid": pid})
        while children:
            ended, status, usage = os.wait4(-1, os.WNOHANG)
            if not ended:
                break
            cpu = usage.ru_utime + usage.ru_stime
            _say({"name": children.pop(ended), "code": os.waitstatus_to_exitcode(status), "cpu": cpu})


def _say(message: dict[str, Any]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


def _become(order: dict[str, Any]) -> None:
    """Take the order's environment, its output, and nothing of the parent's chance."""
    output = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(order["environment"])
    # A shell starts what it puts into the background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, force=True)
    for name in order.get("quiet_loggers", ()):
        logging.getLogger(name).setLevel(logging.INFO)


def run(order: dict[str, Any]) -> None:
    """One run over a range of days. Its last status is the content of the file `result`."""
    if order.get("at") is not None:
        _signal_at(**order["at"])
    in_process = dg.Definitions(executor=dg.in_process_executor)
    definitions = dg.Definitions.merge(LumaPipelineComponent.from_environment().definitions(), in_process)
    job = definitions.resolve_implicit_global_asset_job_def()
    if not order["checks"]:
        job = job.get_subset(asset_selection=job.asset_layer.selected_asset_keys, asset_check_selection=set())
    tags = {"dagster/asset_partition_range_start": order["first"], "dagster/asset_partition_range_end": order["last"]}
    config = {"ops": {"luma_pipeline": {"config": order["config"]}}} if order["config"] else {}
    with dg.DagsterInstance.get() as instance, capture_interrupts():
        created = instance.create_run_for_job(job, tags=tags, run_config=config)
        try:
            execute_run(InMemoryJob(job), created, instance)
        finally:
            ended = instance.get_run_by_id(created.run_id)
            Path(order["result"]).write_text(str(ended.status.value if ended is not None else None))


@dataclass
class LocalEvents:
    """What a file that is opened, renamed or removed below a local root is to the run."""

    root: str
    _renamed: list[str] = field(default_factory=list)

    def of(self, name: str, arguments: tuple[Any, ...]) -> str | None:
        """The event that an audit event is; None for all others."""
        if name == "os.rename":
            return self._of_rename(os.fspath(arguments[1]))
        if not isinstance(arguments[0], (str, os.PathLike)):
            return None
        path = str(os.fspath(arguments[0]))
        if path in self._renamed:  # the folder, which is forced to disk after the file was renamed
            self._renamed.remove(path)
            return "after rename"
        if not path.startswith(self.root) or not is_mark(path[len(self.root) + 1 :]):
            return None
        if name == "os.remove":
            return "delete"
        return "mark" if arguments[1] == "wb" else None

    def _of_rename(self, target: str) -> str | None:
        if not target.startswith(self.root):
            return None
        if "/_checkpoints/" in target:
            return "checkpoint"
        self._renamed.append(os.path.dirname(target))
        return "before rename"


def _signal_at(event: str, nth: int, kind: int, root: str, fired: str) -> None:
    """Send this process a signal at the nth event of a kind below a local root.

    CPython tells its audit hooks of each file that is opened, renamed or removed, just before it is done (PEP 578).
    """
    events = LocalEvents(root)
    left = nth

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if left and name in {"os.rename", "open", "os.remove"} and events.of(name, arguments) == event:
            left -= 1
            if not left:
                Path(fired).touch()
                os.kill(os.getpid(), kind)

    sys.addaudithook(hook)


@sa.event.listens_for(sa.Engine, "connect")
def _without_sync(connection: object, _: object) -> None:
    """Two of three seconds of a small run are Dagster's event log being forced to disk, which no kill has need of."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


def warm_up() -> None:
    """Load what a run loads late: what pydantic, botocore and SQLAlchemy make when it is first needed."""
    LumaPipelineComponent.from_environment().definitions().resolve_implicit_global_asset_job_def()
    make_client(max_connections=1, timeouts=(1.0, 1.0)).close()
    for url in ("sqlite://", "postgresql+psycopg://"):
        sa.create_engine(url).dispose()


def main() -> None:
    warm_up()
    gc.collect()
    gc.freeze()
    order = serve()
    if order is None:
        return
    code = 1
    try:
        _become(order)
        if order["kind"] == "run":
            run(order)
        else:
            readers.read_all_the_time(order)
        code = 0
    except Exception:  # noqa: BLE001
        traceback.print_exc()
    finally:
        _exit(code)


def _exit(code: int) -> NoReturn:
    """End as Python does, with its waits for threads, but without freeing the parent's memory object by object."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
