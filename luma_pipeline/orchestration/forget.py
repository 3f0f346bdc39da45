"""The job luma_forget: tasks that must go, with their objects, their rows and their pages, and a tombstone for each."""

# No postponed annotations in this module: Dagster reads those of the op's function as types.

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg
from pydantic import Field

from luma_pipeline.engine.datasets import DATASETS
from luma_pipeline.errors import LumaPipelineError
from luma_pipeline.forget import (
    ForgetReport,
    ForgetRequest,
    ForgetSettings,
    forget_tasks,
    restore_tasks,
)
from luma_pipeline.gallery import GallerySettings
from luma_pipeline.luma import GATEWAY, ProviderSpec
from luma_pipeline.orchestration.automation import UNDER_WAY
from luma_pipeline.orchestration.endings import cancelled_when_interrupted
from luma_pipeline.orchestration.instance import UNNAMED, Instance
from luma_pipeline.orchestration.partitions import marks_of_folders, partition_keys_of_folders
from luma_pipeline.source.ids import IdTable, TableIds

__all__ = ["ForgetConfig", "build_forget_job"]

_MOST_SHOWN = 1000
_MOST_NAMED = 20


class ForgetConfig(dg.Config):
    """What luma_forget is told. Without any ID it looks again for what was forgotten before."""

    task_ids: list[str] = Field(
        default=[],
        description="IDs of the tasks to forget. Dagster keeps them with the run: a table keeps them out of its "
        "database.",
    )
    table: str | None = Field(
        default=None, description="A table or view of the source database with further IDs, such as gdpr_requests."
    )
    column: str = Field(default="task_id", description="The column of that table with the IDs.")
    where: str | None = Field(default=None, description="An SQL condition that rows of that table must meet.")
    reason: str = Field(default="", description="For the records: why, such as a ticket.")
    requested_by: str = Field(default="", description="For the records: on whose behalf.")
    dry_run: bool = Field(default=False, description="Say what would be removed, key by key, and touch nothing.")
    restore: bool = Field(
        default=False,
        description="Take the tombstones of these tasks away instead: the next run asks for them again.",
    )


def build_forget_job(
    partitions: dg.PartitionsDefinition[str],
    *,
    gallery: GallerySettings | None = None,
    spec: ProviderSpec = GATEWAY,
    instance: Instance = UNNAMED,
) -> dg.JobDefinition:
    """The job that forgets tasks. It needs the resources of the datasets, the bucket and the source.

    `gallery` is how pages look that are written again.
    """

    @dg.op(
        name=instance.forget_op_name,
        required_resource_keys={instance.dataset_key, instance.bucket_key, instance.source_key},
        description="Removes everything of some tasks, and keeps a tombstone for each.",
    )
    def luma_forget(context: dg.OpExecutionContext, config: ForgetConfig) -> None:
        with cancelled_when_interrupted(context):
            _ForgetRun(context, config, partitions, gallery or GallerySettings(), spec, instance).do()

    @dg.job(
        name=instance.forget_name,
        description="Forget tasks: a customer's request, a takedown. Everything that was made of them is removed, and "
        "no later run brings them back.",
    )
    def job() -> None:
        luma_forget()

    return job


