"""At home in a Dagster project: the registry, scaffolding, translation and subclasses."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster.components.component_scaffolding import scaffold_object
from dagster.components.core.package_entry import discover_entry_point_package_objects
from dagster_shared.serdes.objects import EnvRegistryKey

from luma_pipeline.component import LumaPipelineComponent, setting_rows
from tests.component.project import TYPE, Project
from tests.component.test_yaml import schema_errors
from tests.world import World


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)


def test_the_registry_has_the_component_alone() -> None:
    assert "luma_pipeline" in {point.value for point in entry_points(group="dagster_dg_cli.registry_modules")}
    ours = {key.name: found for key, found in discover_entry_point_package_objects().items() if "luma" in key.namespace}
    assert ours == {"LumaPipelineComponent": LumaPipelineComponent}
    assert EnvRegistryKey.from_typename(TYPE) in discover_entry_point_package_objects()


def test_the_client_is_importable_where_dagster_is_not_installed() -> None:
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("dagster", "dagster_shared", "pydantic"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import luma_pipeline, luma_pipeline.luma, luma_pipeline.engine.run
print(luma_pipeline.LumaClient.__name__)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "LumaClient\n"


# Scaffolding.


def scaffold(project: Project, name: str, kind: str = "yaml") -> Path:
    folder = project.defs / name
    scaffold_object(folder, TYPE, None, kind, project.root)
    return folder


@pytest.mark.parametrize("kind", ["yaml", "python"])
def test_scaffolded_components_load_as_they_are_side_by_side(project: Project, kind: str) -> None:
    for name in ("eu", "us-west", "2024"):
        scaffold(project, name, kind)
    jobs = {job.name for job in project.load().resolve_all_job_defs()}
    assert {"eu_luma_job", "us_west_luma_job", "luma_2024_luma_job"} <= jobs


def test_the_scaffolded_file_has_every_setting_with_its_words_and_its_default(project: Project) -> None:
    text = (scaffold(project, "eu") / "defs.yaml").read_text()
    flat = " ".join(line.strip().removeprefix("# ") for line in text.splitlines())
    for row in setting_rows():
        assert row.description in flat
    # With every default filled in it says the same.
    as_is, filled = (
        yaml.safe_load(written)["attributes"]
        for written in (text, re.sub(r"^( +)# ([a-z]\w*: )", r"\1\2", text, flags=re.MULTILINE))
    )
    assert schema_errors(as_is) == schema_errors(filled) == []
    one, other = (LumaPipelineComponent.resolve_from_dict(attributes) for attributes in (as_is, filled))
    of_the_name = {"pool", "key_prefix"}
    assert one.model_dump(exclude=of_the_name) == other.model_dump(exclude=of_the_name)
    assert words_of_snapshot(one) == words_of_snapshot(other)
    groups = {name: settings for name, settings in filled.items() if isinstance(settings, dict)}
    written = {f"{group}.{key}" for group, settings in groups.items() for key in settings}
    assert {row.path for row in setting_rows() if "." in row.path} <= written


def words_of_snapshot(component: LumaPipelineComponent) -> list[str]:
    """What Dagster keeps of the definitions; some parts stand in another order at each load."""
    return sorted(re.findall(r"[\w./:]+", str(RepositorySnap.from_def(component.definitions().get_repository_def()))))


# Translation.


def test_translation_in_yaml_changes_what_dagster_is_told(project: Project) -> None:
    project.component(
        "eu",
        """
        name: eu
        translation:
          key: "raw/{{ asset }}_eu"
          group_name: "{{ spec.group_name }}_eu"
          tags: {team: video}
          description: "Of {{ data }}."
        """,
    )
    graph = project.load().get_repository_def().asset_graph
    node = graph.get(dg.AssetKey(["raw", "luma_videos_eu"]))
    assert node.parent_keys == {dg.AssetKey(["raw", "luma_generations_eu"])}
    assert (node.group_name, node.tags["team"], node.description) == ("luma_eu", "video", "Of luma_videos.")


def test_dagsters_own_post_processing_works_on_the_assets(project: Project) -> None:
    file = project.component("eu", "name: eu")
    file.write_text(file.read_text() + "post_processing:\n  assets:\n  - attributes: {tags: {tier: prod}}\n")
    graph = project.load().get_repository_def().asset_graph
    assert graph.get(dg.AssetKey(["eu", "luma_videos"])).tags["tier"] == "prod"


# Subclasses.

MINE = """
from collections.abc import Iterable

import dagster as dg
from pydantic import Field

from luma_pipeline import LumaPipelineComponent


class MyComponent(LumaPipelineComponent):
    \"\"\"Mine.\"\"\"

    team: str = Field(description="Who is called.")
    levels: list[dg.ResolvedAssetKey] = []

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        return super().get_asset_spec(spec).merge_attributes(tags={"team": self.team}, deps=self.levels)

    def execute(self, context: dg.AssetExecutionContext, run) -> Iterable:
        context.log.info(f"before {self.team}: {run.selected}")
        yield from super().execute(context, run)
        context.log.info(f"after {self.team}")
"""


def test_a_subclass_is_used_in_yaml_by_its_own_type(project: Project) -> None:
    (project.defs.parent / "mine.py").write_text(MINE)
    kind = f"{project.module}.mine.MyComponent"
    project.component("eu", "name: eu\nteam: '{{ 1 }}video'\nlevels: [a/b]\nprovider:\n  burst: 3", kind)
    graph = project.load().get_repository_def().asset_graph
    node = graph.get(dg.AssetKey(["eu", "luma_videos"]))
    assert node.tags["team"] == "1video"
    assert dg.AssetKey(["a", "b"]) in node.parent_keys


@pytest.mark.parametrize(
    ("attributes", "line", "said"),
    [
        ("name: eu", 2, "team must be set"),
        ("team: [a]", 3, "team must be text"),
        ("team: '{{ env.NOT_SET }}'", 3, "team: the environment variable NOT_SET is not set"),
        ("team: 'a-{{ env.NOT_SET }}'", 3, "team: the environment variable NOT_SET is not set"),
        ("team: a\nlevls: [b]", 4, "levls: there is no such setting; did you mean levels?"),
        ("team: a\nprovider:\n  burst: 0", 5, "provider.burst must be at least 1"),
    ],
)
def test_what_is_wrong_with_a_subclass_is_told_with_its_place(
    project: Project, attributes: str, line: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    (project.defs.parent / "mine.py").write_text(MINE)
    file = project.component("eu", attributes, f"{project.module}.mine.MyComponent")
    assert f"{file}:{line} attributes.{said}" in project.refusal()


def test_a_subclass_does_something_before_and_after_a_run(world: World) -> None:
    told: list[str] = []

    class Mine(LumaPipelineComponent):
        def execute(self, context: dg.AssetExecutionContext, run: Any) -> Iterator[Any]:
            told.append(f"before {run.selected}")
            yield from super().execute(context, run)
            told.append("after")

    world.submit(("a", "2024-12-24 12:00:00"))
    mine = Mine(**world.component().model_dump(exclude_unset=True))
    job = mine.definitions().resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(partition_key="2024-12-24", instance=world.instance).success
    assert world.object_keys() == {"a/video.mp4"}
    assert told == ["before ['luma_tasks', 'luma_generations', 'luma_videos']", "after"]
