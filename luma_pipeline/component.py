"""The component: every setting in one place, and the one function that turns them into Dagster definitions."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from difflib import SequenceMatcher
from typing import Annotated, Any

import dagster as dg
from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from luma_pipeline.engine.settings import Policies
from luma_pipeline.engine.videos import artifacts_from
from luma_pipeline.luma import SPECS, ProviderConfig
from luma_pipeline.media import LinkSource, TransferConfig
from luma_pipeline.orchestration.assets import PipelineSettings, build_pipeline
from luma_pipeline.orchestration.automation import RevisitPolicy, build_job, build_schedule, build_sensor
from luma_pipeline.orchestration.checks import Thresholds, build_checks
from luma_pipeline.orchestration.instance import UNNAMED
from luma_pipeline.orchestration.io_manager import LumaParquetIOManager
from luma_pipeline.orchestration.partitions import Frequency, partitions_definition
from luma_pipeline.orchestration.resources.bucket import VideoBucket
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from luma_pipeline.orchestration.resources.provider import LumaProvider
from luma_pipeline.orchestration.resources.source import LumaSource
from luma_pipeline.orchestration.specs import asset_specs
from luma_pipeline.s3.uploads import LARGEST_PART_COUNT, SMALLEST_PART_BYTES
from luma_pipeline.source.table import SourceTable

__all__ = ["ENVIRONMENT", "LumaPipelineComponent"]

_log = logging.getLogger(__name__)

# Only for its defaults.
_TRANSFER = TransferConfig(bucket="any-bucket")

_SECRET: dict[str, Any] = {"dagster__is_secret": True}


def _bound(lowest: float, *, excluded: bool = False) -> AfterValidator:
    """A lowest value. Text passes: of these fields Dagster makes a model for YAML, in which any may be a template."""

    def checked(value: Any) -> Any:
        is_number = isinstance(value, (int, float))
        if is_number and not (math.isfinite(value) and (value > lowest or (value == lowest and not excluded))):
            raise ValueError(f"must be {'above' if excluded else 'at least'} {lowest}")
        return value

    return AfterValidator(checked)


_Count = Annotated[int, _bound(1)]
_CountOrAll = Annotated[int, _bound(-1)]
_PartSize = Annotated[int, _bound(SMALLEST_PART_BYTES)]
_NotNegative = Annotated[float, _bound(0)]
_Positive = Annotated[float, _bound(0, excluded=True)]


class LumaPipelineComponent(dg.Component, dg.Resolvable, dg.Model):
    """Task IDs from a table, answers from the provider, videos to S3: three partitioned assets and what they need.

    Every field can be set from the environment variable that ENVIRONMENT names for it (`from_environment`).
    """

    # The five that have no default that could work.
    api_token: str = Field(
        default=dg.EnvVar("LUMA_API_TOKEN"),
        description="Bearer token of the provider.",
        repr=False,
        json_schema_extra=_SECRET,
    )
    source_url: str = Field(
        default=dg.EnvVar("LUMA_SOURCE_URL"),
        description="SQLAlchemy URL of the source database.",
        repr=False,
        json_schema_extra=_SECRET,
    )
    source_table: str = Field(
        default=dg.EnvVar("LUMA_SOURCE_TABLE"), description="Table with the task IDs, with its schema if it has one."
    )
    data_url: str = Field(
        default=dg.EnvVar("LUMA_DATA_URL"), description="Root of the Parquet datasets: a folder or s3://bucket/prefix."
    )
    s3_bucket: str = Field(default=dg.EnvVar("LUMA_S3_BUCKET"), description="Bucket for the videos; it must exist.")

    source_id_column: str = Field(default=SourceTable.id_column, description="Column with the task IDs.")
    source_time_column: str = Field(default=SourceTable.time_column, description="Column with the time of submission.")
    source_columns: list[str] = Field(default=[], description="Further columns to carry along.")
    source_where: str | None = Field(default=None, description="SQL condition that rows must meet.")
    source_timezone: str = Field(default=SourceTable.timezone, description="Zone of times stored without one.")

    base_url: str = Field(default=ProviderConfig.base_url, description="Scheme and host of the provider.")
    dialect: str = Field(default=ProviderConfig.spec.name, description="`gateway`, or `luma` for Luma's own API.")
    requests_per_second: _Positive | None = Field(
        default=ProviderConfig.requests_per_second, description="The provider's limit; found out if not set."
    )
    burst: _Count = Field(default=ProviderConfig.burst, description="Requests that may leave at once under that limit.")
    max_concurrency: _Count = Field(
        default=ProviderConfig.max_concurrency, description="Most requests under way at one moment."
    )
    batch_size: _Count | None = Field(
        default=ProviderConfig.batch_size, description="Ask for this many tasks in one request."
    )
    verify_task_id: bool = Field(
        default=ProviderConfig.verify_task_id,
        description="Take an answer only if it names the task that was asked for, or none; false for gateways whose "
        "answers have IDs of their own.",
    )

    s3_prefix: str = Field(default=_TRANSFER.prefix, description="Prefix of every key.")
    key_template: str = Field(
        default=_TRANSFER.key_template,
        description="Key below the prefix: each field once, `{extension}` last, and a slash between `{artifact}` and "
        "`{task_id}`.",
    )
    artifacts: list[str] = Field(
        default=[artifact.value for artifact in Policies.artifacts],
        description="video, video_raw, thumbnail, last_frame.",
    )
    link_preference: list[str] = Field(
        default=[source.value for source in Policies.link_preference],
        description="Which of a video's links is taken first: download_url, url, or unwatermarked, for which the "
        "gateway is asked by a request of its own.",
    )
    copy_workers: _Count = Field(default=_TRANSFER.max_workers, description="Artifacts fetched at the same time.")
    copy_max_seconds: _Positive = Field(
        default=_TRANSFER.limits.max_seconds, description="Seconds for one artifact as a whole."
    )
    allowed_media_hosts: list[str] = Field(default=[], description="Hosts to copy from; empty: any public host.")
    allow_private_media: bool = Field(default=False, description="Copy from private addresses too: for the sandbox.")
    max_video_bytes: _Count = Field(default=_TRANSFER.limits.max_bytes, description="Larger artifacts are refused.")
    part_size_bytes: _PartSize = Field(
        default=_TRANSFER.part_size_bytes,
        description="Bytes of a part of a multipart upload; at least 5 MiB, and max_video_bytes / 10,000.",
    )
    orphans_older_than_hours: _NotNegative = Field(
        default=Policies.orphans_older_than_seconds / 3600,
        description="Age at which uploads that killed runs left below the prefix are aborted.",
    )
    overwrite: bool = Field(default=_TRANSFER.overwrite, description="Copy again what is in the bucket already.")
    server_side_encryption: str | None = Field(default=None, description="AES256 or aws:kms.")
    sse_kms_key_id: str | None = Field(default=None, description="KMS key for aws:kms.")
    storage_class: str | None = Field(default=None, description="S3 storage class, such as STANDARD_IA.")
    object_acl: str | None = Field(default=None, description="Canned ACL of every object.")
    object_tags: dict[str, str] = Field(
        default={}, description="Tags of every object: name=value, separated by commas."
    )

    partitions: str = Field(default="daily", description="hourly, daily, weekly or monthly, on the submitted time.")
    partitions_start: str = Field(default="2024-01-01", description="Date in the first partition.")
    partitions_timezone: str = Field(default="UTC", description="Time zone of the partitions' bounds.")
    partitions_per_run: _Count = Field(
        default=PipelineSettings.partitions_per_run, description="Partitions that share a run in a backfill."
    )
    late_rows_minutes: _NotNegative = Field(
        default=Policies.late_rows_seconds / 60,
        description="Minutes after a period's end until which rows may still be committed; it is read again until "
        "then.",
    )

    schedule_cron: str = Field(default="*/10 * * * *", description="When the schedule of the open period runs.")
    schedule_enabled: bool = Field(default=True, description="Whether schedule and sensor run without being started.")
    freshness_hours: _NotNegative = Field(
        default=1.0,
        description="Hours without a materialization after which the assets count as stale; 0: never.",
    )
    max_failed_share: _NotNegative = Field(
        default=Thresholds.failed, description="Share of failed tasks at which the check fails."
    )
    max_not_found_share: _NotNegative = Field(
        default=Thresholds.not_found, description="Share of tasks not found at which the check fails."
    )
    max_error_share: _NotNegative = Field(
        default=Thresholds.error, description="Share of tasks in error at which the check fails."
    )
    objects_checked: _CountOrAll = Field(
        default=-1 if Policies.objects_checked is None else Policies.objects_checked,
        description="Objects of a run that the check videos_in_bucket looks up in the store; -1: all.",
    )

    retry_delay_seconds: _NotNegative = Field(
        default=PipelineSettings.retry_delay_seconds,
        description="Seconds until partitions that failed are tried once more in the same run.",
    )
    give_up_after_hours: _NotNegative = Field(
        default=Policies.give_up_after_seconds / 3600,
        description="Tasks older than this are no longer awaited when not found or not copied.",
    )
    checkpoint_hours: _NotNegative = Field(
        default=Policies.checkpoint_seconds / 3600,
        description="Age up to which answers of a broken run are taken up.",
    )
    group: str = Field(default="luma", description="Asset group.")
    owners: list[str] = Field(default=[], description="Owners: e-mail addresses or team:name.")

    @field_validator(
        "api_token",
        "source_url",
        "source_table",
        "source_id_column",
        "source_time_column",
        "source_where",
        "source_timezone",
        "data_url",
        "base_url",
        "s3_bucket",
        "s3_prefix",
        mode="wrap",
    )
    @classmethod
    def _kept_for_the_run(cls, value: Any, as_text: ValidatorFunctionWrapHandler) -> Any:
        """An EnvVar stays one, to be read when a run starts: it is a str, and pydantic would keep its name alone."""
        return value if isinstance(value, dg.EnvVar) else as_text(value)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> LumaPipelineComponent:
        """The component with every setting that its environment variable gives.

        The variables that have no default are read when a run starts, not here, so that definitions load without them
        and a run names what it misses. Until then the log says what they are for. It also names a variable that looks
        like a misspelt setting; others that begin with LUMA_ are left alone, as they may be another program's.

        Raises:
            ValueError: A variable's text is no value of its setting, or out of its bounds; the message names it.
        """
        values: dict[str, Any] = {}
        missing: list[str] = []
        _warn_of_misspelt(environment)
        for name, variable in ENVIRONMENT.items():
            text = environment.get(variable, "").strip()
            if isinstance(cls.model_fields[name].default, dg.EnvVar):
                if not text:
                    missing.append(f"{variable} ({(cls.model_fields[name].description or '').rstrip('.')})")
            elif text:
                values[name] = _parsed(cls.model_fields[name].annotation, text, variable)
        if missing:
            _log.warning("runs will fail until these variables are set: %s", "; ".join(missing))
        try:
            return cls(**values)
        except ValidationError as error:
            wrong = (
                f"{ENVIRONMENT[str(part['loc'][0])]} {part['msg'].removeprefix('Value error, ')}, not {part['input']}"
                for part in error.errors()
            )
            raise ValueError("; ".join(wrong)) from None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster's signature
        """The definitions, as a component of a Dagster project."""
        return self.definitions()

    def definitions(self) -> dg.Definitions:
        """The definitions: assets, jobs and resources.

        Raises:
            ValueError: A setting has a value that cannot be.
        """
        self._check_together()
        partitions = partitions_definition(_frequency(self.partitions), self.partitions_start, self.partitions_timezone)
        freshness = timedelta(hours=self.freshness_hours) if self.freshness_hours else None
        with _naming("LUMA_GROUP, LUMA_OWNERS"):
            specs = asset_specs(self.group, self.owners, partitions, freshness=freshness, provider=SPECS[self.dialect])
        policies = Policies(
            artifacts=artifacts_from(self.artifacts),
            link_preference=_link_preference(self.link_preference, self.dialect),
            give_up_after_seconds=self.give_up_after_hours * 3600,
            checkpoint_seconds=self.checkpoint_hours * 3600,
            late_rows_seconds=self.late_rows_minutes * 60,
            orphans_older_than_seconds=self.orphans_older_than_hours * 3600,
            objects_checked=None if self.objects_checked == -1 else self.objects_checked,
        )
        settings = PipelineSettings(
            policies,
            Thresholds(self.max_failed_share, self.max_not_found_share, self.max_error_share),
            partitions_per_run=self.partitions_per_run,
            retry_delay_seconds=self.retry_delay_seconds,
        )
        job = build_job()
        running = self.schedule_enabled
        revisits = RevisitPolicy(give_up_after=policies.give_up_after_seconds)
        per_run = self.partitions_per_run
        with _naming("LUMA_SCHEDULE_CRON"):
            schedule = build_schedule(
                job, partitions, self.schedule_cron, revisits, partitions_per_run=per_run, running=running
            )
        sensor = build_sensor(job, partitions, revisits, partitions_per_run=per_run, running=running)
        return dg.Definitions(
            assets=[build_pipeline(specs, partitions, settings)],
            asset_checks=[
                build_checks(
                    partitions, settings.thresholds, objects=policies.objects_checked, spec=SPECS[self.dialect]
                )
            ],
            jobs=[job],
            schedules=[schedule],
            sensors=[sensor],
            resources=self._resources(datetime.fromtimestamp(partitions.start_timestamp, UTC)),
        )

    def _check_together(self) -> None:
        """Raise ValueError for settings that cannot be, or not beside each other."""
        if self.dialect not in SPECS:
            raise ValueError(f"LUMA_DIALECT must be {' or '.join(SPECS)}, not {self.dialect!r}")
        smallest = -(-self.max_video_bytes // LARGEST_PART_COUNT)
        if self.part_size_bytes < smallest:
            raise ValueError(
                f"LUMA_PART_SIZE_BYTES must be at least {smallest} for videos of LUMA_MAX_VIDEO_BYTES: S3 takes "
                f"{LARGEST_PART_COUNT} parts at most"
            )
        if self.orphans_older_than_hours * 3600 < self.copy_max_seconds:
            raise ValueError(
                "LUMA_ORPHANS_OLDER_THAN_HOURS must not be shorter than LUMA_COPY_MAX_SECONDS: uploads that another "
                "run has under way would be aborted"
            )

    def _resources(self, since: datetime) -> dict[str, Any]:
        dataset = LumaDataset(url=self.data_url)
        return {
            "luma_source": _resource(
                LumaSource,
                "url",
                url=self.source_url,
                table=self.source_table,
                id_column=self.source_id_column,
                time_column=self.source_time_column,
                columns=self.source_columns,
                where=self.source_where,
                timezone=self.source_timezone,
                since=since.isoformat(),
            ),
            "luma_provider": _resource(
                LumaProvider,
                "token",
                token=self.api_token,
                base_url=self.base_url,
                dialect=self.dialect,
                max_concurrency=self.max_concurrency,
                requests_per_second=self.requests_per_second,
                burst=self.burst,
                batch_size=self.batch_size,
                verify_task_id=self.verify_task_id,
            ),
            "luma_bucket": VideoBucket(
                bucket=self.s3_bucket,
                prefix=self.s3_prefix,
                key_template=self.key_template,
                max_workers=self.copy_workers,
                allowed_media_hosts=self.allowed_media_hosts,
                allow_private_media=self.allow_private_media,
                max_video_bytes=self.max_video_bytes,
                part_size_bytes=self.part_size_bytes,
                max_seconds=self.copy_max_seconds,
                overwrite=self.overwrite,
                server_side_encryption=self.server_side_encryption,
                sse_kms_key_id=self.sse_kms_key_id,
                storage_class=self.storage_class,
                acl=self.object_acl,
                tags=self.object_tags,
            ),
            "luma_dataset": dataset,
            UNNAMED.io_manager_key: LumaParquetIOManager.of(UNNAMED, dataset),
        }


ENVIRONMENT: Mapping[str, str] = {name: f"LUMA_{name.upper()}" for name in LumaPipelineComponent.model_fields}
"""The environment variable of every field."""


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


@contextmanager
def _naming(variables: str) -> Iterator[None]:
    """Name the variables of settings that Dagster refuses."""
    try:
        yield
    except dg.DagsterError as error:
        raise ValueError(f"{variables}: {error}") from None


def _warn_of_misspelt(environment: Mapping[str, str]) -> None:
    """Say which variables look like a setting's that is misspelt, and are read by nobody."""
    settings = set(ENVIRONMENT.values())
    for variable in sorted(environment):
        if not variable.upper().startswith("LUMA") or variable in settings:
            continue
        likeness, nearest = max((_likeness(variable, setting), setting) for setting in settings)
        # A name that is only somewhat alike is no slip where the setting has been given as well.
        if likeness >= _MISSPELT or (likeness >= _MAYBE_MISSPELT and nearest not in environment):
            _log.warning("%s is not a setting and is not read. Did you mean %s?", variable, nearest)


