"""The settings: every one has its variable, and a bad value names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from luma_pipeline.component import LumaPipelineComponent, setting_rows
from luma_pipeline.orchestration.resources.provider import LumaProvider
from luma_pipeline.orchestration.resources.source import LumaSource
from luma_pipeline.source.table import SourceTableError
from tests.settings import component_with, grouped


def test_definitions_load_with_no_environment_at_all() -> None:
    definitions = LumaPipelineComponent.from_environment({}).definitions()
    assert {key.to_user_string() for key in definitions.resolve_all_asset_keys()} == {
        "luma_generations",
        "luma_source",
        "luma_tasks",
        "luma_videos",
    }


@pytest.mark.parametrize(("text", "size"), [("auto", "auto"), ("50", 50)])
def test_the_batch_size_is_a_number_or_found_out(text: str, size: object) -> None:
    component = LumaPipelineComponent.from_environment({"LUMA_BATCH_SIZE": text})
    provider = (component.definitions().resources or {})["luma_provider"]
    assert component.provider.batch_size == size
    assert (
        provider.model_copy(update={"token": "t", "base_url": "http://h", "dialect": "gateway"}).config().batch_size
        == size
    )


def test_settings_come_from_their_variables() -> None:
    component = LumaPipelineComponent.from_environment(
        {
            "LUMA_REQUESTS_PER_SECOND": "7.5",
            "LUMA_SOURCE_COLUMNS": "a, b",
            "LUMA_ALLOW_PRIVATE_MEDIA": "true",
            "LUMA_BATCH_SIZE": "50",
            "LUMA_S3_PREFIX": "x/y",
            "LUMA_OBJECT_TAGS": "team=video, cost = a=b",
        }
    )
    assert (component.provider.requests_per_second, component.provider.batch_size) == (7.5, 50)
    assert (component.source.columns, component.videos.prefix) == (["a", "b"], "x/y")
    assert component.videos.allow_private_media is True
    assert component.videos.object_tags == {"team": "video", "cost": "a=b"}


def test_every_setting_of_one_value_may_be_a_template_in_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for row in setting_rows():
        default = "given" if row.required else row.default
        if isinstance(default, (int, float, str)) and default != "":
            monkeypatch.setenv(row.variable, str(default))
            expected[row.variable.removeprefix("LUMA_").lower()] = default
            written[row.variable.removeprefix("LUMA_").lower()] = f"{{{{ env.{row.variable} }}}}"
    component = LumaPipelineComponent.resolve_from_dict(grouped(written))
    assert component.model_dump(exclude_unset=True) == grouped(expected)
    assert not any(isinstance(component.at(row.path), dg.EnvVar) for row in setting_rows())


def test_the_settings_of_copying_reach_the_bucket() -> None:
    settings: dict[str, Any] = {"part_size_bytes": 6 * 1024**2, "copy_max_seconds": 60.0, "max_video_bytes": 10**9}
    resources = component_with(s3_bucket="videos", **settings).definitions().resources or {}
    bucket = resources["luma_bucket"]
    assert (bucket.part_size_bytes, bucket.max_seconds, bucket.max_video_bytes) == (6 * 1024**2, 60.0, 10**9)


def test_a_resource_with_a_secret_as_text_is_made_and_closed_by_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other settings may still be variables, and one that is missing is named."""
    url = f"sqlite:///{tmp_path / 'source.db'}"
    component = component_with(api_token="geheim", source_url=url, source_columns=["a"], batch_size=7)
    seen: dict[str, Any] = {}

    @dg.op
    def look(luma_source: LumaSource, luma_provider: LumaProvider) -> None:
        with luma_source.open() as table, pytest.raises(SourceTableError, match="no table 'generations'"):
            table.rows_outside()
        seen.update(source=luma_source, provider=luma_provider)

    @dg.job(resource_defs=dict(component.definitions().resources or {}))
    def job() -> None:
        look()

    monkeypatch.delenv("LUMA_SOURCE_TABLE", raising=False)
    with pytest.raises(dg.DagsterInvalidConfigError, match='environment variable "LUMA_SOURCE_TABLE" which is not set'):
        job.execute_in_process()
    monkeypatch.setenv("LUMA_SOURCE_TABLE", "generations")
    assert job.execute_in_process().success
    assert (seen["source"].url, seen["source"].table, seen["source"].columns) == (url, "generations", ["a"])
    assert (seen["provider"].token, seen["provider"].batch_size) == ("geheim", 7)


