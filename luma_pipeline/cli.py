"""The command `luma-pipeline`: the sandbox, Dagster's UI on it, and a demonstration of the whole way of the data."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from luma_pipeline import __version__

if TYPE_CHECKING:
    from luma_pipeline.sandbox.stack import Sandbox

_DEFAULT_PORT = 8640
# The demonstration's open tasks stay open long enough that a second run right after it finds nothing new to copy.
_DEMO_OPEN_TASK_MINUTES = (30, 60, 120)
_LIVE_OPEN_TASK_MINUTES = (1, 3, 10)
_EXIT_FAILURE = 1
_EXIT_INTERRUPTED = 130
_SANDBOX_MODULES = ("duckdb", "dagster_webserver")


class CommandError(Exception):
    """The command cannot go on; the message says why and what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for a failure, 2 for wrong usage, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    # Ending by SIGTERM must stop the servers as Ctrl-C does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(arguments.run(arguments))
    except CommandError as error:
        print(f"luma-pipeline: {error}", file=sys.stderr)
        return _EXIT_FAILURE
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="luma-pipeline",
        description="Try the pipeline on this machine, with a local provider, CDN and S3 store, and no account.",
    )
    parser.add_argument("--version", action="version", version=f"luma-pipeline {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    sandbox = commands.add_parser("sandbox", help="start the sandbox and print the settings to export")
    sandbox.set_defaults(run=_run_sandbox)
    dev = commands.add_parser("dev", help="start the sandbox with `dagster dev` on it")
    dev.add_argument("--webserver-port", type=int, default=3000, help="port of Dagster's UI (default: %(default)s)")
    dev.set_defaults(run=_run_dev)
    demo = commands.add_parser("demo", help="start the sandbox, run the pipeline over its days, and sum up")
    demo.set_defaults(run=_run_demo)
    for command in (sandbox, dev, demo):
        command.add_argument(
            "--directory",
            type=Path,
            default=Path(".sandbox"),
            help="where the sandbox keeps its table, objects, datasets and runs (default: %(default)s)",
        )
        command.add_argument(
            "--port",
            type=int,
            default=_DEFAULT_PORT,
            help="the provider's port; the CDN and S3 have the next two; 0 picks free ones (default: %(default)s)",
        )
    return parser


def _run_sandbox(arguments: argparse.Namespace) -> int:
    with _sandbox(arguments, _LIVE_OPEN_TASK_MINUTES) as sandbox, contextlib.suppress(KeyboardInterrupt):
        print(f"# The sandbox is in {sandbox.directory}; Ctrl-C stops it. Elsewhere:")
        print(sandbox.exports(), flush=True)
        while sandbox.object_store.is_running:
            time.sleep(0.2)
        raise CommandError(f"The object store has ended; its log: {sandbox.object_store.log_path}")
    return 0


def _run_dev(arguments: argparse.Namespace) -> int:
    with _sandbox(arguments, _LIVE_OPEN_TASK_MINUTES) as sandbox, contextlib.suppress(KeyboardInterrupt):
        from luma_pipeline.sandbox.demo import DemoError, has_every_day, run_pipeline
        from luma_pipeline.sandbox.dev import DagsterDev, DagsterDevError
        from luma_pipeline.sandbox.server import PortTakenError

        print("Starting the sandbox and Dagster...", file=sys.stderr, flush=True)
        try:
            dagster = DagsterDev(sandbox, port=arguments.webserver_port)
            if not has_every_day(sandbox):
                run_pipeline(sandbox, tell=_tell_nobody)
            with dagster:
                print(_what_to_click(dagster.url, dagster.log_path), flush=True)
                try:
                    dagster.wait()
                except KeyboardInterrupt:
                    print("Stopping...", file=sys.stderr, flush=True)
                    raise
        except PortTakenError as error:
            raise CommandError(f"{error} (--webserver-port)") from error
        except (DemoError, DagsterDevError) as error:
            raise CommandError(str(error)) from error
    return 0


def _tell_nobody(text: str) -> None:
    """Keep the terminal quiet until there is something to click."""


def _what_to_click(url: str, log_path: Path) -> str:
    return (
        f"Open {url}/asset-groups: the lineage, with every day of the sandbox materialized.\n"
        f"Click luma_videos, then a day, to see its videos. {url}/runs shows the schedule at work.\n"
        f"Ctrl-C stops everything. Dagster's log: {log_path}"
    )


def _run_demo(arguments: argparse.Namespace) -> int:
    with _sandbox(arguments, _DEMO_OPEN_TASK_MINUTES) as sandbox:
        from luma_pipeline.sandbox.demo import DemoError, demonstrate

        try:
            print(demonstrate(sandbox).page(), flush=True)
        except DemoError as error:
            raise CommandError(str(error)) from error
    return 0


@contextlib.contextmanager
def _sandbox(arguments: argparse.Namespace, open_task_minutes: Sequence[float]) -> Iterator[Sandbox]:
    missing = [name for name in _SANDBOX_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"The sandbox extra is not installed ({', '.join(missing)} missing): pip install 'luma-pipeline[sandbox]'"
        )
    from luma_pipeline.sandbox.s3 import ObjectStoreError
    from luma_pipeline.sandbox.server import PortTakenError
    from luma_pipeline.sandbox.stack import Sandbox

    sandbox = Sandbox(arguments.directory, port=arguments.port, open_task_minutes=open_task_minutes)
    try:
        sandbox.start()
    except (ObjectStoreError, PortTakenError) as error:
        raise CommandError(f"{error} (--port, --directory)") from error
    try:
        yield sandbox
    finally:
        sandbox.stop()


def _interrupt(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the handler's signature)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
