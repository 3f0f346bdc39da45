"""Run the code server. When it serves, the runs that an earlier container of it took down are told as failed.

The runs are processes of this container, so none of them can be alive when it starts. Without this, Dagster would wait
for them, and nothing would run in their pool. Told as failed, `run_retries` starts them again: once, and only if the
daemon reaches the code server then. If it does not, also because this container was killed again, they are told once
more.

    python start_code_server.py --location-name=NAME --port=PORT [options of `dagster code-server start`]

With `--runs-elsewhere`, the runs are not processes of this container.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

_AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]

_AUTO_RETRY = "dagster/auto_retry_run_id"
_PARENT = "dagster/parent_run_id"
_GIVEN_UP = "Failed to retry run"
_GIVEN_UP_WITHIN = timedelta(hours=1)
_RETRY_SECONDS = 5.0
_SECONDS_OF_RETRIES = 300.0


def runs_at_work(instance: dg.DagsterInstance, location: str) -> list[str]:
    """IDs of the code location's runs that have begun and not ended, as far as Dagster knows."""
    runs = instance.get_runs(dg.RunsFilter(statuses=_AT_WORK))
    return [run.run_id for run in _of_location(runs, location)]


def _of_location(runs: Iterable[dg.DagsterRun], location: str) -> list[dg.DagsterRun]:
    return [run for run in runs if run.remote_job_origin and run.remote_job_origin.location_name == location]


def tell(instance: dg.DagsterInstance, run_id: str) -> None:
    """Tell a lost run as failed, or as cancelled where somebody had pressed Terminate."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return
    message = "The code server's container ended while this run was at work."
    print(f"run {run_id}: {message}", file=sys.stderr, flush=True)
    if run.status == dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message)
    else:
        instance.report_run_failed(run, message)


def is_given_up(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether Dagster has tried to start a failed run again and could not, since it was last told as failed."""
    events = {dg.DagsterEventType.ENGINE_EVENT, dg.DagsterEventType.RUN_FAILURE}
    told = [
        _GIVEN_UP in entry.message
        for entry in instance.all_logs(run_id, of_type=events)
        if _GIVEN_UP in entry.message
        or (entry.dagster_event and entry.dagster_event.event_type is dg.DagsterEventType.RUN_FAILURE)
    ]
    return bool(told) and told[-1]


def runs_given_up(instance: dg.DagsterInstance, location: str) -> list[str]:
    """IDs of the code location's runs whose retry Dagster has given up within the last hour, and nobody has made."""
    recent = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=datetime.now(UTC) - _GIVEN_UP_WITHIN)
    runs = [run.run_id for run in _of_location(instance.get_runs(recent), location) if _AUTO_RETRY not in run.tags]
    return [
        run_id
        for run_id in runs
        if is_given_up(instance, run_id) and not instance.get_runs_count(dg.RunsFilter(tags={_PARENT: run_id}))
    ]


def tell_until_started_again(
    instance: dg.DagsterInstance, run_ids: Sequence[str], is_serving: Callable[[], bool]
) -> None:
    """Tell runs as failed once more, whose retry Dagster has given up because it did not know the code server yet.

    A daemon that has started while the code server was down looks for it once a minute.
    """
    until = time.monotonic() + _SECONDS_OF_RETRIES
    waiting = set(run_ids)
    while waiting and is_serving() and time.monotonic() < until:
        for run_id in sorted(waiting):
            run = instance.get_run_by_id(run_id)
            if run is None or run.status != dg.DagsterRunStatus.FAILURE or _AUTO_RETRY in run.tags:
                waiting.discard(run_id)
            elif is_given_up(instance, run_id):
                instance.report_run_failed(run, "Dagster could not start it again; it is told once more.")
        time.sleep(_RETRY_SECONDS)


def main(options: Sequence[str]) -> int:
    """Run the code server until it ends; returns its exit code."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--location-name", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--runs-elsewhere", action="store_true")
    own, others = parser.parse_known_args(options)
    options = [f"--location-name={own.location_name}", f"--port={own.port}", *others]
    with dg.DagsterInstance.get() as instance:
        lost = [] if own.runs_elsewhere else runs_at_work(instance, own.location_name)
        given_up = runs_given_up(instance, own.location_name)
        server = subprocess.Popen(["dagster", "code-server", "start", *options])  # noqa: S603, S607 (the image's PATH)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: server.send_signal(received))
        if (lost or given_up) and _serves(server, own.port):
            for run_id in lost:
                tell(instance, run_id)
            tell_until_started_again(instance, [*lost, *given_up], lambda: server.poll() is None)
    return server.wait()


def _serves(server: subprocess.Popen[bytes], port: str) -> bool:
    """Wait until the server answers; False when it has ended instead."""
    check = ["dagster", "api", "grpc-health-check", "--port", port]
    while server.poll() is None:
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:  # noqa: S603
            return True
        time.sleep(1)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