BAD = [
    ("LUMA_REQUESTS_PER_SECOND", "fast"),
    ("LUMA_BATCH_SIZE", "1.5"),
    ("LUMA_OVERWRITE", "maybe"),
    ("LUMA_PARTITIONS", "yearly"),
    ("LUMA_PARTITIONS_START", "24.12.2024"),
    ("LUMA_PARTITIONS_TIMEZONE", "Europe/Berln"),
    ("LUMA_SCHEDULE_CRON", "often"),
    ("LUMA_OWNERS", "nobody"),
    ("LUMA_GROUP", "a b"),
    ("LUMA_VERIFY_TASK_ID", "perhaps"),
    ("LUMA_OBJECT_TAGS", "team"),
    ("LUMA_LINK_PREFERENCE", "download_url,best"),
    ("LUMA_REQUESTS_PER_SECOND", "0"),
    ("LUMA_REQUESTS_PER_SECOND", "nan"),
    ("LUMA_BURST", "0"),
    ("LUMA_MAX_CONCURRENCY", "0"),
    ("LUMA_BATCH_SIZE", "0"),
    ("LUMA_COPY_WORKERS", "-1"),
    ("LUMA_COPY_MAX_SECONDS", "0"),
    ("LUMA_MAX_VIDEO_BYTES", "0"),
    ("LUMA_PART_SIZE_BYTES", "1048576"),
    ("LUMA_ORPHANS_OLDER_THAN_HOURS", "-1"),
    ("LUMA_ORPHANS_OLDER_THAN_HOURS", "0.5"),
    ("LUMA_PARTITIONS_PER_RUN", "0"),
    ("LUMA_LATE_ROWS_MINUTES", "-1"),
    ("LUMA_FRESHNESS_HOURS", "-1"),
    ("LUMA_MAX_FAILED_SHARE", "-0.1"),
    ("LUMA_MAX_NOT_FOUND_SHARE", "nan"),
    ("LUMA_OBJECTS_CHECKED", "-2"),
    ("LUMA_RETRY_DELAY_SECONDS", "-1"),
    ("LUMA_GIVE_UP_AFTER_HOURS", "inf"),
    ("LUMA_CHECKPOINT_HOURS", "-1"),
]


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_a_bad_value_names_its_variable(variable: str, text: str) -> None:
    with pytest.raises(ValueError, match=variable):
        LumaPipelineComponent.from_environment({variable: text}).definitions()


def test_a_dialect_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="LUMA_DIALECT must be gateway or luma, not 'suno'"):
        LumaPipelineComponent.from_environment({"LUMA_DIALECT": "suno"}).definitions()


def test_parts_that_are_too_small_for_the_largest_video_are_refused() -> None:
    settings = {"LUMA_MAX_VIDEO_BYTES": str(100 * 1024**3)}
    with pytest.raises(ValueError, match="LUMA_PART_SIZE_BYTES must be at least 10737419"):
        LumaPipelineComponent.from_environment(settings).definitions()
    LumaPipelineComponent.from_environment(settings | {"LUMA_PART_SIZE_BYTES": "10737419"}).definitions()


def test_the_link_without_watermark_is_the_gateways() -> None:
    settings = {"LUMA_LINK_PREFERENCE": "unwatermarked,url", "LUMA_DIALECT": "luma"}
    with pytest.raises(ValueError, match="LUMA_LINK_PREFERENCE"):
        LumaPipelineComponent.from_environment(settings).definitions()


def test_secrets_are_in_no_repr() -> None:
    component = component_with(api_token="geheim", source_url="sqlite:///geheim")
    assert "geheim" not in repr(component)


@pytest.mark.parametrize(
    ("zone", "near"),
    [("Europe/Berln", "Europe/Berlin"), ("berlin", "Europe/Berlin"), ("UTCC", "UTC"), ("Mars/Base", "")],
)
def test_a_time_zone_that_is_none_is_told_with_the_nearest(zone: str, near: str) -> None:
    with pytest.raises(ValueError, match="LUMA_PARTITIONS_TIMEZONE: there is no time zone") as caught:
        LumaPipelineComponent.from_environment({"LUMA_PARTITIONS_TIMEZONE": zone}).definitions()
    assert f"'{zone}'" in str(caught.value)
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("LUMA_S3_PREFX", "LUMA_S3_PREFIX"),
        ("LUMA_S3BUCKET", "LUMA_S3_BUCKET"),
        ("LUMA_TOKEN", "LUMA_API_TOKEN"),
        ("luma_batch_size", "LUMA_BATCH_SIZE"),
        ("LUMA_PARTITION", "LUMA_PARTITIONS"),
        ("LUMA_DEBUG", None),
        ("LUMA_LOG_LEVEL", None),
        ("LUMA_WEBHOOK_SECRET", None),
        ("HOME", None),
    ],
)
def test_a_misspelt_variable_is_told_at_load_with_the_nearest_name(
    variable: str, nearest: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    LumaPipelineComponent.from_environment({variable: "geheim"})
    told = [record.getMessage() for record in caplog.records if "not a setting" in record.getMessage()]
    assert told == ([f"{variable} is not a setting and is not read. Did you mean {nearest}?"] if nearest else [])
    assert "geheim" not in caplog.text


def test_the_log_says_what_a_missing_variable_is_for(caplog: pytest.LogCaptureFixture) -> None:
    LumaPipelineComponent.from_environment({"LUMA_S3_BUCKET": "videos"})
    assert "LUMA_SOURCE_URL (SQLAlchemy URL of the source database)" in caplog.text
    assert "LUMA_S3_BUCKET" not in caplog.text


def test_answers_are_verified_unless_a_setting_says_no() -> None:
    for text, expected in (("false", False), ("true", True)):
        component = LumaPipelineComponent.from_environment({"LUMA_VERIFY_TASK_ID": text, "LUMA_API_TOKEN": "t"})
        assert (component.definitions().resources or {})["luma_provider"].verify_task_id is expected
