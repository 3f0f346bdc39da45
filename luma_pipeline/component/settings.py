"""The settings by concern: each field with its bounds, its words for people, and its environment variable beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from zoneinfo import available_timezones

import dagster as dg
from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator
from pydantic.fields import FieldInfo

from luma_pipeline.component.groups import SettingsGroup, extra, settings_of
from luma_pipeline.dataset import DatasetSettingsError, check_root
from luma_pipeline.engine.settings import Policies
from luma_pipeline.engine.windows import Frequency
from luma_pipeline.gallery import settings as gallery
from luma_pipeline.limit.account_table import AccountTable, SharedLimitSettingsError
from luma_pipeline.luma import SPECS, ProviderConfig
from luma_pipeline.luma.config import AUTO
from luma_pipeline.luma.transport import parsed_base_url
from luma_pipeline.media import Artifact, BucketNameError, LinkSource, TransferConfig
from luma_pipeline.orchestration.assets import PipelineSettings
from luma_pipeline.orchestration.audit import AuditPlan
from luma_pipeline.orchestration.evaluations import Thresholds
from luma_pipeline.orchestration.instance import Instance
from luma_pipeline.orchestration.shared_limit import INSTANCE
from luma_pipeline.s3.uploads import SMALLEST_PART_BYTES
from luma_pipeline.source.table import SourceTable
from luma_pipeline.source.times import nearest_zones

__all__ = [
    "AuditSettings",
    "CheckSettings",
    "GallerySettings",
    "PartitionSettings",
    "ProviderSettings",
    "ScheduleSettings",
    "SettingRow",
    "SourceSettings",
    "TopSettings",
    "VideoSettings",
    "setting_rows",
]

# Only for its defaults.
_TRANSFER = TransferConfig(bucket="any-bucket")


# -- kinds of values --------------------------------------------------------------------------------------------------


def _kept_for_the_run(value: Any, as_text: ValidatorFunctionWrapHandler) -> Any:
    """An EnvVar stays one, to be read when a run starts: it is a str, and pydantic would keep its name alone.

    In YAML it is `env: NAME`, as in Dagster's config.
    """
    variable = value.get("env") if isinstance(value, dict) and len(value) == 1 else None
    if isinstance(variable, str) and variable.strip():
        return dg.EnvVar(variable)
    return value if isinstance(value, dg.EnvVar) else as_text(value)


_TEXT_OR_VARIABLE = WithJsonSchema(
    {
        "type": ["string", "object"],
        "properties": {"env": {"type": "string", "minLength": 1}},
        "additionalProperties": False,
        "required": ["env"],
    }
)


def _filled(text: str) -> str:
    if not isinstance(text, dg.EnvVar) and not text.strip():
        raise ValueError("must not be empty")
    return text


def _is_date(text: str) -> str:
    try:
        date = datetime.strptime(text, "%Y-%m-%d")  # noqa: DTZ007 - a date; Dagster adds the zone
    except ValueError:
        raise ValueError(f"must be a date such as 2024-12-24, not {text!r}") from None
    if date.year < _FIRST_YEAR:
        raise ValueError(f"must be a date of {_FIRST_YEAR} or later, not {text!r}")
    return text


def _is_zone(name: str) -> str:
    if isinstance(name, dg.EnvVar) or name in available_timezones():
        return name
    near = nearest_zones(name)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; such as UTC or Europe/Berlin"
    raise ValueError(f"there is no time zone {name!r}{hint}")


def _is_of_gallery(**setting: str) -> str:
    try:
        gallery.GallerySettings(**setting)  # type: ignore[arg-type]
    except gallery.GallerySettingsError as error:
        raise ValueError(str(error).partition(": ")[2]) from None
    return next(iter(setting.values()))


def _is_bucket(text: str) -> str:
    if isinstance(text, dg.EnvVar):
        return text
    try:
        TransferConfig(bucket=text)
    except BucketNameError as error:
        raise ValueError(str(error).removeprefix("LUMA_S3_BUCKET ")) from None
    return text


def _is_key_template(text: str) -> str:
    TransferConfig(bucket="any-bucket", key_template=text)
    return text


def _is_host(text: str) -> str:
    TransferConfig(bucket="any-bucket", allowed_media_hosts=[text])
    return text


def _is_base_url(text: str) -> str:
    if isinstance(text, dg.EnvVar):
        return text
    try:
        parsed_base_url(text)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("base_url (LUMA_BASE_URL) ")) from None
    return text


def _is_shared_limit(text: str) -> str:
    if isinstance(text, dg.EnvVar) or text.strip().lower() == INSTANCE:
        return text
    try:
        AccountTable(text).close()
    except SharedLimitSettingsError as error:
        raise ValueError(str(error).partition("(LUMA_SHARED_LIMIT) ")[2]) from None
    return text


def _is_root(text: str) -> str:
    if isinstance(text, dg.EnvVar):
        return text
    try:
        check_root(text)
    except DatasetSettingsError as error:
        raise ValueError(str(error).removeprefix("LUMA_DATA_URL ")) from None
    return text


def _is_key(key: str | list[str] | None) -> str | list[str] | None:
    """Parts of an asset key: Dagster makes names of ops and inputs out of them."""
    for part in key.split("/") if isinstance(key, str) else key or ():
        if not _KEY_PART.fullmatch(part):
            raise ValueError(f"must be letters, digits, underscores, dashes and dots between slashes, not {part!r}")
    return key


def _is_token(text: str) -> str:
    if not isinstance(text, dg.EnvVar):
        ProviderConfig(token=text)
    return text


def _is_cron(text: str) -> str:
    with _as_value_error():
        dg.ScheduleDefinition(name="any", job_name="any", cron_schedule=text)
    return text


def _is_group(text: str) -> str:
    with _as_value_error():
        dg.AssetSpec("any", group_name=text)
    return text


def _is_owner(text: str) -> str:
    with _as_value_error():
        dg.AssetSpec("any", owners=[text])
    return text


def _is_name(text: str) -> str:
    Instance(text)
    return text


@contextmanager
def _as_value_error() -> Iterator[None]:
    """What Dagster refuses, in its own words."""
    try:
        yield
    except dg.DagsterError as error:
        raise ValueError(str(error).strip()) from None


def _one_of(name: str, choices: tuple[str, ...]) -> str:
    if name not in choices:
        raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}, not {name!r}")
    return name


def _enum(*choices: str) -> tuple[AfterValidator, WithJsonSchema]:
    schema: dict[str, Any] = {"type": "string", "enum": list(choices)}
    return AfterValidator(lambda name: _one_of(name, choices)), WithJsonSchema(schema)


def _is_batch_size(value: object, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        size = handler(value)
    except ValidationError:
        size = 0
    if size != AUTO and size < 1:
        raise ValueError(f"must be a whole number of at least 1, or auto, not {value!r}")
    return size


_FIRST_YEAR = 1970
_KEY_PART = re.compile(r"[A-Za-z0-9_.-]*")  # a part that is empty is left out

Text = Annotated[str, WrapValidator(_kept_for_the_run), _TEXT_OR_VARIABLE]
FilledText = Annotated[str, WrapValidator(_kept_for_the_run), AfterValidator(_filled), _TEXT_OR_VARIABLE]
DateText = Annotated[str, AfterValidator(_is_date)]
ZoneText = Annotated[str, WrapValidator(_kept_for_the_run), AfterValidator(_is_zone), _TEXT_OR_VARIABLE]
FixedZoneText = Annotated[str, AfterValidator(_is_zone)]
BucketName = Annotated[str, WrapValidator(_kept_for_the_run), AfterValidator(_is_bucket), _TEXT_OR_VARIABLE]
TokenText = Annotated[str, WrapValidator(_kept_for_the_run), AfterValidator(_is_token), _TEXT_OR_VARIABLE]
KeyTemplateText = Annotated[str, AfterValidator(_is_key_template)]
HostName = Annotated[str, AfterValidator(_is_host)]
EncryptionName = Annotated[str, *_enum("AES256", "aws:kms", "aws:kms:dsse")]
GalleryTitle = Annotated[str, AfterValidator(lambda text: _is_of_gallery(title=text))]
PublicUrl = Annotated[str, AfterValidator(lambda text: _is_of_gallery(public_url=text))]
PageSize = Annotated[int, Field(ge=1, le=gallery.LARGEST_PAGE)]
CronText = Annotated[str, AfterValidator(_is_cron)]
RootUrl = Annotated[
    str, WrapValidator(_kept_for_the_run), AfterValidator(_filled), AfterValidator(_is_root), _TEXT_OR_VARIABLE
]
SharedLimitText = Annotated[str, WrapValidator(_kept_for_the_run), AfterValidator(_is_shared_limit), _TEXT_OR_VARIABLE]
BaseUrl = Annotated[
    str, WrapValidator(_kept_for_the_run), AfterValidator(_filled), AfterValidator(_is_base_url), _TEXT_OR_VARIABLE
]
AssetKeyText = Annotated[str | None, AfterValidator(_is_key)]
KeyPrefix = Annotated[str | list[str] | None, AfterValidator(_is_key)]
GroupName = Annotated[str, AfterValidator(_is_group)]
OwnerName = Annotated[str, AfterValidator(_is_owner)]
InstanceName = Annotated[str, AfterValidator(_is_name)]
FrequencyName = Annotated[str, *_enum(*(frequency.value for frequency in Frequency))]
ArtifactName = Annotated[str, *_enum(*(artifact.value for artifact in Artifact))]
LinkName = Annotated[str, *_enum(*(source.value for source in LinkSource))]
DialectName = Annotated[str, *_enum(*SPECS)]
Count = Annotated[int, Field(ge=1)]
BatchSize = Annotated[
    int | Literal["auto"],
    WrapValidator(_is_batch_size),
    WithJsonSchema({"type": ["integer", "string"], "minimum": 1, "pattern": "^auto$"}),
]
CountOrAll = Annotated[int, Field(ge=-1)]
PartSize = Annotated[int, Field(ge=SMALLEST_PART_BYTES)]
# A hundred years of hours: with more, times have no date.
NotNegative = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _setting(variable: str, default: Any, description: str, *, secret: bool = False) -> Any:
    """A field with its environment variable. A secret is in no repr."""
    extra: dict[str, Any] = {"variable": variable}
    if secret:
        extra["dagster__is_secret"] = True
    return Field(default=default, description=description, repr=not secret, json_schema_extra=extra)


def _required(variable: str, description: str, *, secret: bool = False) -> Any:
    """A setting without a default that could work: what is not given is read from its variable when a run starts."""
    return _setting(variable, dg.EnvVar(variable), description, secret=secret)


# -- the groups -------------------------------------------------------------------------------------------------------


class SourceSettings(SettingsGroup):
    """The table with the task IDs."""

    url: FilledText = _required("LUMA_SOURCE_URL", "SQLAlchemy URL of the source database.", secret=True)
    table: FilledText = _required("LUMA_SOURCE_TABLE", "Table with the task IDs, with its schema if it has one.")
    id_column: FilledText = _setting("LUMA_SOURCE_ID_COLUMN", SourceTable.id_column, "Column with the task IDs.")
    time_column: FilledText = _setting(
        "LUMA_SOURCE_TIME_COLUMN", SourceTable.time_column, "Column with the time of submission."
    )
    asset: AssetKeyText = _setting(
        "LUMA_SOURCE_ASSET",
        None,
        "Key of an asset of your own that makes this table. If not set, the table is shown as an external asset.",
    )
    columns: list[str] = _setting("LUMA_SOURCE_COLUMNS", [], "Further columns to carry along.")
    where: Text | None = _setting("LUMA_SOURCE_WHERE", None, "SQL condition that rows must meet.")
    timezone: ZoneText = _setting("LUMA_SOURCE_TIMEZONE", SourceTable.timezone, "Zone of times stored without one.")


class ProviderSettings(SettingsGroup):
    """The provider that is asked for the tasks, and for how long."""

    token: TokenText = _required("LUMA_API_TOKEN", "Bearer token of the provider.", secret=True)
    base_url: BaseUrl = _setting("LUMA_BASE_URL", ProviderConfig.base_url, "Scheme and host of the provider.")
    dialect: DialectName = _setting(
        "LUMA_DIALECT", ProviderConfig.spec.name, "`gateway`, or `luma` for Luma's own API."
    )
    requests_per_second: Positive | None = _setting(
        "LUMA_REQUESTS_PER_SECOND",
        ProviderConfig.requests_per_second,
        "The provider's limit; found out if not set.",
    )
    burst: Count = _setting("LUMA_BURST", ProviderConfig.burst, "Requests that may leave at once under that limit.")
    shared_limit: SharedLimitText | None = _setting(
        "LUMA_SHARED_LIMIT",
        None,
        "SQLAlchemy URL of a database through which all runs of a token share `requests_per_second`. `instance`: the "
        "one of the Dagster instance. If not set, each run has the limit to itself.",
        secret=True,
    )
    max_concurrency: Count = _setting(
        "LUMA_MAX_CONCURRENCY", ProviderConfig.max_concurrency, "Most requests under way at one moment."
    )
    batch_size: BatchSize | None = _setting(
        "LUMA_BATCH_SIZE",
        ProviderConfig.batch_size,
        "Ask for this many tasks in one request; `auto` finds out whether the gateway can.",
    )
    verify_task_id: bool = _setting(
        "LUMA_VERIFY_TASK_ID",
        ProviderConfig.verify_task_id,
        "Take an answer only if it names the task that was asked for, or none; false for gateways whose answers have "
        "IDs of their own.",
    )
    give_up_after_hours: NotNegative = _setting(
        "LUMA_GIVE_UP_AFTER_HOURS",
        Policies.give_up_after_seconds / 3600,
        "Tasks older than this are no longer awaited when not found or not copied.",
    )
    checkpoint_hours: NotNegative = _setting(
        "LUMA_CHECKPOINT_HOURS",
        Policies.checkpoint_seconds / 3600,
        "Age up to which answers of a broken run are taken up.",
    )


class VideoSettings(SettingsGroup):
    """What is copied of each task, and the bucket that it is copied to."""

    bucket: BucketName = _required("LUMA_S3_BUCKET", "Bucket for the videos; it must exist.")
    prefix: Text = _setting("LUMA_S3_PREFIX", _TRANSFER.prefix, "Prefix of every key.")
    key_template: KeyTemplateText = _setting(
        "LUMA_KEY_TEMPLATE",
        _TRANSFER.key_template,
        "Key below the prefix: each field once, `{extension}` last, and a slash between `{artifact}` and `{task_id}`.",
    )
    artifacts: list[ArtifactName] = _setting(
        "LUMA_ARTIFACTS",
        [artifact.value for artifact in Policies.artifacts],
        "video, video_raw, thumbnail, last_frame.",
    )
    link_preference: list[LinkName] = _setting(
        "LUMA_LINK_PREFERENCE",
        [source.value for source in Policies.link_preference],
        "Which of a video's links is taken first: download_url, url, or unwatermarked, for which the gateway is asked "
        "by a request of its own.",
    )
    copy_workers: Count = _setting("LUMA_COPY_WORKERS", _TRANSFER.max_workers, "Artifacts fetched at the same time.")
    copy_max_seconds: Positive = _setting(
        "LUMA_COPY_MAX_SECONDS", _TRANSFER.limits.max_seconds, "Seconds for one artifact as a whole."
    )
    allowed_media_hosts: list[HostName] = _setting(
        "LUMA_ALLOWED_MEDIA_HOSTS", [], "Hosts to copy from; empty: any public host."
    )
    allow_private_media: bool = _setting(
        "LUMA_ALLOW_PRIVATE_MEDIA", False, "Copy from private addresses too: for the sandbox."
    )
    max_video_bytes: Count = _setting(
        "LUMA_MAX_VIDEO_BYTES", _TRANSFER.limits.max_bytes, "Larger artifacts are refused."
    )
    part_size_bytes: PartSize = _setting(
        "LUMA_PART_SIZE_BYTES",
        _TRANSFER.part_size_bytes,
        "Bytes of a part of a multipart upload; at least 5 MiB, and max_video_bytes / 10,000.",
    )
    orphans_older_than_hours: NotNegative = _setting(
        "LUMA_ORPHANS_OLDER_THAN_HOURS",
        Policies.orphans_older_than_seconds / 3600,
        "Age at which uploads that killed runs left below the prefix are aborted.",
    )
    overwrite: bool = _setting("LUMA_OVERWRITE", _TRANSFER.overwrite, "Copy again what is in the bucket already.")
    server_side_encryption: EncryptionName | None = _setting("LUMA_SERVER_SIDE_ENCRYPTION", None, "AES256 or aws:kms.")
    sse_kms_key_id: str | None = _setting("LUMA_SSE_KMS_KEY_ID", None, "KMS key for aws:kms.")
    storage_class: str | None = _setting("LUMA_STORAGE_CLASS", None, "S3 storage class, such as STANDARD_IA.")
    object_acl: str | None = _setting("LUMA_OBJECT_ACL", None, "Canned ACL of every object.")
    object_tags: dict[str, str] = _setting(
        "LUMA_OBJECT_TAGS", {}, "Tags of every object: name=value, separated by commas."
    )


class PartitionSettings(SettingsGroup):
    """How tasks fall into partitions, and how a run works through many."""

    frequency: FrequencyName = _setting(
        "LUMA_PARTITIONS", "daily", "hourly, daily, weekly or monthly, on the submitted time."
    )
    start: DateText = _setting("LUMA_PARTITIONS_START", "2024-01-01", "Date in the first partition.")
    timezone: FixedZoneText = _setting("LUMA_PARTITIONS_TIMEZONE", "UTC", "Time zone of the partitions' bounds.")
    per_run: Count = _setting(
        "LUMA_PARTITIONS_PER_RUN", PipelineSettings.partitions_per_run, "Partitions that share a run in a backfill."
    )
    late_rows_minutes: NotNegative = _setting(
        "LUMA_LATE_ROWS_MINUTES",
        Policies.late_rows_seconds / 60,
        "Minutes after a period's end until which rows may still be committed; it is read again until then.",
    )
    retry_delay_seconds: NotNegative = _setting(
        "LUMA_RETRY_DELAY_SECONDS",
        PipelineSettings.retry_delay_seconds,
        "Seconds until partitions that failed are tried once more in the same run.",
    )


class ScheduleSettings(SettingsGroup):
    """What runs by itself, and when the assets count as stale."""

    enabled: bool = _setting(
        "LUMA_SCHEDULE_ENABLED", False, "Whether schedule and sensor run without being started in the UI."
    )
    cron: CronText = _setting("LUMA_SCHEDULE_CRON", "*/10 * * * *", "When the schedule of the open period runs.")
    freshness_hours: NotNegative | None = _setting(
        "LUMA_FRESHNESS_HOURS",
        None,
        "Hours without a materialization after which the assets count as stale; 0: never. If not set: the longest time "
        "between two ticks of the schedule and an hour, where the schedule is on.",
    )


class CheckSettings(SettingsGroup):
    """When a check fails, and how much it looks at."""

    max_failed_share: Share = _setting(
        "LUMA_MAX_FAILED_SHARE", Thresholds.failed, "Share of failed tasks of a partition above which the check fails."
    )
    max_not_found_share: Share = _setting(
        "LUMA_MAX_NOT_FOUND_SHARE",
        Thresholds.not_found,
        "Share of tasks not found of a partition above which the check fails.",
    )
    max_error_share: Share = _setting(
        "LUMA_MAX_ERROR_SHARE", Thresholds.error, "Share of tasks in error of a partition above which the check fails."
    )
    objects_checked: CountOrAll = _setting(
        "LUMA_OBJECTS_CHECKED",
        -1 if Policies.objects_checked is None else Policies.objects_checked,
        "Objects that the check videos_in_bucket looks up in the store: of the run's partitions, or of all when it is "
        "executed alone; -1: each of them. A run looks at as many of what it believes to be there.",
    )
    verify_hours: NotNegative = _setting(
        "LUMA_VERIFY_HOURS",
        Policies.verify_after_seconds / 3600,
        "Hours after which a run looks up all objects of a partition in the store again, and copies what is lost; 0: "
        "every run does.",
    )


class GallerySettings(SettingsGroup):
    """The pages that show each partition's videos, below the prefix of the videos."""

    enabled: bool = _setting(
        "LUMA_GALLERY_ENABLED", gallery.GallerySettings.enabled, "Whether there is the asset luma_gallery."
    )
    title: GalleryTitle = _setting("LUMA_GALLERY_TITLE", gallery.GallerySettings.title, "Heading of the index.")
    embed_thumbnails: bool = _setting(
        "LUMA_GALLERY_EMBED_THUMBNAILS",
        gallery.GallerySettings.embed_thumbnails,
        "Put small thumbnails into the page itself, so that a page alone shows them.",
    )
    page_size: PageSize = _setting(
        "LUMA_GALLERY_PAGE_SIZE",
        gallery.GallerySettings.page_size,
        "Tasks on one page; a partition with more gets several.",
    )
    public_url: PublicUrl = _setting(
        "LUMA_GALLERY_PUBLIC_URL",
        gallery.GallerySettings.public_url,
        "Where browsers find what is below the bucket's prefix, such as a CDN's address. If empty, links in the UI "
        "lead to the store's own address, or to the console of AWS.",
    )


