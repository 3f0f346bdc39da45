"""The component: its settings, turned into Dagster's definitions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import dagster as dg
from dagster._check import CheckError
from dagster.components.resolved.errors import ResolutionException
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import Field, PrivateAttr

from luma_pipeline.component.environment import ENVIRONMENT, read_environment, tell_missing, tell_misspelt
from luma_pipeline.component.faults import (
    EnvironmentOrigin,
    Fault,
    Origin,
    Path,
    PythonOrigin,
    SettingsError,
    raise_for,
    words_of,
)
from luma_pipeline.component.scaffolder import LumaPipelineScaffolder
from luma_pipeline.component.settings import TopSettings
from luma_pipeline.component.side_by_side import Claim, folder_claim, known, other_components, overlaps, prefix_claim
from luma_pipeline.engine.settings import Policies
from luma_pipeline.engine.videos import artifacts_from
from luma_pipeline.gallery import GallerySettings
from luma_pipeline.luma import SPECS
from luma_pipeline.luma.config import AUTO
from luma_pipeline.media import LinkSource
from luma_pipeline.orchestration.assets import Event, LumaRun, PipelineSettings, build_pipeline
from luma_pipeline.orchestration.audit import AuditPlan, build_audit_job, build_audit_schedule
from luma_pipeline.orchestration.automation import RevisitPolicy, build_job, build_schedule, build_sensor
from luma_pipeline.orchestration.checks import build_checks
from luma_pipeline.orchestration.evaluations import Thresholds
from luma_pipeline.orchestration.forget import build_forget_job
from luma_pipeline.orchestration.freshness import freshness_policy
from luma_pipeline.orchestration.gallery import GALLERY, build_gallery
from luma_pipeline.orchestration.instance import Instance
from luma_pipeline.orchestration.io_manager import LumaParquetIOManager
from luma_pipeline.orchestration.locations import Locations, source_spec
from luma_pipeline.orchestration.partitions import Frequency, partitions_definition
from luma_pipeline.orchestration.resources.bucket import VideoBucket
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from luma_pipeline.orchestration.resources.provider import LumaProvider
from luma_pipeline.orchestration.resources.source import LumaSource
from luma_pipeline.orchestration.shared_limit import INSTANCE
from luma_pipeline.orchestration.specs import asset_specs
from luma_pipeline.s3.uploads import LARGEST_PART_COUNT

__all__ = ["LumaPipelineComponent"]


@dg.scaffold_with(LumaPipelineScaffolder)
class LumaPipelineComponent(dg.Component, TopSettings):
    """Task IDs from a table, answers from the provider, videos to S3: three partitioned assets and what they need.

    A subclass may override `get_asset_spec` and `execute`, and add fields of its own.
    """

    translation: (
        Annotated[
            TranslationFn[str],
            TranslationFnResolver[str](template_vars_for_translation_fn=lambda asset: {"asset": asset, "data": asset}),
        ]
        | None
    ) = Field(
        default=None,
        description="What Dagster is told of each asset instead: `key`, `group_name`, `description`, `tags`, "
        "`metadata` and so on. Templates have `asset`, its plain name such as luma_videos, and `spec`.",
    )
    _origin: Origin = PrivateAttr(default_factory=PythonOrigin)

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What `dg list components` and the UI say of the component."""
        return dg.ComponentTypeSpec(tags=["luma", "video", "s3", "parquet"])

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

    @property
    def origin(self) -> Origin:
        """Where the settings stand."""
        return self._origin

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """What Dagster is told of an asset; to be overridden by a subclass.

        `spec` is that of luma_tasks, luma_generations, luma_videos or luma_gallery, as the last part of its key says.
        Its partitions cannot be changed.

        >>> class Mine(LumaPipelineComponent):
        ...     def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        ...         return super().get_asset_spec(spec).merge_attributes(tags={"team": "video"})
        """
        return spec if self.translation is None else self.translation(spec, spec.key.path[-1])

    def execute(self, context: dg.AssetExecutionContext, run: LumaRun) -> Iterable[Event]:  # noqa: ARG002 - for subclasses
        """Do a run of the assets; to be overridden by a subclass that does something before, after or with its events.

        The partitions' materializations are logged as soon as each is done, and are not among the events.

        Raises:
            dg.Failure: The run, or some of its partitions, failed.
        """
        yield from run.execute()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions, as a component of a Dagster project.

        Raises:
            SettingsError: As `definitions`, and for another component of the project that has the same names or places.
        """
        others = []
        for where, other in other_components(context, LumaPipelineComponent):
            if isinstance(other, LumaPipelineComponent):
                other.stands_in(where)
                others.append(other)
        tell_missing(self, os.environ)
        definitions = self.definitions()
        raise_for(overlaps(self, others), self.origin)
        return definitions

    def stands_in(self, where: str) -> None:
        """Take in the file in which Python makes the component: its settings have no place of their own."""
        if isinstance(self._origin, PythonOrigin):
            self._origin = PythonOrigin(where)

    def definitions(self) -> dg.Definitions:
        """The definitions: assets, jobs and resources.

        Raises:
            SettingsError: A setting has a value that cannot be, or not beside another.
        """
        raise_for(self._faults_together(), self.origin)
        partitions = self._partitions()
        specs = self._specs()
        instance = self._instance().with_keys({**specs, **self._gallery_spec()})
        raise_for(self._source_among(specs), self.origin)
        policies = self._policies()
        settings = PipelineSettings(
            policies,
            Thresholds(self.checks.max_failed_share, self.checks.max_not_found_share, self.checks.max_error_share),
            partitions_per_run=self.partitions.per_run,
            retry_delay_seconds=self.partitions.retry_delay_seconds,
        )
        job = build_job(instance, gallery=self.gallery.enabled)
        running = self.schedule.enabled
        revisits = RevisitPolicy(give_up_after=policies.give_up_after_seconds)
        per_run = self.partitions.per_run
        with self._naming("schedule.cron"):
            schedule = build_schedule(
                job,
                partitions,
                self.schedule.cron,
                revisits,
                partitions_per_run=per_run,
                running=running,
                instance=instance,
            )
        sensor = build_sensor(job, partitions, revisits, partitions_per_run=per_run, running=running, instance=instance)
        audit = build_audit_job(self._audit_plan(policies), partitions, instance)
        with self._naming("audit.cron"):
            audits = build_audit_schedule(
                audit,
                self.audit.cron,
                partitions.timezone,
                running=self.audit.enabled,
                repair=self.audit.repair,
                instance=instance,
            )
        with self._naming("pool"):
            pipeline = build_pipeline(specs, partitions, settings, instance, self.execute)
        checks = build_checks(
            partitions,
            settings.thresholds,
            objects=policies.objects_checked,
            spec=SPECS[self.provider.dialect],
            instance=instance,
        )
        return dg.Definitions(
            assets=[*self._source_spec().values(), pipeline, *self._gallery(instance, partitions)],
            asset_checks=[checks],
            jobs=[job, audit, self._forget_job(instance, partitions)],
            schedules=[schedule, audits],
            sensors=[sensor],
            resources=self._resources(instance, datetime.fromtimestamp(partitions.start_timestamp, UTC)),
        )

    def claims(self) -> Iterator[Claim]:
        """What the component has to itself beside others."""
        yield Claim(("name",), "name", repr(self.name), (self.name,))
        paths: dict[str, Path] = dict.fromkeys((*self._specs(), *self._gallery_spec()), ("key_prefix",))
        for name, spec in {**self._source_spec(), **self._specs(), **self._gallery_spec()}.items():
            path = paths.get(name, ("source", "asset"))
            if name in paths and self.translation is not None and spec.key != self._instance().asset_key(name):
                path = ("translation",)
            yield Claim(path, "asset key", spec.key.to_user_string(), tuple(spec.key.path))
        yield folder_claim(("data_url",), "data root", self.data_url)
        yield prefix_claim(("videos", "prefix"), "place of the videos", self.videos.bucket, self.videos.prefix)

    def _instance(self) -> Instance:
        prefix = self.key_prefix
        if prefix is None:
            parts = [self.name] if self.name else []
        else:
            parts = prefix.split("/") if isinstance(prefix, str) else prefix
        names = Instance(self.name, tuple(part for part in parts if part))
        return replace(names, pool=self.pool if "pool" in self.model_fields_set else names.named("luma_api"))

    def _partitions(self) -> dg.TimeWindowPartitionsDefinition:
        settings = self.partitions
        return partitions_definition(Frequency(settings.frequency), settings.start, settings.timezone)

    def _specs(self) -> dict[str, dg.AssetSpec]:
        with self._naming("schedule.freshness_hours"):
            freshness = freshness_policy(
                self.schedule.cron,
                self.partitions.timezone,
                running=self.schedule.enabled,
                hours=self.schedule.freshness_hours,
            )
        with self._naming("translation"):
            return asset_specs(
                self.group,
                self.owners,
                self._partitions(),
                freshness=freshness,
                provider=SPECS[self.provider.dialect],
                instance=self._instance(),
                locations=self._locations(),
                translate=lambda _, spec: self.get_asset_spec(spec),
            )

    def _source_spec(self) -> dict[str, dg.AssetSpec]:
        """The source table, unless an asset of the user's own is."""
        spec = source_spec(self._instance(), self._locations(), group=self.group)
        return {} if spec is None else {"source": spec}

    def _source_among(self, specs: Mapping[str, dg.AssetSpec]) -> Iterator[Fault]:
        """The component's own asset in the place of its source."""
        asset = self._locations().source_asset
        if asset is not None and asset in {spec.key for spec in (*specs.values(), *self._gallery_spec().values())}:
            yield Fault(
                ("source", "asset"),
                f"must be an asset that makes the source table, not {asset.to_user_string()} of this component",
            )

    def _gallery_spec(self) -> dict[str, dg.AssetSpec]:
        """What decides the key of the gallery, where there is one."""
        if not self.gallery.enabled:
            return {}
        with self._naming("translation"):
            return {GALLERY: self.get_asset_spec(dg.AssetSpec(self._instance().asset_key(GALLERY)))}

    def _gallery(self, instance: Instance, partitions: dg.TimeWindowPartitionsDefinition) -> list[dg.AssetsDefinition]:
        if not self.gallery.enabled:
            return []
        assets = build_gallery(
            instance,
            partitions,
            GallerySettings(**self.gallery.model_dump()),
            group=self.group,
            owners=self.owners,
            partitions_per_run=self.partitions.per_run,
        )
        plain = self._instance().asset_key(GALLERY)
        with self._naming("translation"):
            return [assets.map_asset_specs(lambda spec: self.get_asset_spec(spec.replace_attributes(key=plain)))]

    def _forget_job(self, instance: Instance, partitions: dg.TimeWindowPartitionsDefinition) -> dg.JobDefinition:
        gallery = GallerySettings(**self.gallery.model_dump())
        return build_forget_job(partitions, gallery=gallery, spec=SPECS[self.provider.dialect], instance=instance)

    def _locations(self) -> Locations:
        """What is known of the places before a run starts."""
        source = self.source
        columns = {"task_id": [source.id_column], "submitted_at": [source.time_column]}
        return Locations(
            source_url=known(source.url),
            source_table=known(source.table),
            source_columns=columns | {name: [name] for name in source.columns},
            source_asset=dg.AssetKey.from_user_string(source.asset) if source.asset else None,
            data_url=known(self.data_url),
            bucket=known(self.videos.bucket),
            prefix=known(self.videos.prefix),
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
            verify_after_seconds=self.checks.verify_hours * 3600,
        )

    def _audit_plan(self, policies: Policies) -> AuditPlan:
        return AuditPlan(self.audit.read_within_days, policies.orphans_older_than_seconds, policies.link_preference)

    def _faults_together(self) -> Iterator[Fault]:
        """Settings that cannot stand beside each other."""
        name = self.origin.name
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
        if self.provider.batch_size not in (None, AUTO) and SPECS[dialect].batch is None:
            yield Fault(
                ("provider", "batch_size"),
                f"must not be set with the {name(('provider', 'dialect'))} {dialect}: it has no request for many tasks",
            )
        if self.provider.shared_limit is not None and self.provider.requests_per_second is None:
            yield Fault(
                ("provider", "shared_limit"),
                f"must be set only beside {name(('provider', 'requests_per_second'))}, which it shares among the runs",
            )
        if videos.sse_kms_key_id is not None and not (videos.server_side_encryption or "").startswith("aws:kms"):
            yield Fault(
                ("videos", "sse_kms_key_id"),
                f"must be set only where {name(('videos', 'server_side_encryption'))} is aws:kms",
            )
        if LinkSource.UNWATERMARKED.value in videos.link_preference and SPECS[dialect].unwatermarked is None:
            yield Fault(
                ("videos", "link_preference"), f"the dialect {dialect} has no request for an unwatermarked link"
            )

    @contextmanager
    def _naming(self, path: str) -> Iterator[None]:
        """Name the setting that Dagster or a builder refuses."""
        try:
            yield
        except SettingsError:
            raise
        except (dg.DagsterError, CheckError, ResolutionException, ValueError) as error:
            raise_for([Fault(tuple(path.split(".")), words_of(error))], self.origin)

    def _resources(self, instance: Instance, since: datetime) -> dict[str, Any]:
        source, provider, videos = self.source, self.provider, self.videos
        dataset = LumaDataset(url=self.data_url)
        return {
            instance.source_key: _resource(
                LumaSource,
                ("url",),
                url=source.url,
                table=source.table,
                id_column=source.id_column,
                time_column=source.time_column,
                columns=source.columns,
                where=source.where,
                timezone=source.timezone,
                since=since.isoformat(),
            ),
            instance.provider_key: _resource(
                LumaProvider,
                ("token", "shared_limit"),
                token=provider.token,
                base_url=provider.base_url,
                dialect=provider.dialect,
                max_concurrency=provider.max_concurrency,
                requests_per_second=provider.requests_per_second,
                burst=provider.burst,
                shared_limit=provider.shared_limit,
                batch_size=0 if provider.batch_size == AUTO else provider.batch_size,
                verify_task_id=provider.verify_task_id,
            ),
            instance.bucket_key: VideoBucket(
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
            instance.dataset_key: dataset,
            instance.io_manager_key: LumaParquetIOManager.of(instance, dataset),
        }


def _resource(
    kind: type[dg.ConfigurableResource[Any]], secrets: tuple[str, ...], **settings: Any
) -> dg.ConfigurableResource[Any] | dg.ResourceDefinition:
    """The resource with these settings. Where a secret is plain text it is no part of the resource's config.

    Dagster shows the values of a resource's fields and keeps them in the snapshot of every run, secrets like others.
    Environment variables are kept by name, and stay config so that Dagster says which of them is missing.
    """
    if all(settings[secret] in (None, INSTANCE) or isinstance(settings[secret], dg.EnvVar) for secret in secrets):
        return kind(**settings)

    def ready(context: dg.InitResourceContext) -> Iterator[Any]:
        with kind(**{**settings, **context.resource_config}).yield_for_execution(context) as resource:
            yield resource

    variables = {name: value.env_var_name for name, value in settings.items() if isinstance(value, dg.EnvVar)}
    schema = {name: dg.Field(dg.StringSource, default_value={"env": variable}) for name, variable in variables.items()}
    return dg.ResourceDefinition(ready, config_schema=schema, description=kind.__doc__)
