"""The audit: a job that compares manifests and bucket, and its schedule.

It is a job of its own and no step of the assets' run, which copies: an audit reads, for hours if need be. Its result is
an evaluation of the check `bucket_matches_manifest`. Later runs of the checks repeat what the last audit found.
"""

# No postponed annotations in this module: Dagster reads those of the op's function as types.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import Field

from luma_pipeline.audit import AuditOptions, AuditSettings, audit_dataset
from luma_pipeline.dataset import AuditSummary
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.media import DEFAULT_LINK_PREFERENCE, LinkSource
from luma_pipeline.orchestration.endings import cancelled_when_interrupted
from luma_pipeline.orchestration.evaluations import audit_evaluation
from luma_pipeline.orchestration.instance import UNNAMED, Instance
from luma_pipeline.orchestration.partitions import marks_of_folders, partition_keys_of_folders

__all__ = ["AuditPlan", "LumaAuditConfig", "build_audit_job", "build_audit_schedule"]

_MOST_TOLD = 5


class LumaAuditConfig(dg.Config):
    """Options of one audit. The defaults look and change nothing but the report."""

    repair: bool = Field(
        default=False,
        description="Copy again what is missing or wrong, where the provider still has it, and put it into the "
        "manifest.",
    )
    delete_orphans: bool = Field(
        default=False,
        description="Delete objects of ours that no manifest has. Read first why this is off: docs, Audit.",
    )
    read_all: bool = Field(
        default=False, description="Read every object and compute its SHA-256 again, whenever its turn is."
    )
    first: str | None = Field(
        default=None,
        description="A date such as 2024-12-24: leave out earlier partitions, and do not look for orphans.",
    )
    last: str | None = Field(
        default=None, description="A date such as 2024-12-24: leave out later partitions, and do not look for orphans."
    )


@dataclass(frozen=True)
class AuditPlan:
    """What the audits of one instance are told. See `AuditSettings`."""

    read_within_days: float | None = AuditSettings.read_within_days
    young_seconds: float = AuditSettings.young_seconds
    link_preference: Sequence[LinkSource] = DEFAULT_LINK_PREFERENCE


def build_audit_job(
    plan: AuditPlan, partitions: dg.PartitionsDefinition[str], instance: Instance = UNNAMED
) -> dg.JobDefinition:
    """The job `luma_audit` of an instance. It needs the resources of the datasets, the bucket and the provider."""

    @dg.op(
        name=instance.audit_op_name,
        required_resource_keys={instance.dataset_key, instance.bucket_key, instance.provider_key},
        description="Compares the manifests with the bucket, both ways, and writes a report.",
    )
    def luma_audit_op(
        context: dg.OpExecutionContext, config: LumaAuditConfig
    ) -> Iterator[dg.AssetCheckEvaluation | dg.Output[None]]:
        try:
            with cancelled_when_interrupted(context):
                summary = _audit(context, plan, config, partitions, instance)
        except (LumaPipelineError, ValueError) as error:
            raise dg.Failure(f"the audit could not be made: {error}") from error
        yield audit_evaluation(instance, summary)
        yield dg.Output(None, metadata=audit_metadata(summary))
        tags = {f"audit_{name}": count for name, count in summary.counts.items()}
        counts = {"audited": summary.rows, "audit_errors": summary.errors, "audit_warnings": summary.warnings, **tags}
        context.instance.add_run_tags(
            context.run_id, {instance.tag(name): str(count) for name, count in counts.items()}
        )
        if summary.problems:
            raise _failure(summary)

    @dg.job(
        name=instance.audit_job_name,
        description="Is what is in the bucket still what the manifests say? Finds what is missing, changed, orphaned.",
    )
    def luma_audit() -> None:
        luma_audit_op()

    return luma_audit


def build_audit_schedule(
    job: dg.JobDefinition,
    cron: str,
    timezone: str,
    *,
    running: bool,
    repair: bool = False,
    instance: Instance = UNNAMED,
) -> dg.ScheduleDefinition:
    """The schedule of the audits. `repair` is what its runs are told."""
    return dg.ScheduleDefinition(
        name=instance.audit_schedule_name,
        job=job,
        cron_schedule=cron,
        execution_timezone=timezone,
        run_config={"ops": {instance.audit_op_name: {"config": {"repair": repair}}}},
        default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
        description="Compares the manifests with the bucket.",
    )


def audit_metadata(summary: AuditSummary) -> Mapping[str, Any]:
    """What an audit's run shows."""
    counts = {f"found_{name}": count for name, count in summary.counts.items()}
    repaired = {f"repaired_{name}": count for name, count in summary.repaired.items()}
    return {
        "rows": summary.rows,
        "partitions": summary.partitions,
        "objects_listed": summary.listed,
        "objects_read": summary.read,
        "bytes_read": summary.bytes_read,
        "errors": summary.errors,
        "warnings": summary.warnings,
        **counts,
        **repaired,
        **summary.others,
        "report": dg.MetadataValue.path(summary.path),
        **({"not_looked_at": list(summary.problems)} if summary.problems else {}),
    }


def _audit(
    context: dg.OpExecutionContext,
    plan: AuditPlan,
    config: LumaAuditConfig,
    partitions: dg.PartitionsDefinition[str],
    instance: Instance,
) -> AuditSummary:
    dataset, bucket, provider = (
        getattr(context.resources, key) for key in (instance.dataset_key, instance.bucket_key, instance.provider_key)
    )
    settings = AuditSettings(
        dataset.url,
        bucket.config(),
        plan.read_within_days,
        plan.young_seconds,
        provider.config() if config.repair else None,
        plan.link_preference,
        marks_of_folders(partition_keys_of_folders(partitions)),
    )
    options = AuditOptions(config.repair, config.delete_orphans, config.read_all, config.first, config.last)
    return audit_dataset(settings, options, tell=context.log.info)


def _failure(summary: AuditSummary) -> dg.Failure:
    told = "; ".join(summary.problems[:_MOST_TOLD])
    return dg.Failure(
        f"not everything was looked at, the rest of the audit is done. {told}",
        metadata={"report": dg.MetadataValue.path(summary.path), "not_looked_at": list(summary.problems)},
    )