class AuditSettings(SettingsGroup):
    """The job that compares the bucket with the manifests, and its schedule."""

    enabled: bool = _setting(
        "LUMA_AUDIT_ENABLED", False, "Whether the audit's schedule runs without being started in the UI."
    )
    cron: CronText = _setting(
        "LUMA_AUDIT_CRON", "30 3 * * *", "When the audit's schedule runs, in the time zone of the partitions."
    )
    read_within_days: NotNegative | None = _setting(
        "LUMA_AUDIT_READ_WITHIN_DAYS",
        AuditPlan.read_within_days,
        "Days in which every object is read once, to compute its SHA-256 again: each audit reads its share. 0: each "
        "audit reads all; null (variable: none): none is read.",
    )
    repair: bool = _setting(
        "LUMA_AUDIT_REPAIR", False, "Whether the schedule's audits copy again what is missing or wrong."
    )


class TopSettings(SettingsGroup):
    """What stands above the groups: where the datasets are, and what the component is called in Dagster."""

    @classmethod
    def moved(cls) -> Mapping[str, str]:
        """The path of each setting by its name in 0.1.0, which had no groups: that of its variable."""
        return _moved()

    def at(self, path: str) -> Any:
        """The value of the setting at a path such as `source.table`."""
        value: Any = self
        for name in path.split("."):
            value = getattr(value, name)
        return value

    data_url: RootUrl = _required("LUMA_DATA_URL", "Root of the Parquet datasets: a folder or s3://bucket/prefix.")
    name: InstanceName = _setting(
        "LUMA_NAME", "", "Begins the names of op, job, schedule, sensor, resources and pool: tells components apart."
    )
    key_prefix: KeyPrefix = _setting(
        "LUMA_KEY_PREFIX", None, "Begins the asset keys, its parts separated by slashes. The name if not set."
    )
    group: GroupName = _setting("LUMA_GROUP", "luma", "Asset group.")
    owners: list[OwnerName] = _setting("LUMA_OWNERS", [], "Owners: e-mail addresses or team:name.")
    pool: str | None = _setting(
        "LUMA_POOL",
        "luma_api",
        "Concurrency pool of the op; null (variable: none): in no pool, for executors that know none. If not set, it "
        "begins with the name. Its limit is set by the Dagster instance.",
    )
    source: SourceSettings = Field(default_factory=SourceSettings, description=SourceSettings.__doc__)
    provider: ProviderSettings = Field(default_factory=ProviderSettings, description=ProviderSettings.__doc__)
    videos: VideoSettings = Field(default_factory=VideoSettings, description=VideoSettings.__doc__)
    partitions: PartitionSettings = Field(default_factory=PartitionSettings, description=PartitionSettings.__doc__)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings, description=ScheduleSettings.__doc__)
    checks: CheckSettings = Field(default_factory=CheckSettings, description=CheckSettings.__doc__)
    audit: AuditSettings = Field(default_factory=AuditSettings, description=AuditSettings.__doc__)
    gallery: GallerySettings = Field(default_factory=GallerySettings, description=GallerySettings.__doc__)


