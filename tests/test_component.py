"""The settings: every one has its variable in the README, and a bad value names it."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest

from luma_pipeline.component import ENVIRONMENT, LumaPipelineComponent

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_readmes_table_has_every_setting_with_its_default() -> None:
    table = dict(re.findall(r"^\| `(LUMA_[A-Z0-9_]+)` \| (.*?) \|", README, re.MULTILINE))
    assert sorted(table) == sorted(ENVIRONMENT.values())
    for name, variable in ENVIRONMENT.items():
        default = LumaPipelineComponent.model_fields[name].default
        if isinstance(default, dg.EnvVar):
            assert table[variable] == "**required**"
        elif isinstance(default, (int, float, str)) and default != "":
            assert table[variable] == f"`{default}`"


def test_definitions_load_with_no_environment_at_all() -> None:
    definitions = LumaPipelineComponent.from_environment({}).definitions()
    assert {key.to_user_string() for key in definitions.resolve_all_asset_keys()} == {
        "luma_generations",
        "luma_tasks",
        "luma_videos",
    }


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
    assert (component.requests_per_second, component.source_columns, component.batch_size) == (7.5, ["a", "b"], 50)
    assert (component.allow_private_media, component.s3_prefix) == (True, "x/y")
    assert component.object_tags == {"team": "video", "cost": "a=b"}


BAD = [
    ("LUMA_REQUESTS_PER_SECOND", "fast"),
    ("LUMA_BATCH_SIZE", "1.5"),
    ("LUMA_OVERWRITE", "maybe"),
    ("LUMA_PARTITIONS", "yearly"),
    ("LUMA_PARTITIONS_START", "24.12.2024"),
    ("LUMA_OBJECT_TAGS", "team"),
    ("LUMA_LINK_PREFERENCE", "download_url,best"),
]


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_a_bad_value_names_its_variable(variable: str, text: str) -> None:
    with pytest.raises(ValueError, match=variable):
        LumaPipelineComponent.from_environment({variable: text}).definitions()


def test_the_link_without_watermark_is_the_gateways() -> None:
    settings = {"LUMA_LINK_PREFERENCE": "unwatermarked,url", "LUMA_DIALECT": "luma"}
    with pytest.raises(ValueError, match="LUMA_LINK_PREFERENCE"):
        LumaPipelineComponent.from_environment(settings).definitions()


def test_secrets_are_in_no_repr() -> None:
    component = LumaPipelineComponent(api_token="geheim", source_url="sqlite:///geheim")
    assert "geheim" not in repr(component)
