"""The asset checks: what is wrong in the whole dataset now, and what of it stops the assets downstream.

They are an op of their own, which needs the datasets and the bucket alone: "Execute" on a check asks nothing of the
provider and of the source table.
"""

# No postponed annotations in this module: Dagster reads those of the op's function as types.

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from luma_pipeline.engine.dataset_check import CheckPlan, DatasetState, check_dataset
from luma_pipeline.engine.partition import GENERATIONS, VIDEOS
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.luma import GATEWAY, ProviderSpec
from luma_pipeline.media import TransferConfig
from luma_pipeline.orchestration.endings import cancelled_when_interrupted
from luma_pipeline.orchestration.evaluations import (
    ANSWERS_MATCH_TASKS,
    BUCKET_MATCHES_MANIFEST,
    ERROR_SHARE,
    FAILED_SHARE,
    NOT_FOUND_SHARE,
    ONE_ROW_PER_TASK,
    SCHEMA_DRIFT,
    VIDEOS_IN_BUCKET,
    VIDEOS_MATCH_ANSWERS,
    Thresholds,
    evaluations,
)
from luma_pipeline.orchestration.instance import UNNAMED, Instance
from luma_pipeline.orchestration.partitions import folder_of

__all__ = ["DatasetChecks", "build_checks", "check_specs"]

_PARTITION = "dagster/partition"
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"


def check_specs(instance: Instance = UNNAMED) -> list[dg.AssetCheckSpec]:
    """Every check. They have no partitions: one evaluation tells of all."""
    generations = instance.asset_key(GENERATIONS)
    return [
        dg.AssetCheckSpec(
            ONE_ROW_PER_TASK,
            asset=generations,
            blocking=True,
            description="Every task of a partition has exactly one row, and no row is without its task.",
        ),
        dg.AssetCheckSpec(
            FAILED_SHARE, asset=generations, description="In no partition have too many generations failed."
        ),
        dg.AssetCheckSpec(
            NOT_FOUND_SHARE,
            asset=generations,
            description="In no partition are too many tasks unknown to the provider: a wrong base URL or account shows "
            "here.",
        ),
        dg.AssetCheckSpec(
            ERROR_SHARE, asset=generations, description="In no partition have too many tasks ended in an error."
        ),
        dg.AssetCheckSpec(
            SCHEMA_DRIFT, asset=generations, description="The provider's answers have the fields and types of its page."
        ),
        dg.AssetCheckSpec(
            ANSWERS_MATCH_TASKS,
            asset=generations,
            description="No answer is of another task than the one asked for. Such answers are not final, and nothing "
            "is copied for them. For gateways with IDs of their own set provider.verify_task_id (LUMA_VERIFY_TASK_ID) "
            "to false.",
        ),
        dg.AssetCheckSpec(
            VIDEOS_IN_BUCKET,
            asset=instance.asset_key(VIDEOS),
            blocking=True,
            description="Every completed task's artifacts are in the bucket. An object that the manifest has and the "
            "bucket has not stops the assets downstream of its partition; one that could not be copied is a warning. "
            "A partition stays wrong until it is run again.",
        ),
        dg.AssetCheckSpec(
            VIDEOS_MATCH_ANSWERS,
            asset=instance.asset_key(VIDEOS),
            description="The videos in the bucket are as large and as long as the provider's answers say: the same "
            "width and height, and within half a second or a twentieth of the duration.",
        ),
        dg.AssetCheckSpec(
            BUCKET_MATCHES_MANIFEST,
            asset=instance.asset_key(VIDEOS),
            description="The objects in the bucket are those of the manifests, as the last audit (the job luma_audit) "
            "found them. Bytes that are lost or are others are an error, all else is a warning.",
        ),
    ]


