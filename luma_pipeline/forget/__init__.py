"""The forget room: tasks that must go, with all that was made of them, and a tombstone for each.

`forget_tasks` is the way in. Nothing here imports Dagster.
"""

from luma_pipeline.forget.forget import ForgetReport, ForgetSettings, Unreached, forget_tasks, restore_tasks
from luma_pipeline.forget.records import RECORDS, RECORDS_SCHEMA, Counts
from luma_pipeline.forget.request import ForgetRequest, ForgetRequestError

__all__ = [
    "RECORDS",
    "RECORDS_SCHEMA",
    "Counts",
    "ForgetReport",
    "ForgetRequest",
    "ForgetRequestError",
    "ForgetSettings",
    "Unreached",
    "forget_tasks",
    "restore_tasks",
]
