"""The Celery app of the workers. A worker executes whole runs, which `CeleryRunLauncher` puts into the queue.

    celery --app luma_worker worker --queues dagster --concurrency 2

The settings are those of the launcher in `dagster.yaml`, so that both speak to the same Redis. When a worker starts,
it tells which runs were lost with another: Celery itself does not notice that a worker is gone.
"""

from __future__ import annotations

import logging
from typing import Any

import dagster as dg
from celery.signals import worker_ready
from celery.states import FAILURE, STARTED
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

_log = logging.getLogger(__name__)
_ANSWER_SECONDS = 5.0

with dg.DagsterInstance.get() as _instance:
    _launcher = _instance.run_launcher
if not isinstance(_launcher, CeleryRunLauncher):
    raise TypeError(f"run_launcher in dagster.yaml must be CeleryRunLauncher, not {type(_launcher).__name__}")

app = _launcher.celery
execute_job = create_execute_job_task(app)
resume_job = create_resume_job_task(app)


@worker_ready.connect
def tell_lost_runs(**_: Any) -> None:
    """Mark the tasks of runs under way that no worker has: run monitoring tells their runs as failed."""
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    tasks = {task_id for run in runs if (task_id := run.tags.get(DAGSTER_CELERY_TASK_ID_TAG))}
    begun = {task_id for task_id in tasks if app.AsyncResult(task_id).state == STARTED}
    if not begun:
        return
    answers = app.control.inspect(timeout=_ANSWER_SECONDS).active() or {}
    at_work = {task["id"] for answer in answers.values() for task in answer}
    for task_id in begun - at_work:
        if app.AsyncResult(task_id).state == STARTED:
            _log.warning("the worker of task %s is gone", task_id)
            app.backend.store_result(task_id, RuntimeError("the worker is gone"), FAILURE)