class _ForgetRun:
    def __init__(
        self,
        context: dg.OpExecutionContext,
        config: ForgetConfig,
        partitions: dg.PartitionsDefinition[str],
        gallery: GallerySettings,
        spec: ProviderSpec,
        instance: Instance,
    ) -> None:
        self._context = context
        self._config = config
        self._gallery = gallery
        self._spec = spec
        self._instance = instance
        self._key_of = partition_keys_of_folders(partitions)
        self._faults: list[str] = []

    def do(self) -> None:
        """Forget, or restore. Raises dg.Failure if something is still there, or some IDs were none."""
        try:
            request = self._request()
            self._restore(request) if self._config.restore else self._forget(request)
        except LumaPipelineError as error:
            raise dg.Failure(f"{error} The tombstones that were set stay: run it again, and it goes on.") from error

    def _request(self) -> ForgetRequest:
        config = self._config
        table = self._table_ids()
        request = ForgetRequest.of(
            [*config.task_ids, *table.ids],
            unreadable=table.unreadable,
            reason=config.reason,
            requested_by=config.requested_by,
            dry_run=config.dry_run,
        )
        for count, what in ((request.blank, "blank IDs"), (request.unreadable, "values that are no task IDs")):
            if count:
                self._faults.append(f"{count} {what} were given, and left out")
        if request.repeated:
            self._context.log.info(f"{request.repeated} IDs were given more than once")
        if not request.tasks and not self._faults:
            self._context.log.info("no task ID was given: what was forgotten before is looked for again")
        return request

    def _table_ids(self) -> TableIds:
        config = self._config
        if config.table is None:
            return TableIds(())
        try:
            source = getattr(self._context.resources, self._instance.source_key)
            return IdTable(config.table, config.column, config.where).read(source.url)
        except LumaPipelineError as error:
            self._faults.append(f"no ID was read from the table: {error}")
            return TableIds(())

    def _restore(self, request: ForgetRequest) -> None:
        dataset = getattr(self._context.resources, self._instance.dataset_key)
        if self._config.dry_run:
            forgotten = dataset.open().tombstones().now()
            count = sum(forgotten.has(task_id) for task_id in request.tasks.values())
            self._context.log.info(f"dry run: {count} of {len(request.tasks)} tasks have a tombstone")
        else:
            count = restore_tasks(dataset.url, request)
            self._context.log.info(
                f"{count} tombstones were taken away: materialize the partitions of these tasks to have them again"
            )
        self._end({"tasks": len(request.tasks), "tombstones_removed": count})

    def _forget(self, request: ForgetRequest) -> None:
        context, resources = self._context, self._context.resources
        settings = ForgetSettings(
            getattr(resources, self._instance.dataset_key).url,
            getattr(resources, self._instance.bucket_key).config(),
            self._gallery,
            marks_of_folders(self._key_of),
            self._spec,
        )
        report = forget_tasks(settings, request, tell=context.log.info, run_id=context.run_id)
        self._log_materializations(report)
        self._tell(report, request)
        self._end(_metadata(report, is_dry_run=request.dry_run), report)

    def _log_materializations(self, report: ForgetReport) -> None:
        """Tell assets downstream that the files have other rows now. The newest preview has none of the tasks then."""
        for folder, written in sorted(report.written.items()):
            key = self._key_of(folder)
            for name in DATASETS:
                found = written.get(name)
                if key is not None and found is not None:
                    metadata: dict[str, Any] = {
                        "dagster/partition_row_count": found.rows,
                        "size_bytes": found.size_bytes,
                        "path": dg.MetadataValue.path(found.path),
                    }
                    self._context.log_event(
                        dg.AssetMaterialization(
                            self._instance.asset_key(name),
                            partition=key,
                            description="Rows of forgotten tasks were taken out.",
                            metadata=metadata,
                            tags={"dagster/data_version": found.digest},
                        )
                    )

    def _tell(self, report: ForgetReport, request: ForgetRequest) -> None:
        log = self._context.log
        if report.unknown:
            shown = ", ".join(digest.hex() for digest in report.unknown[:_MOST_NAMED])
            kept = "" if request.dry_run else " Their tombstones are kept all the same."
            log.warning(
                f"nothing was found of {len(report.unknown)} of {report.tasks} tasks. Check their IDs, whose SHA-256 "
                f"is {shown}.{kept}"
            )
        if report.also:
            log.warning(f"{report.also} tasks that were forgotten earlier had rows again, which are treated alike")
        runs = [] if request.dry_run else self._runs_at_work()
        if runs:
            log.warning(
                f"runs are at work: {', '.join(runs[:_MOST_NAMED])}. Each looks at the tombstones before it ends. If "
                "one does not end well, run luma_forget once more"
            )

    def _runs_at_work(self) -> list[str]:
        instance = self._instance
        ours = {instance.asset_key(name) for name in DATASETS}
        return [
            run.run_id
            for run in self._context.instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
            if run.run_id != self._context.run_id
            and (run.job_name == instance.job_name or not ours.isdisjoint(run.asset_selection or ()))
        ]

    def _end(self, metadata: Mapping[str, Any], report: ForgetReport | None = None) -> None:
        unreached = [] if report is None else report.unreached
        if not self._faults and not unreached:
            self._context.add_output_metadata(metadata)
            return
        texts = list(self._faults)
        if unreached:
            shown = "; ".join(f"{each.what}: {each.reason}" for each in unreached[:3])
            texts.append(
                f"{len(unreached)} places could not be reached, the rest is done. {shown}. Run luma_forget again for "
                "these tasks when that is mended"
            )
            metadata = {**metadata, "not_reached": _table(["what", "reason"], [[u.what, u.reason] for u in unreached])}
        raise dg.Failure(". ".join(texts), metadata=metadata)


def _metadata(report: ForgetReport, *, is_dry_run: bool) -> dict[str, Any]:
    counts = asdict(report.counts)
    prefix = "would_remove_" if is_dry_run else "removed_"
    return {
        "tasks": report.tasks,
        "unknown_tasks": len(report.unknown),
        "forgotten_earlier": report.also,
        "tombstones": report.tombstones,
        **{f"{prefix}{name}": count for name, count in counts.items()},
        "partitions_written": len(report.written),
        "gallery_partitions_written": report.pages,
        "records": report.records,
    }


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dg.TableMetadataValue:
    records = [dg.TableRecord(dict(zip(names, row, strict=True))) for row in rows[:_MOST_SHOWN]]
    return dg.TableMetadataValue(records, dg.TableSchema([dg.TableColumn(name) for name in names]))