def build_checks(
    partitions: dg.PartitionsDefinition[str],
    thresholds: Thresholds,
    *,
    objects: int | None,
    spec: ProviderSpec = GATEWAY,
    instance: Instance = UNNAMED,
) -> dg.AssetChecksDefinition:
    """The op of the checks, any of which may be selected.

    After the assets it looks up objects of the run's partitions. By itself it looks up objects of all partitions, and
    judges those that have no verdict. `objects` is how many are looked up; None: all.
    """
    checks = DatasetChecks(partitions, thresholds, objects, spec, instance)

    @dg.multi_asset_check(
        name=instance.checks_op_name,
        specs=check_specs(instance),
        can_subset=True,
        required_resource_keys={instance.dataset_key, instance.bucket_key},
    )
    def luma_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.Output[None] | dg.AssetCheckEvaluation]:
        selected = context.selected_asset_check_keys
        try:
            with cancelled_when_interrupted(context):
                found = checks.evaluate(context, selected)
        except (LumaPipelineError, ValueError) as error:
            raise dg.Failure(f"the checks could not be evaluated. {error}") from error
        for evaluation in found:
            # An AssetCheckResult takes `blocking` from the spec, and every failure would stop what is downstream.
            yield dg.Output(None, output_name=_output_name(evaluation.asset_check_key))
            yield evaluation

    return luma_checks


def _output_name(key: dg.AssetCheckKey) -> str:
    return dg.AssetCheckSpec(key.name, asset=key.asset_key).get_python_identifier()


@dataclass(frozen=True)
class DatasetChecks:
    """The checks of one instance."""

    partitions: dg.PartitionsDefinition[str]
    thresholds: Thresholds
    objects: int | None
    spec: ProviderSpec = GATEWAY
    instance: Instance = UNNAMED

    def evaluate(
        self, context: dg.AssetCheckExecutionContext, selected: Collection[dg.AssetCheckKey]
    ) -> list[dg.AssetCheckEvaluation]:
        """Look at the dataset and the store as the run of `context` asks for it.

        Raises:
            DatasetError: The verdicts cannot be read or written.
        """
        keys = self.partitions.get_partition_keys()
        is_alone = self.instance.op_name not in {node.name for node in context.op_execution_context.job_def.nodes}
        this_run = [] if is_alone else _keys_of_run(context.run.tags, keys)
        is_looking = any(key.name == VIDEOS_IN_BUCKET for key in selected)
        is_dry_run = self._is_dry_run(context.run.run_config)
        plan = self._plan(
            keys,
            looked_at=keys if is_alone else this_run,
            objects=self.objects if is_looking and not is_dry_run else 0,
            judges_missing=is_alone,
            is_read_only=is_dry_run,
        )
        bucket = getattr(context.resources, self.instance.bucket_key).config()
        state = check_dataset(getattr(context.resources, self.instance.dataset_key).url, bucket, plan)
        return [each for each in self.evaluations(state, this_run) if each.asset_check_key in selected]

    def evaluations_of(self, url: str, bucket: TransferConfig) -> list[dg.AssetCheckEvaluation]:
        """What the verdicts under `url` say, for a run that has failed: nothing is looked up and nothing written."""
        plan = self._plan(self.partitions.get_partition_keys(), is_read_only=True)
        return list(self.evaluations(check_dataset(url, bucket, plan), ()))

    def evaluations(self, state: DatasetState, this_run: Collection[str]) -> Iterator[dg.AssetCheckEvaluation]:
        """The evaluation of every check. What is wrong in partitions of `this_run` stops the assets downstream."""
        return evaluations(state, this_run, self.thresholds, self.instance)

    def _plan(self, keys: Sequence[str], **settings: Any) -> CheckPlan:
        return CheckPlan(keys, lambda key: folder_of(self.partitions, key), spec=self.spec, **settings)

    def _is_dry_run(self, run_config: Mapping[str, Any]) -> bool:
        of_op = run_config.get("ops", {}).get(self.instance.op_name) or {}
        return bool((of_op.get("config") or {}).get("dry_run"))


def _keys_of_run(tags: Mapping[str, str], keys: Sequence[str]) -> Sequence[str]:
    """The partitions that a run is over, by its tags."""
    first, last = tags.get(_RANGE_START, tags.get(_PARTITION)), tags.get(_RANGE_END, tags.get(_PARTITION))
    if first not in keys or last not in keys:
        return []
    return keys[keys.index(first) : keys.index(last) + 1]
