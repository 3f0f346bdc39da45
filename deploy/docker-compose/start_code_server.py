"""Run the code server. When it serves, the runs that an earlier container of it took down are told as failed.

The runs are processes of this container, so none of them can be alive when it starts. Without this, Dagster would wait
for them, and nothing would run in their pool. Told as failed, `run_retries` starts them again: once, and only if the
daemon has reached the code server by then. One that has not is told once more.

    python start_code_server.py --location-name=NAME --port=PORT [options of `dagster code-server start`]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import dagster as dg

_AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]

_AUTO_RETRY = "dagster/auto_retry_run_id"
_GIVEN_UP = "Failed to retry run"
_RETRY_SECONDS = 5.0
_SECONDS_OF_RETRIES = 300.0


def runs_at_work(instance: dg.DagsterInstance, location: str) -> list[str]:
    """IDs of the code location's runs that have begun and not ended, as far as Dagster knows."""
    runs = instance.get_runs(dg.RunsFilter(statuses=_AT_WORK))
    return [run.run_id for run in runs if run.remote_job_origin and run.remote_job_origin.location_name == location]


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


def tell_until_started_again(
    instance: dg.DagsterInstance, run_ids: Sequence[str], is_serving: Callable[[], bool]
) -> None:
    """Tell runs as failed once more, whose retry Dagster has given up because it did not know the code server yet.

    A daemon that has started while the code server was down looks for it once a minute.
    """
    until = time.monotonic() + _SECONDS_OF_RETRIES
    given_up = dict.fromkeys(run_ids, 0)
    while given_up and is_serving() and time.monotonic() < until:
        time.sleep(_RETRY_SECONDS)
        for run_id, before in list(given_up.items()):
            run = instance.get_run_by_id(run_id)
            if run is None or run.status != dg.DagsterRunStatus.FAILURE or _AUTO_RETRY in run.tags:
                del given_up[run_id]
                continue
            entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
            count = sum(_GIVEN_UP in entry.message for entry in entries)
            if count > before:
                given_up[run_id] = count
                instance.report_run_failed(run, "Dagster could not start it again; it is told once more.")


def main(options: Sequence[str]) -> int:
    """Run the code server until it ends; returns its exit code."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--location-name", required=True)
    parser.add_argument("--port", required=True)
    own = parser.parse_known_args(options)[0]
    with dg.DagsterInstance.get() as instance:
        lost = runs_at_work(instance, own.location_name)
        server = subprocess.Popen(["dagster", "code-server", "start", *options])  # noqa: S603, S607 (the image's PATH)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: server.send_signal(received))
        if lost and _serves(server, own.port):
            for run_id in lost:
                tell(instance, run_id)
            tell_until_started_again(instance, lost, lambda: server.poll() is None)
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
