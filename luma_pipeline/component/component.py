"""The component: its settings, turned into Dagster's definitions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from luma_pipeline.component.environment import ENVIRONMENT, read_environment, tell_missing, tell_misspelt
from luma_pipeline.component.faults import (
    EnvironmentOrigin,
    Fault,
    Origin,
    PythonOrigin,
    SettingsError,
    raise_for,
)
from luma_pipeline.component.settings import TopSettings
from luma_pipeline.engine.settings import Policies
from luma_pipeline.engine.videos import artifacts_from
from luma_pipeline.luma import SPECS
from luma_pipeline.media import LinkSource
from luma_pipeline.orchestration.assets import PipelineSettings, build_pipeline
from luma_pipeline.orchestration.automation import RevisitPolicy, build_job, build_schedule, build_sensor
from luma_pipeline.orchestration.checks import Thresholds
from luma_pipeline.orchestration.io_manager import LumaParquetIOManager
from luma_pipeline.orchestration.partitions import Frequency, partitions_definition
from luma_pipeline.orchestration.resources.bucket import VideoBucket
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from luma_pipeline.orchestration.resources.provider import LumaProvider
from luma_pipeline.orchestration.resources.source import LumaSource
from luma_pipeline.orchestration.specs import IO_MANAGER_KEY, asset_specs
from luma_pipeline.s3.uploads import LARGEST_PART_COUNT

__all__ = ["LumaPipelineComponent"]


class LumaPipelineComponent(dg.Component, TopSettings):
    """Task IDs from a table, answers from the provider, videos to S3: three partitioned assets and what they need."""

    _origin: Origin = PrivateAttr(default_factory=PythonOrigin)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> LumaPipelineComponent:
        """The component with every setting that its environment variable gives. Its schedule and sensor run.

        The variables that have no default are read when a run starts, not here, so that definitions load without them
        and a run names what it misses. Until then the log says what they are for. It also names a variable that looks
        like a misspelt setting.

        Raises:
            SettingsError: A variable's text is no value of its setting, or out of its bounds; the message names it.
        """
        tell_misspelt(environment)
        faults: list[Fault] = []
        component = cls.validated(read_environment(environment, faults), faults)
        origin = EnvironmentOrigin(ENVIRONMENT)
        raise_for(faults, origin)
        assert component is not None  # noqa: S101 - there is one where there are no faults
        component.came_from(origin)
        tell_missing(component, environment)
        return component

    def came_from(self, origin: Origin) -> None:
        """Take in where the settings stand, to name the place of one that cannot be."""
        self._origin = origin

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster's signature
        """The definitions, as a component of a Dagster project.

        Raises:
            SettingsError: As `definitions`, and for another component of the project that has the same names or places.
        """
        tell_missing(self, os.environ)
        return self.definitions()

    def definitions(self) -> dg.Definitions:
        """The definitions: assets, jobs and resources.

        Raises:
            SettingsError: A setting has a value that cannot be, or not beside another.
        """
        raise_for(self._faults_together(), self._origin)
        partitions = partitions_definition(
            Frequency(self.partitions.frequency), self.partitions.start, self.partitions.timezone
        )
        freshness = timedelta(hours=self.schedule.freshness_hours) if self.schedule.freshness_hours else None
        provider = SPECS[self.provider.dialect]
        with self._naming("group", "owners"):
            specs = asset_specs(self.group, self.owners, partitions, freshness=freshness, provider=provider)
        policies = self._policies()
        settings = PipelineSettings(
            policies,
            Thresholds(self.checks.max_failed_share, self.checks.max_not_found_share, self.checks.max_error_share),
            partitions_per_run=self.partitions.per_run,
            retry_delay_seconds=self.partitions.retry_delay_seconds,
        )
        job = build_job()
        running = self.schedule.enabled
        revisits = RevisitPolicy(give_up_after=policies.give_up_after_seconds)
        per_run = self.partitions.per_run
        with self._naming("schedule.cron"):
            schedule = build_schedule(
                job, partitions, self.schedule.cron, revisits, partitions_per_run=per_run, running=running
            )
        sensor = build_sensor(job, partitions, revisits, partitions_per_run=per_run, running=running)
        return dg.Definitions(
            assets=[build_pipeline(specs, partitions, settings)],
            jobs=[job],
            schedules=[schedule],
            sensors=[sensor],
            resources=self._resources(datetime.fromtimestamp(partitions.start_timestamp, UTC)),
        )

    def _policies(self) -> Policies:
        return Policies(
            artifacts=artifacts_from(self.videos.artifacts),
            link_preference=tuple(LinkSource(name) for name in self.videos.link_preference),
            give_up_after_seconds=self.provider.give_up_after_hours * 3600,
            checkpoint_seconds=self.provider.checkpoint_hours * 3600,
            late_rows_seconds=self.partitions.late_rows_minutes * 60,
            orphans_older_than_seconds=self.videos.orphans_older_than_hours * 3600,
            objects_checked=None if self.checks.objects_checked == -1 else self.checks.objects_checked,
        )

    def _faults_together(self) -> Iterator[Fault]:
        """Settings that cannot stand beside each other."""
        name = self._origin.name
        videos, dialect = self.videos, self.provider.dialect
        smallest = -(-videos.max_video_bytes // LARGEST_PART_COUNT)
        if videos.part_size_bytes < smallest:
            yield Fault(
                ("videos", "part_size_bytes"),
                f"must be at least {smallest} for videos of {name(('videos', 'max_video_bytes'))}: S3 takes "
                f"{LARGEST_PART_COUNT} parts at most",
            )
        if videos.orphans_older_than_hours * 3600 < videos.copy_max_seconds:
            yield Fault(
                ("videos", "orphans_older_than_hours"),
                f"must not be shorter than {name(('videos', 'copy_max_seconds'))}: uploads that another run has under "
                "way would be aborted",
            )
        if LinkSource.UNWATERMARKED.value in videos.link_preference and SPECS[dialect].unwatermarked is None:
            yield Fault(
                ("videos", "link_preference"), f"the dialect {dialect} has no request for an unwatermarked link"
            )

    @contextmanager
    def _naming(self, *paths: str) -> Iterator[None]:
        """Name the settings that Dagster refuses."""
        try:
            yield
        except dg.DagsterError as error:
            places = ", ".join(self._origin.place(tuple(path.split("."))) for path in paths)
            raise SettingsError(f"{places}: {error}") from None

    def _resources(self, since: datetime) -> dict[str, Any]:
        source, provider, videos = self.source, self.provider, self.videos
        dataset = LumaDataset(url=self.data_url)
        return {
            "luma_source": _resource(
                LumaSource,
                "url",
                url=source.url,
                table=source.table,
                id_column=source.id_column,
                time_column=source.time_column,
                columns=source.columns,
                where=source.where,
                timezone=source.timezone,
                since=since.isoformat(),
            ),
            "luma_provider": _resource(
                LumaProvider,
                "token",
                token=provider.token,
                base_url=provider.base_url,
                dialect=provider.dialect,
                max_concurrency=provider.max_concurrency,
                requests_per_second=provider.requests_per_second,
                burst=provider.burst,
                batch_size=provider.batch_size,
                verify_task_id=provider.verify_task_id,
            ),
            "luma_bucket": VideoBucket(
                bucket=videos.bucket,
                prefix=videos.prefix,
                key_template=videos.key_template,
                max_workers=videos.copy_workers,
                allowed_media_hosts=videos.allowed_media_hosts,
                allow_private_media=videos.allow_private_media,
                max_video_bytes=videos.max_video_bytes,
                part_size_bytes=videos.part_size_bytes,
                max_seconds=videos.copy_max_seconds,
                overwrite=videos.overwrite,
                server_side_encryption=videos.server_side_encryption,
                sse_kms_key_id=videos.sse_kms_key_id,
                storage_class=videos.storage_class,
                acl=videos.object_acl,
                tags=videos.object_tags,
            ),
            "luma_dataset": dataset,
            IO_MANAGER_KEY: LumaParquetIOManager(dataset=dataset),
        }


def _resource(
    kind: type[dg.ConfigurableResource[Any]], secret: str, **settings: Any
) -> dg.ConfigurableResource[Any] | dg.ResourceDefinition:
    """The resource with these settings. Where the secret is plain text it is no part of the resource's config.

    Dagster shows the values of a resource's fields and keeps them in the snapshot of every run, secrets like others.
    Environment variables are kept by name, and stay config so that Dagster says which of them is missing.
    """
    if isinstance(settings[secret], dg.EnvVar):
        return kind(**settings)

    def ready(context: dg.InitResourceContext) -> Iterator[Any]:
        with kind(**{**settings, **context.resource_config}).yield_for_execution(context) as resource:
            yield resource

    variables = {name: value.env_var_name for name, value in settings.items() if isinstance(value, dg.EnvVar)}
    schema = {name: dg.Field(dg.StringSource, default_value={"env": variable}) for name, variable in variables.items()}
    return dg.ResourceDefinition(ready, config_schema=schema, description=kind.__doc__)
