"""Runs the pipeline over a range of days in one Dagster run, as a backfill from the UI would.

Usage: python -m luma_pipeline.sandbox.run_days FIRST_DAY LAST_DAY, with the settings in the environment. Dagster's log
goes to standard error; why a run failed is the one line on standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import dagster as dg


def main(argv: Sequence[str] | None = None) -> int:
    """Run the days and return 0, or 1 when the run failed."""
    first_day, last_day = sys.argv[1:] if argv is None else argv
    try:
        failures = run_days(first_day, last_day)
    except dg.DagsterError as error:
        failures = [str(error).splitlines()[0]]
    if failures:
        print("; ".join(failures))
    return 1 if failures else 0


def run_days(first_day: str, last_day: str) -> list[str]:
    """Materialize every asset over the days (ISO dates, both included); returns why steps failed."""
    from luma_pipeline.definitions import defs

    # The tags with which Dagster's backfills put a range of partitions into one run (BackfillPolicy).
    tags = {"dagster/asset_partition_range_start": first_day, "dagster/asset_partition_range_end": last_day}
    with dg.DagsterInstance.get() as instance:
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    return [_reason(event) for event in result.all_events if event.is_step_failure]


def _reason(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data is not None and failure.user_failure_data.description:
        return failure.user_failure_data.description
    cause = failure.error.cause if failure.error is not None and failure.error.cause is not None else failure.error
    return cause.message.strip() if cause is not None else str(event.message)


if __name__ == "__main__":
    sys.exit(main())
