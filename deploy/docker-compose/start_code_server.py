"""Run the code server. When it serves, the runs that an earlier container of it took down are told as failed.

The runs are processes of this container, so none of them can be alive when it starts. Without this, Dagster would wait
for them, and nothing would run in their pool. Told as failed, `run_retries` starts them again: once, and only if the
code server serves at that moment.

    python start_code_server.py --location-name=NAME --port=PORT [options of `dagster code-server start`]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import dagster as dg

_AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


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
