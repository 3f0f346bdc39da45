"""A component in YAML: what is wrong is told with file, line and key, and secrets stay where they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.remote_representation.external_data import RepositorySnap
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from luma_pipeline.component import LumaPipelineComponent
from luma_pipeline.orchestration.resources.provider import LumaProvider
from tests.component.project import Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


BAD = [
    ("nme: eu", 3, "nme: there is no such setting; did you mean name?"),
    ("source_table: app.generations", 3, "source_table is now source.table"),
    ("s3_prefix: eu", 3, "s3_prefix is now videos.prefix"),
    ("partitions: weekly", 3, "partitions is now partitions.frequency; must be a mapping of settings"),
    ("videos: my-videos", 3, "videos must be a mapping of settings such as bucket, prefix"),
    ("source:\n  tabel: generations", 4, "source.tabel: there is no such setting; did you mean table?"),
    ("source:\n  bucket: videos", 4, "source.bucket: there is no such setting; there are url, table"),
    ("name: eu-west", 3, "name must be letters, digits and underscores"),
    ("owners: me", 3, "owners must be a list, not 'me'"),
    ("owners:\n- team:video\n- me", 5, "owners[1]:"),
    ("group: a b", 3, "group:"),
    ("key_prefix: {a: b}", 3, "key_prefix must be"),
    ("pool: [luma]", 3, "pool must be text"),
    ("provider:\n  burst: 0", 4, "provider.burst must be at least 1, not 0"),
    ("provider:\n  burst: 1.5", 4, "provider.burst must be a whole number, not 1.5"),
    ("provider:\n  burst: many", 4, "provider.burst must be a whole number, not 'many'"),
    ("provider:\n  requests_per_second: 0", 4, "provider.requests_per_second must be above 0, not 0"),
    ("provider:\n  requests_per_second: .inf", 4, "provider.requests_per_second must be a finite number"),
    ("provider:\n  verify_task_id: perhaps", 4, "provider.verify_task_id must be true or false, not 'perhaps'"),
    ("provider:\n  dialect: suno", 4, "provider.dialect must be gateway or luma, not 'suno'"),
    ("provider:\n  dialect: luma\n  batch_size: 5", 5, "provider.batch_size must not be set with the attributes."),
    ("provider:\n  batch_size: 0", 4, "provider.batch_size must be a whole number of at least 1, or auto, not 0"),
    ("provider:\n  batch_size: all", 4, "provider.batch_size must be a whole number of at least 1, or auto, not 'all'"),
    ("provider:\n  token: [a]", 4, "provider.token must be text"),
    ("provider:\n  token: ''", 4, "provider.token: the token"),
    ("data_url: ''", 3, "data_url must not be empty"),
    ("videos:\n  bucket: No_Bucket", 4, "videos.bucket: 'No_Bucket' is no bucket's name"),
    ("videos:\n  artifacts: [video, film]", 4, "videos.artifacts[1] must be video, video_raw, thumbnail or last_frame"),
    ("videos:\n  artifacts: video", 4, "videos.artifacts must be a list, not 'video'"),
    ("videos:\n  link_preference: [best]", 4, "videos.link_preference[0] must be download_url, url or unwatermarked"),
    ("videos:\n  object_tags: [team]", 4, "videos.object_tags must be a mapping of names to values"),
    ("videos:\n  key_template: '{artifact}'", 4, "videos.key_template:"),
    ("videos:\n  server_side_encryption: des", 4, "videos.server_side_encryption must be AES256, aws:kms or"),
    ("videos:\n  sse_kms_key_id: a", 4, "videos.sse_kms_key_id must be set only where attributes.videos.server_side"),
    ("videos:\n  max_video_bytes: 200000000000", 3, "videos.part_size_bytes must be at least 20000000"),
    ("videos:\n  orphans_older_than_hours: 0.5", 4, "videos.orphans_older_than_hours must not be shorter than"),
    ("partitions:\n  frequency: yearly", 4, "partitions.frequency must be hourly, daily, weekly or monthly"),
    ("partitions:\n  start: 24.12.2024", 4, "partitions.start must be a date such as 2024-12-24"),
    ("partitions:\n  timezone: Europe/Berln", 4, "partitions.timezone: there is no time zone 'Europe/Berln'; did you"),
    ("source:\n  timezone: Mars/Base", 4, "source.timezone: there is no time zone 'Mars/Base'"),
    ("schedule:\n  cron: often", 4, "schedule.cron:"),
    ("schedule:\n  freshness_hours: -1", 4, "schedule.freshness_hours must be at least 0, not -1"),
    ("schedule:\n  freshness_hours: 0.001", 4, "schedule.freshness_hours must be 0 (never) or at least a minute"),
    ("checks:\n  max_failed_share: 50", 4, "checks.max_failed_share must be at most 1, not 50"),
    ("gallery:\n  page_size: 0", 4, "gallery.page_size must be at least 1"),
    ("gallery:\n  public_url: videos", 4, "gallery.public_url"),
    ("translation:\n  grup_name: a", 4, "translation.grup_name: there is no such setting"),
    ("translation:\n  key: '{{ nothing.at.all }}'", 3, "translation: 'nothing' not found in scope"),
    ("translation:\n  tags: {a: '{{ env.NOT_SET }}'}", 3, "translation: the environment variable NOT_SET is not set"),
    ("translation:\n  key: all_the_same", 3, "translation: the translation must give each of"),
    ("data_url: '{{ env.NOT_SET }}'", 3, "data_url: the environment variable NOT_SET is not set"),
    ("data_url: 's3://{{ env.NOT_SET }}/luma'", 3, "data_url: the environment variable NOT_SET is not set"),
    ("data_url: \"{{ env('NOT_SET') }}\"", 3, "data_url: the environment variable NOT_SET is not set"),
    ("source:\n  where: '{{ env.NOT_SET }}'", 4, "source.where: the environment variable NOT_SET is not set"),
    ("owners:\n- '{{ env.NOT_SET }}'", 3, "owners: the environment variable NOT_SET is not set"),
    ("provider:\n  burst: '{{ env.NOT_SET }}'", 4, "provider.burst: the environment variable NOT_SET is not set"),
    ("data_url: '{{ enf.X }}'", 3, "data_url: 'enf' is undefined"),
    ("data_url: '{{ env.X '", 3, "data_url: the template cannot be rendered"),
    ("data_url: '{{ 1 / 0 }}'", 3, "data_url: the template cannot be rendered: division by zero"),
    ("data_url: '{{ [][1] + {}[1] }}'", 3, "data_url: "),
    ("data_url: gs://lake/luma", 3, "data_url must be a folder, file:///folder or s3://bucket/prefix, not gs://"),
    ("data_url: s3://", 3, "data_url: names no bucket"),
    ("data_url: s3://lake?region=eu", 3, "data_url: takes no ? and no #"),
    ("data_url: s3://Not_A_Bucket/luma", 3, "data_url"),
    ("data_url: {env: ' '}", 3, "data_url must be text, not {'env': ' '}"),
    ("provider:\n  base_url: api.example.com", 4, "provider.base_url must be like https://host"),
    ("provider:\n  base_url: ftp://api.example.com", 4, "provider.base_url must be like https://host"),
    ("provider:\n  give_up_after_hours: 1e300", 4, "provider.give_up_after_hours must be at most 1000000"),
    ("schedule:\n  freshness_hours: 1e12", 4, "schedule.freshness_hours must be at most 1000000"),
    ("partitions:\n  start: 0001-01-01", 4, "partitions.start must be a date of 1970 or later"),
    ("key_prefix: a b", 3, "key_prefix must be letters, digits, underscores, dashes and dots between slashes"),
    ("key_prefix: [a/b]", 3, "key_prefix must be letters, digits, underscores, dashes and dots between slashes"),
    ("source:\n  asset: raw/a b", 4, "source.asset must be letters, digits, underscores, dashes and dots"),
    ("source:\n  asset: luma_videos", 4, "source.asset must be an asset that makes the source table, not luma_videos"),
]


@pytest.mark.parametrize(("attributes", "line", "said"), BAD, ids=[case[0].replace("\n", " ") for case in BAD])
def test_what_cannot_be_is_told_with_its_place(
    project: Project, attributes: str, line: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    file = project.component("eu", attributes)
    assert f"{file}:{line} attributes.{said}" in project.refusal()


def test_all_that_is_wrong_is_told_at_once(project: Project) -> None:
    file = project.component("eu", "nme: eu\nprovider:\n  burst: 0\nsource:\n  tabel: a\n  url: '{{ env.NOT_SET }}'")
    said = project.refusal()
    assert said.startswith("4 settings are wrong")
    assert [f"{file}:{line} " in said for line in (3, 5, 7, 8)] == [True] * 4


def test_the_value_of_a_secret_is_in_no_message(project: Project) -> None:
    provider = "provider:\n  token: ['geheim']\n  base_url: https://u:geheim@host"
    source = "source:\n  url: {a: geheim}\n  tabel: geheim"
    project.component("eu", f"data_url: s3://key:geheim@lake/luma\n{provider}\n{source}")
    assert "geheim" not in project.refusal()


@pytest.mark.parametrize(
    ("template", "set_to", "expected"),
    [
        ("{{ env.A_PREFIX }}", "eu", "eu"),
        ("{{ env.A_PREFIX }}", "1e5", "1e5"),
        ("{{ env.A_PREFIX }}", "007", "007"),
        ("{{ env.A_PREFIX }}", "None", "None"),
        ("{{ env.A_PREFIX }}", "", ""),
        ("a/{{ env.A_PREFIX }}", "eu", "a/eu"),
        ("{{ env.A_PREFIX or 'other' }}", None, "other"),
        ("{{ env('A_PREFIX', 'other') }}", None, "other"),
        ("{{ env.A_PREFIX | default('other') }}", None, "other"),
        ("{% if env.A_PREFIX %}a{% else %}b{% endif %}", None, "b"),
    ],
)
def test_a_template_gives_the_text_of_its_variable_or_its_default(
    template: str, set_to: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_PREFIX", raising=False)
    if set_to is not None:
        monkeypatch.setenv("A_PREFIX", set_to)
    component = LumaPipelineComponent.resolve_from_dict({"videos": {"prefix": template}})
    assert component.videos.prefix == expected


def test_numbers_lists_and_mappings_come_out_of_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_NUMBER", "7")
    monkeypatch.setenv("A_NAME", "customer")
    written = """
    provider: {burst: "{{ env.A_NUMBER }}", requests_per_second: "{{ env.A_NUMBER }}.5"}
    source: {columns: ["{{ env.A_NAME }}", prompt]}
    videos: {object_tags: {cost: "{{ env.A_NUMBER }}"}}
    """
    component = LumaPipelineComponent.resolve_from_yaml(written)
    assert (component.provider.burst, component.provider.requests_per_second) == (7, 7.5)
    assert (component.source.columns, component.videos.object_tags) == (["customer", "prompt"], {"cost": "7"})


@pytest.mark.parametrize("written", ["{{ env.MY_SECRET }}", "geheim-{{ 1 }}", "geheim", {"env": "MY_SECRET"}])
def test_secrets_are_in_nothing_that_dagster_keeps(
    project: Project, written: str | dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "geheim")
    value = json.dumps(written)
    project.component("eu", f"provider:\n  token: {value}\nsource:\n  url: {value}\n  table: generations")
    definitions = project.load()
    snapshot = str(RepositorySnap.from_def(definitions.get_repository_def()))
    assert "luma_provider" in snapshot
    assert "geheim" not in snapshot
    component = LumaPipelineComponent.resolve_from_dict({"provider": {"token": written}, "source": {"url": written}})
    assert "geheim" not in repr(component)


def test_a_variable_in_yaml_is_read_when_a_run_starts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EU_TOKEN", raising=False)
    project.component("eu", "provider:\n  token:\n    env: EU_TOKEN")
    provider = (project.load().resources or {})["luma_provider"]

    seen: list[str] = []

    @dg.op
    def look(luma_provider: LumaProvider) -> None:
        seen.append(luma_provider.token)

    @dg.job(resource_defs={"luma_provider": provider})
    def job() -> None:
        look()

    with pytest.raises(dg.DagsterInvalidConfigError, match='environment variable "EU_TOKEN" which is not set'):
        job.execute_in_process()
    monkeypatch.setenv("EU_TOKEN", "later")
    assert job.execute_in_process().success
    assert seen == ["later"]


def test_groups_that_are_empty_in_yaml_have_their_defaults(project: Project) -> None:
    project.component("eu", "name: eu\nprovider:\nvideos:\n  # bucket: my-videos\n")
    assert "eu_luma_job" in {job.name for job in project.load().resolve_all_job_defs()}


def test_a_missing_variable_is_told_with_what_it_is_for(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    project.component("eu", "source:\n  url:\n    env: EU_URL_THAT_IS_NOT_SET")
    project.load()
    assert "EU_URL_THAT_IS_NOT_SET (SQLAlchemy URL of the source database)" in caplog.text


# What `dg check yaml` and editors say: the JSON schema.

SCHEMA_SAYS = [
    ({"source": {"tabel": "a"}}, "Additional properties are not allowed ('tabel' was unexpected)"),
    ({"source": {"tabel": "a"}}, "'tabel' is not one of ['url', 'table'"),
    ({"source_table": "a"}, "'source.table (in place of source_table)' is a required property"),
    ({"provider": {"burst": 0}}, "0 is less than the minimum of 1"),
    ({"provider": {"burst": "many"}}, "'many' is not of type 'integer'"),
    ({"provider": {"batch_size": "all"}}, "'all' does not match '^auto$'"),
    ({"provider": {"batch_size": 0}}, "0 is less than the minimum of 1"),
    ({"partitions": {"frequency": "yearly"}}, "'yearly' is not one of ['hourly', 'daily', 'weekly', 'monthly']"),
    ({"partitions": "daily"}, "'daily' is not of type 'object', 'null'"),
    ({"videos": {"artifacts": ["film"]}}, "'film' is not one of ['video', 'video_raw', 'thumbnail', 'last_frame']"),
    ({"owners": "me"}, "'me' is not of type 'array'"),
    ({"checks": {"max_failed_share": 50}}, "50 is greater than the maximum of 1"),
    ({"provider": {"token": {"evn": "A"}}}, "Additional properties are not allowed ('evn' was unexpected)"),
    ({"translation": {"grup_name": "a"}}, "Additional properties are not allowed ('grup_name' was unexpected)"),
]


def schema_errors(attributes: Mapping[str, Any]) -> list[str]:
    schema = LumaPipelineComponent.get_model_cls().model_json_schema()  # type: ignore[union-attr]
    return [error.message for error in Draft202012Validator(schema).iter_errors(attributes)]


@pytest.mark.parametrize(("attributes", "said"), SCHEMA_SAYS)
def test_the_json_schema_explains_what_is_wrong(attributes: dict[str, Any], said: str) -> None:
    found = schema_errors(attributes)
    assert any(said in message for message in found), found


GOOD = """
name: eu
key_prefix: [a, b]
pool: null
provider: {token: {env: A}, burst: "{{ env.B }}", requests_per_second: 7, batch_size: auto}
source: "{{ shared_source }}"
partitions:
videos: {artifacts: [video, "{{ second }}"], object_tags: {team: video}}
translation: {group_name: "{{ asset }}", tags: {team: video}}
"""


def test_the_json_schema_takes_what_may_be_written() -> None:
    assert schema_errors(yaml.safe_load(GOOD)) == []
