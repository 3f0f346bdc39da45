# %% [markdown]
# # A day of Luma videos, in a notebook
# Open this file in VS Code or with Jupytext: each `# %%` begins a cell. No Dagster is needed.

# %% The settings, from the variables that the README of the project names
import os
from datetime import UTC, datetime, timedelta

import pandas as pd

from luma_pipeline import (
    EngineSettings,
    Policies,
    Progress,
    ProviderConfig,
    SourceTable,
    TransferConfig,
    plan_partition,
    run_partition,
)

settings = EngineSettings(
    source=SourceTable(url=os.environ["LUMA_SOURCE_URL"], table=os.environ["LUMA_SOURCE_TABLE"]),
    provider=ProviderConfig(
        token=os.environ["LUMA_API_TOKEN"], base_url=os.environ.get("LUMA_BASE_URL", ProviderConfig.base_url)
    ),
    videos=TransferConfig(
        bucket=os.environ["LUMA_S3_BUCKET"],
        allow_private_addresses=os.environ.get("LUMA_ALLOW_PRIVATE_MEDIA") == "true",
    ),
    data_url=os.environ["LUMA_DATA_URL"],
    policies=Policies(give_up_after_seconds=7 * 24 * 3600.0),
)
day = datetime.fromisoformat(os.environ.get("DAY", "2024-12-24")).replace(tzinfo=UTC)

# %% What a run would do: nothing is asked, copied or written
plan = plan_partition(settings, day, day + timedelta(days=1))
print(f"{plan.to_ask} tasks to ask for, {plan.to_copy} artifacts to copy")


# %% The run. "Interrupt" (Ctrl-C) stops it in seconds; running the cell again goes on from there
def show(progress: Progress) -> None:
    """Called every five seconds, and at the end."""
    print(progress)


report = run_partition(settings, day, day + timedelta(days=1), on_progress=show)
print(report.generations.states, report.videos.statuses)

# %% The rows
generations = pd.read_parquet(f"{settings.data_url}/luma_generations/date={day:%Y-%m-%d}")
videos = pd.read_parquet(f"{settings.data_url}/luma_videos/date={day:%Y-%m-%d}")
print(generations[["task_id", "state"]].merge(videos[["task_id", "status", "key"]], how="left").to_string())
