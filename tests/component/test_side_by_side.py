"""Several components in one project: each has its own names and places, and two that would share one are told."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from luma_pipeline.component import LumaPipelineComponent
from tests.component.project import TYPE, Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


def attributes(plain: str, **others: str) -> str:
    """Settings of a component that stands beside others, as lines of YAML."""
    values = {"name": plain, "data_url": f"/data/{plain}", "videos": f"{{bucket: videos-{plain}}}"} | others
    return "\n".join(f"{key}: {value}" for key, value in values.items() if value)


def test_two_components_share_nothing(project: Project) -> None:
    for name in ("eu", "us"):
        project.component(name, attributes(name, gallery="{enabled: true}"))
    repository = project.load().get_repository_def()
    keys = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    names = ("luma_tasks", "luma_generations", "luma_videos", "luma_gallery", "luma_source")
    assert keys == {f"{name}/{asset}" for name in ("eu", "us") for asset in names}
    kinds = ("luma_schedule", "luma_audit_schedule")
    schedules = {f"{name}_{kind}" for name in ("eu", "us") for kind in kinds}
    assert {schedule.name for schedule in repository.schedule_defs} == schedules
    sensors = {sensor.name for sensor in repository.sensor_defs}
    assert sensors == {"eu_luma_open_tasks_sensor", "us_luma_open_tasks_sensor"}
    for name in ("eu", "us"):
        ops = [node.definition for node in repository.get_job(f"{name}_luma_job").nodes]
        assert {op.pool for op in ops if isinstance(op, dg.OpDefinition)} <= {f"{name}_luma_api", None}
    checks = {key.asset_key.path[0] for key in repository.asset_graph.asset_check_keys}
    assert checks == {"eu", "us"}


# What the second component has instead of settings of its own, and what is told of the first.
TOGETHER = [
    ({"name": "eu", "key_prefix": "b"}, "name: the name 'eu' is also that of"),
    ({"name": "", "key_prefix": "b"}, ""),
    ({"key_prefix": "eu"}, "key_prefix: the asset key eu/luma_tasks is also that of"),
    ({"key_prefix": "eu/us"}, ""),
    ({"translation": "{key: 'eu/{{ asset }}'}"}, "key_prefix: the asset key eu/luma_tasks is also that of"),
    ({"data_url": "/data/eu"}, "data_url: the data root /data/eu is also that of"),
    ({"data_url": "/data/eu/"}, "data_url: the data root /data/eu is also that of"),
    ({"data_url": "file:///data/eu"}, "data_url: the data root /data/eu is also that of"),
    ({"data_url": "/data/us/../eu"}, "data_url: the data root /data/eu is also that of"),
    ({"data_url": "/data/eu/us"}, "data_url: the data root /data/eu has inside it that of"),
    ({"data_url": "/data"}, "data_url: the data root /data/eu lies inside that of"),
    ({"data_url": "/data/eu-2"}, ""),
    ({"videos": "{bucket: videos-eu}"}, "videos.prefix: the place of the videos s3://videos-eu is also that of"),
    ({"videos": "{bucket: videos-eu, prefix: us}"}, "videos.prefix: the place of the videos s3://videos-eu has inside"),
]


@pytest.mark.parametrize(("second", "said"), TOGETHER, ids=[str(case[0]) for case in TOGETHER])
def test_what_two_components_would_share_is_told_with_both_places(
    project: Project, second: dict[str, str], said: str
) -> None:
    first = project.component("a", attributes("eu"))
    other = project.component("b", attributes("us", **second))
    if not said:
        assert project.load()
        return
    told = project.refusal()
    assert f"attributes.{said}" in told
    assert told.index(str(first)) < told.index(str(other))


def test_a_translation_that_gives_a_taken_key_is_told_as_the_place(project: Project) -> None:
    project.component("a", attributes("eu", translation="{key: 'us/{{ asset }}'}"))
    project.component("b", attributes("us", translation="{tags: {team: video}}"))
    told = project.refusal()
    assert "attributes.translation: the asset key us/luma_tasks is also that of" in told
    assert "attributes.key_prefix (us/luma_tasks)" in told


BUCKETS = [
    ("s3://lake/luma", "s3://lake/luma/", "is also that of"),
    ("s3://lake/luma", "s3://lake/luma/us", "that of"),
    ("s3://lake", "s3://lake/luma", "that of"),
    ("s3://lake/luma", "s3://lake/luma-us", ""),
    ("s3://lake/luma", "s3://sea/luma", ""),
    ("s3://lake/luma", "/lake/luma", ""),
]


@pytest.mark.parametrize(("first", "second", "said"), BUCKETS)
def test_roots_in_buckets_are_compared_part_by_part(project: Project, first: str, second: str, said: str) -> None:
    project.component("a", attributes("eu", data_url=first))
    project.component("b", attributes("us", data_url=second))
    if said:
        assert said in project.refusal()
    else:
        assert project.load()


def test_roots_out_of_variables_are_compared_by_their_values_where_they_are_known(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("eu", "us"):
        monkeypatch.delenv(f"{name}_ROOT", raising=False)
        project.component(name, attributes(name, data_url=f"{{env: {name}_ROOT}}"))
    assert project.load()
    monkeypatch.setenv("eu_ROOT", "s3://lake/luma")
    assert project.load()
    monkeypatch.setenv("us_ROOT", "s3://lake/luma/")
    assert "is also that of" in project.refusal()


def test_two_that_read_one_variable_share_a_root(project: Project) -> None:
    for name in ("eu", "us"):
        project.component(name, attributes(name, data_url=""))
    assert "the data root of the variable LUMA_DATA_URL is also that of" in project.refusal()


def test_two_without_a_name_are_told(project: Project) -> None:
    for name in ("eu", "us"):
        project.component(name, attributes("", data_url=f"/data/{name}", videos=f"{{bucket: videos-{name}}}"))
    assert "the name '' is also that of" in project.refusal()


def test_two_in_one_file_are_told_with_their_lines(project: Project) -> None:
    one = "type: {}\nattributes:\n  name: {}\n  data_url: /data\n  videos: {{bucket: videos-{}}}\n"
    file = project.write("both/defs.yaml", "---\n".join(one.format(TYPE, name, name) for name in ("eu", "us")))
    told = project.refusal()
    assert f"{file}:4 attributes.data_url" in told
    assert f"{file}:10 attributes.data_url" in told


def test_one_that_python_makes_is_compared_as_well(project: Project) -> None:
    project.component("eu", attributes("eu", data_url="/data"))
    project.write(
        "us.py",
        """
        import dagster as dg
        from luma_pipeline import LumaPipelineComponent

        @dg.component_instance
        def load(context):
            return LumaPipelineComponent(name="us", data_url="/data/us", videos={"bucket": "videos-us"})
        """,
    )
    told = project.refusal()
    assert f"{project.defs / 'eu' / 'defs.yaml'}:4 attributes.data_url" in told
    assert "us.py[load] data_url" in told


def test_a_broken_component_beside_it_is_told_by_itself(project: Project) -> None:
    project.component("eu", attributes("eu"))
    file = project.component("us", attributes("us", group="a b"))
    assert f"{file}:" in project.refusal()


@pytest.mark.parametrize(
    ("name", "settings", "pool"),
    [
        ("", {}, "luma_api"),
        ("eu", {}, "eu_luma_api"),
        ("eu", {"pool": "luma_api"}, "luma_api"),
        ("eu", {"pool": "my/pool"}, "my/pool"),
        ("eu", {"pool": None}, None),
    ],
)
def test_the_pool_is_the_components_own_another_or_none(
    name: str, settings: dict[str, str | None], pool: str | None
) -> None:
    component = LumaPipelineComponent(name=name, **settings)  # type: ignore[arg-type]
    [assets] = [one for one in component.definitions().assets or [] if isinstance(one, dg.AssetsDefinition)]
    assert assets.op.pool == pool


@pytest.mark.parametrize(
    ("text", "pool"), [("", None), ("none", None), ("None", None), ("mine", "mine"), (None, "luma_api")]
)
def test_the_pool_of_the_shipped_code_location_comes_from_its_variable(text: str | None, pool: str | None) -> None:
    component = LumaPipelineComponent.from_environment({} if text is None else {"LUMA_POOL": text})
    [assets] = [one for one in component.definitions().assets or [] if isinstance(one, dg.AssetsDefinition)]
    assert assets.op.pool == pool


def test_schedule_and_sensor_of_a_component_are_off_and_those_of_the_code_location_on() -> None:
    for component, status in (
        (LumaPipelineComponent(), "STOPPED"),
        (LumaPipelineComponent.from_environment({}), "RUNNING"),
        (LumaPipelineComponent.from_environment({"LUMA_SCHEDULE_ENABLED": "false"}), "STOPPED"),
        (LumaPipelineComponent.resolve_from_yaml("schedule: {enabled: true}"), "RUNNING"),
    ):
        repository = component.definitions().get_repository_def()
        found = {one.name: one.default_status.value for one in (*repository.schedule_defs, *repository.sensor_defs)}
        assert found.pop("luma_audit_schedule") == "STOPPED"
        assert set(found.values()) == {status}