_MISSPELT, _MAYBE_MISSPELT = 0.85, 0.7


def _likeness(variable: str, setting: str) -> float:
    """How alike two names are (0..1), without the prefix that all have."""
    own = variable.upper().removeprefix("LUMA").removeprefix("_")
    return SequenceMatcher(None, own, setting.removeprefix("LUMA_")).ratio()


def _frequency(name: str) -> Frequency:
    try:
        return Frequency(name)
    except ValueError:
        raise ValueError(f"LUMA_PARTITIONS must be hourly, daily, weekly or monthly, not {name!r}") from None


def _link_preference(names: list[str], dialect: str) -> tuple[LinkSource, ...]:
    try:
        preference = tuple(LinkSource(name) for name in names)
    except ValueError:
        there = ", ".join(source.value for source in LinkSource)
        raise ValueError(f"LUMA_LINK_PREFERENCE must be some of {there}, not {', '.join(names)}") from None
    if LinkSource.UNWATERMARKED in preference and SPECS[dialect].unwatermarked is None:
        raise ValueError(f"LUMA_LINK_PREFERENCE: the dialect {dialect} has no request for an unwatermarked link")
    return preference


def _parsed(annotation: Any, text: str, variable: str) -> Any:
    kind = str(annotation)
    try:
        if "dict" in kind:
            return {name.strip(): value.strip() for name, value in (part.split("=", 1) for part in text.split(","))}
        if "list" in kind:
            return [part.strip() for part in text.split(",") if part.strip()]
        if "bool" in kind:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if "int" in kind:
            return int(text)
        if "float" in kind:
            return float(text)
    except (ValueError, KeyError):
        raise ValueError(f"{variable} has a value that it cannot have: {text!r}") from None
    return text
