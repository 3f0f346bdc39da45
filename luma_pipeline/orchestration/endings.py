"""How the step of the assets ends: cancelled, failed for good, or tried once more.

The step has no retry policy. Dagster would apply the policy to Terminate, SIGTERM and SIGINT as well: it would wait, do
all the work again and end the run as a success. The step asks for its one retry itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

import dagster as dg

from luma_pipeline.dataset import DatasetError
from luma_pipeline.engine.run import STOPS_THE_RUN
from luma_pipeline.errors import ConfigurationError, LumaPipelineError, PassingError

__all__ = ["PartitionsFailedError", "cancelled_when_interrupted", "checked_when_failed", "retried_once"]

_MOST_SHOWN = 3


class PartitionsFailedError(LumaPipelineError):
    """Some partitions of a run have failed; the others are done."""

    def __init__(self, failures: Mapping[str, Exception], partitions: int) -> None:
        self._reasons = {key: f"{type(error).__name__}: {error}" for key, error in failures.items()}
        self.is_permanent = all(_is_permanent(error) for error in failures.values())
        when = " when that is mended" if self.is_permanent else ""
        shown = "; ".join(f"{key}: {reason}" for key, reason in list(self._reasons.items())[:_MOST_SHOWN])
        super().__init__(
            f"{len(failures)} of {partitions} partitions failed, the others are done. {shown}. Run the failed "
            f"partitions again{when}: what was answered and copied is not asked for or copied again."
        )

    def table(self) -> dg.TableMetadataValue:
        """Every failed partition with its reason."""
        return dg.TableMetadataValue(
            [dg.TableRecord({"partition": key, "reason": reason}) for key, reason in self._reasons.items()],
            dg.TableSchema([dg.TableColumn("partition"), dg.TableColumn("reason")]),
        )


@contextmanager
def cancelled_when_interrupted(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext,
) -> Iterator[None]:
    """End the run as CANCELED when SIGTERM or SIGINT comes to its process, as it ends on Terminate.

    Dagster ends such a run as failed where nobody has pressed Terminate. A run that Dagster will resume elsewhere is
    left to it.
    """
    instance = context.instance
    try:
        _raise_if_told_before(instance, context.run.run_id)
        yield
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
        run = instance.get_run_by_id(context.run.run_id)
        is_started = run is not None and run.status is dg.DagsterRunStatus.STARTED
        if run is not None and is_started and not instance.run_will_resume(context.run.run_id):
            instance.report_run_canceling(run, "The run's process was told to stop.")
        raise


def _raise_if_told_before(instance: dg.DagsterInstance, run_id: str) -> None:
    """Stop where the signal of Terminate came while the run's process began: Dagster can miss it then."""
    told = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_CANCELING, limit=1).records
    if told:
        raise dg.DagsterExecutionInterruptedError("the run was told to stop before the step began")


@contextmanager
def checked_when_failed(
    context: dg.AssetExecutionContext, evaluate: Callable[[], Iterable[dg.AssetCheckEvaluation]]
) -> Iterator[None]:
    """Log the checks of a run whose step fails: Dagster skips their step, and would show no result in their place.

    A logged evaluation blocks nothing; the failed step does.
    """
    try:
        yield
    except dg.Failure as failure:
        if not isinstance(failure.__cause__, DatasetError):
            planned = _planned_checks(context)
            with suppress(LumaPipelineError, ValueError):  # what the step failed for is told
                for evaluation in evaluate():
                    if evaluation.asset_check_key in planned:
                        context.log_event(evaluation)
        raise


def _planned_checks(context: dg.AssetExecutionContext) -> set[dg.AssetCheckKey]:
    of_type = dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
    records = context.instance.get_records_for_run(context.run_id, of_type=of_type).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    return {event.asset_check_planned_data.asset_check_key for event in events}


@contextmanager
def retried_once(context: dg.AssetExecutionContext, delay_seconds: float) -> Iterator[None]:
    """Fail the step for what the block raises, or ask Dagster for one more try where that may help.

    The step itself waits before the second try: Dagster's in-process executor does not hear of Terminate while it
    waits for a retry.
    """
    try:
        yield
    except (dg.Failure, dg.DagsterError):
        raise
    except Exception as error:
        failure = _failure(error)
        if context.retry_number or not _is_worth_a_retry(error):
            raise failure from error
        context.log.warning(f"the step is tried once more in {delay_seconds:.0f} s: {error}")
        time.sleep(delay_seconds)
        failure.__cause__ = error
        raise dg.RetryRequested(max_retries=1) from failure


def _failure(error: Exception) -> dg.Failure:
    metadata = {"failed_partitions": error.table()} if isinstance(error, PartitionsFailedError) else None
    what = str(error) if isinstance(error, (LumaPipelineError, ValueError)) else f"{type(error).__name__}: {error}"
    return dg.Failure(description=what, metadata=metadata)


def _is_worth_a_retry(error: Exception) -> bool:
    """Whether a second try may end differently. A provider or a store that is down has been waited for already."""
    if isinstance(error, PartitionsFailedError):
        return not error.is_permanent
    if isinstance(error, (LumaPipelineError, ValueError)):
        return isinstance(error, PassingError) and not isinstance(error, STOPS_THE_RUN)
    return True


def _is_permanent(error: Exception) -> bool:
    return isinstance(error, ConfigurationError) and not isinstance(error, PassingError)
