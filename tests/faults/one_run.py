"""One run over a range of days in a process of its own, with signals handled as in Dagster's own run worker.

Usage: python -m tests.faults.one_run FIRST_DAY LAST_DAY, with the settings in the environment. The run's last status is
the one line on standard output.
"""

from __future__ import annotations

import sys

import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._utils.interrupts import capture_interrupts

from luma_pipeline.component import LumaPipelineComponent


def main() -> None:
    first_day, last_day = sys.argv[1:]
    in_process = dg.Definitions(executor=dg.in_process_executor)
    definitions = dg.Definitions.merge(LumaPipelineComponent.from_environment().definitions(), in_process)
    job = definitions.resolve_implicit_global_asset_job_def()
    tags = {"dagster/asset_partition_range_start": first_day, "dagster/asset_partition_range_end": last_day}
    with dg.DagsterInstance.get() as instance, capture_interrupts():
        run = instance.create_run_for_job(job, tags=tags)
        try:
            execute_run(InMemoryJob(job), run, instance)
        finally:
            ended = instance.get_run_by_id(run.run_id)
            sys.stdout.write(f"{ended.status.value if ended is not None else None}\n")


if __name__ == "__main__":
    main()
