"""What earlier tries of a step have done, so that a second try does only the rest."""

from __future__ import annotations

import dagster as dg

__all__ = ["done_before"]


def done_before(
    context: dg.AssetExecutionContext, asset: dg.AssetKey
) -> tuple[set[str], dict[str, dg.AssetCheckEvaluation]]:
    """Partitions that earlier tries have reported, and what those evaluated last, by the check's name.

    Earlier tries are those of this step, and of the run that is re-executed from failure.
    """
    run: dg.DagsterRun | None = context.run if context.retry_number else _resumed(context, context.run)
    done: set[str] = set()
    evaluated: dict[str, dg.AssetCheckEvaluation] = {}
    while run is not None:
        evaluations = _evaluations(context, run)
        # What a blocking check has stopped is done again, or a second try would pass it by looking at nothing.
        if any(_has_blocked(evaluation) for evaluation in evaluations.values()):
            break
        # An evaluation holds those of the tries before its own.
        evaluated = evaluated or evaluations
        done |= _reported(context.instance, run, asset)
        run = _resumed(context, run)
    if done:
        context.log.info(f"{len(done)} partitions were done by an earlier try and are left as they are")
    return done, evaluated


def _reported(instance: dg.DagsterInstance, run: dg.DagsterRun, asset: dg.AssetKey) -> set[str]:
    records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    return {event.partition for event in events if event.asset_key == asset and event.partition}


def _evaluations(context: dg.AssetExecutionContext, run: dg.DagsterRun) -> dict[str, dg.AssetCheckEvaluation]:
    """The latest evaluation of each of the op's checks in a run, which may be of other assets too."""
    ours = {spec.key for spec in context.assets_def.check_specs}
    records = context.instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    found = [event.asset_check_evaluation_data for event in events]
    return {evaluation.check_name: evaluation for evaluation in found if evaluation.asset_check_key in ours}


def _has_blocked(evaluation: dg.AssetCheckEvaluation) -> bool:
    is_error = evaluation.severity is dg.AssetCheckSeverity.ERROR
    return bool(evaluation.blocking) and not evaluation.passed and is_error


def _resumed(context: dg.AssetExecutionContext, run: dg.DagsterRun) -> dg.DagsterRun | None:
    if run.parent_run_id is None or run.tags.get("dagster/is_resume_retry") != "true":
        return None
    parent: dg.DagsterRun | None = context.instance.get_run_by_id(run.parent_run_id)
    return parent
