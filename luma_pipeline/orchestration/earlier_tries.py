"""What earlier tries of a step have done, so that a second try does only the rest."""

from __future__ import annotations

import dagster as dg

__all__ = ["done_before"]


def done_before(context: dg.AssetExecutionContext, asset: dg.AssetKey) -> set[str]:
    """Partitions that earlier tries have reported: those of this step, and of the run re-executed from failure."""
    run: dg.DagsterRun | None = context.run if context.retry_number else _resumed(context, context.run)
    done: set[str] = set()
    while run is not None:
        done |= _reported(context.instance, run, asset)
        run = _resumed(context, run)
    if done:
        context.log.info(f"{len(done)} partitions were done by an earlier try and are left as they are")
    return done


def _reported(instance: dg.DagsterInstance, run: dg.DagsterRun, asset: dg.AssetKey) -> set[str]:
    records = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION).records
    events = [event for record in records if (event := record.event_log_entry.dagster_event) is not None]
    return {event.partition for event in events if event.asset_key == asset and event.partition}


def _resumed(context: dg.AssetExecutionContext, run: dg.DagsterRun) -> dg.DagsterRun | None:
    if run.parent_run_id is None or run.tags.get("dagster/is_resume_retry") != "true":
        return None
    parent: dg.DagsterRun | None = context.instance.get_run_by_id(run.parent_run_id)
    return parent