@cache
def _moved() -> Mapping[str, str]:
    variables = ((str(extra(info)["variable"]), path) for path, info in settings_of(TopSettings))
    places = {variable.removeprefix("LUMA_").lower(): path for variable, path in variables}
    return {name: path for name, path in places.items() if "." in path}


# -- the settings as a table ------------------------------------------------------------------------------------------

VARIABLE_DEFAULTS: Mapping[str, Any] = {"schedule.enabled": True}
"""Defaults of the shipped code location, which has variables in place of YAML, where they are others."""


@dataclass(frozen=True)
class SettingRow:
    """One setting as the docs list it.

    path: Its place in YAML below `attributes`, such as `source.table`.
    variable: Its environment variable in the shipped code location.
    kind: Its type in words: text, whole number, number, true or false, list, mapping; `optional` where null is a value.
    default: Its default; None where it has none.
    required: Whether a run fails without it.
    secret: Whether it is kept out of what Dagster shows.
    description: What it is for, in a sentence.
    variable_default: Its default where it is read from its variable.
    """

    path: str
    variable: str
    kind: str
    default: Any
    required: bool
    secret: bool
    description: str
    variable_default: Any


def setting_rows() -> list[SettingRow]:
    """Every setting, in the order of the groups: first those at the top, then group by group.

    >>> [row.path for row in setting_rows() if row.required]
    ['data_url', 'source.url', 'source.table', 'provider.token', 'videos.bucket']
    """
    return [_row(path, info) for path, info in settings_of(TopSettings)]


def _row(path: str, info: FieldInfo) -> SettingRow:
    required = isinstance(info.default, dg.EnvVar)
    default = None if required else info.default
    return SettingRow(
        path=path,
        variable=str(extra(info)["variable"]),
        kind=kind_in_words(info.annotation),
        default=default,
        required=required,
        secret=bool(extra(info).get("dagster__is_secret")),
        description=info.description or "",
        variable_default=VARIABLE_DEFAULTS.get(path, default),
    )


_WORDS: Mapping[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    list: "list",
    dict: "mapping",
}


def kind_in_words(annotation: Any) -> str:
    """A type as people call it.

    >>> kind_in_words(list[str] | None)
    'list, optional'
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return kind_in_words(get_args(annotation)[0])
    if origin in (Union, UnionType):
        kinds = [kind_in_words(arg) for arg in get_args(annotation) if arg is not type(None)]
        words = " or ".join(dict.fromkeys(kinds))
        return f"{words}, optional" if type(None) in get_args(annotation) else words
    if origin is Literal:
        return " or ".join(f"`{word}`" for word in get_args(annotation))
    return _WORDS[origin or annotation]
