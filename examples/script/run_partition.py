"""Run one day without Dagster: read its task IDs, ask the provider, copy the videos.

python run_partition.py 2024-12-24
python run_partition.py 2024-12-24 --plan
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta

from luma_pipeline import (
    EngineSettings,
    LumaPipelineError,
    ProviderConfig,
    SourceTable,
    TransferConfig,
    plan_partition,
    run_partition,
)


def main() -> int:
    """Return the exit code: 0, 1 for an error that says what to do, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("day", type=datetime.fromisoformat, help="a date such as 2024-12-24, in UTC")
    parser.add_argument("--plan", action="store_true", help="write nothing; print what would be asked and copied")
    arguments = parser.parse_args()
    start = arguments.day.replace(tzinfo=UTC)
    end = start + timedelta(days=1)
    try:
        if arguments.plan:
            plan = plan_partition(settings(), start, end)
            print(f"{plan.to_ask} tasks to ask for, {plan.to_copy} artifacts to copy of tasks that are completed")
            return 0
        report = run_partition(settings(), start, end, on_progress=print)
    except LumaPipelineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was answered is kept, and the next call goes on from there", file=sys.stderr)
        return 130
    if report.generations is not None and report.videos is not None:
        print(f"states: {dict(report.generations.states)}, videos: {dict(report.videos.statuses)}")
    return 0


def settings() -> EngineSettings:
    """The settings, from the variables that the README of the project names."""
    variable = os.environ
    return EngineSettings(
        source=SourceTable(url=variable["LUMA_SOURCE_URL"], table=variable["LUMA_SOURCE_TABLE"]),
        provider=ProviderConfig(
            token=variable["LUMA_API_TOKEN"], base_url=variable.get("LUMA_BASE_URL", ProviderConfig.base_url)
        ),
        videos=TransferConfig(
            bucket=variable["LUMA_S3_BUCKET"],
            allow_private_addresses=variable.get("LUMA_ALLOW_PRIVATE_MEDIA") == "true",
        ),
        data_url=variable["LUMA_DATA_URL"],
    )


if __name__ == "__main__":
    sys.exit(main())
