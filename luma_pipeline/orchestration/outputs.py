"""The end of a step whose partitions' materializations have been logged as they came."""

from __future__ import annotations

import dagster as dg
from dagster._core.execution.plan.objects import TypeCheckData
from dagster._core.execution.plan.outputs import StepOutputData, StepOutputHandle

__all__ = ["already_logged"]


def already_logged(context: dg.AssetExecutionContext, asset: dg.AssetKey) -> dg.DagsterEvent:
    """The event that lets steps downstream begin, of an asset whose partitions' materializations have been logged.

    Dagster would make one more materialization of each partition out of a result or an output. This event is all that
    its steps wait for. Undocumented; tests/test_upstream_characterization.py tells when a release changes it.
    """
    step = context.get_step_execution_context()
    name = context.assets_def.get_output_name_for_asset_key(asset)
    passed = TypeCheckData(success=True, label=name)  # type: ignore[no-untyped-call]
    return dg.DagsterEvent.step_output_event(step, StepOutputData(StepOutputHandle(step.step.key, name), passed))
