"""The snippets of the docs are true: each is run, loaded or read by what it is written for."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pytest
import yaml

from luma_pipeline.audit import AuditSettings, audit_dataset
from luma_pipeline.component import LumaPipelineComponent
from luma_pipeline.dataset.manifest import VIDEOS_SCHEMA
from luma_pipeline.forget import ForgetRequest, ForgetSettings, forget_tasks
from luma_pipeline.media import TransferConfig
from luma_pipeline.orchestration.audit import LumaAuditConfig
from luma_pipeline.orchestration.forget import ForgetConfig
from luma_pipeline.orchestration.run_config import LumaRunConfig
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.docs.pages import DOCS, PAGES, ROOT, Block, blocks
from tests.world import World, running_world

BLOCKS = blocks()
KINDS = {
    ("python", ""): "run, page by page, over a day that was materialized",
    ("python", "Polars"): "run where Polars is installed",
    ("python", "Spark"): "compiled",
    ("sql", "DuckDB"): "run",
    ("sql", "DuckDB, on S3"): "parsed",
    ("sql", "Athena"): "its columns are compared with those of the dataset",
    ("sql", "Athena query"): "parsed",
    ("sql", "Spark SQL"): "its columns are compared with those of the dataset",
    ("yaml", "run config"): "validated",
    ("yaml", "attributes"): "loaded",
    ("yaml", "dagster.yaml"): "an instance is made of it",
    ("bash", ""): "the commands and options are those that there are",
    ("text", ""): "no code",
}


def of(language: str, *titles: str) -> list[Any]:
    found = [block for block in BLOCKS if block.language == language and block.title in titles]
    assert found
    return [pytest.param(block, id=f"{block.page}-{number}") for number, block in enumerate(found)]


def is_defs_yaml(block: Block) -> bool:
    return block.language == "yaml" and block.title.endswith("defs.yaml")


def test_every_snippet_is_of_a_kind_that_is_tested() -> None:
    assert [block for block in BLOCKS if (block.language, block.title) not in KINDS and not is_defs_yaml(block)] == []


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with the day of the docs in its datasets, under `data`."""
    directory = tmp_path_factory.mktemp("lake")
    with (
        ObjectStore(directory / "s3") as store,
        pytest.MonkeyPatch.context() as patch,
        running_world(directory, store, "my-videos") as world,
    ):
        for name, value in world.environment().items():
            patch.setenv(name, value)
        patch.chdir(directory)
        world.submit(*((f"task-{number}", f"2024-12-24T0{number}:00:00Z") for number in range(5)))
        assert world.run("2024-12-24").success
        audit_dataset(AuditSettings(str(directory / "data"), TransferConfig(bucket="my-videos")))
        forget_tasks(ForgetSettings("data", TransferConfig(bucket=world.bucket)), ForgetRequest.of(["forgotten"]))
        yield world


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.language == "python"}))
def test_python_runs(lake: World, page: str) -> None:
    """In order, in one namespace, as somebody would who reads the page from top to bottom."""
    names: dict[str, Any] = {"__name__": page}
    for block in BLOCKS:
        if block.page == page and block.language == "python" and block.title != "Spark":
            exec(compile(block.text, f"{page} {block.title}", "exec"), names)


MADE = {
    "videos_by_type": ("2024-12-24", "date=2024-12-24"),
    "training_set": ("2024-12-24", "date=2024-12-24"),
    "prompts_of_the_week": ("2024-12-23", "week=2024-12-23"),
}


def test_the_assets_downstream_are_made_and_follow_by_themselves(lake: World) -> None:
    names: dict[str, Any] = {"__name__": "downstream"}
    for block in blocks(DOCS / "downstream.md"):
        exec(block.text, names)
    assets = [value for value in names.values() if isinstance(value, dg.AssetsDefinition)]
    assert len(assets) == 4
    defs = dg.Definitions.merge(lake.component().definitions(), dg.Definitions(assets=assets))
    with dg.DagsterInstance.ephemeral() as instance:
        tags = dict.fromkeys(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), "2024-12-24")
        job = defs.resolve_implicit_global_asset_job_def()
        ours = [dg.AssetKey(name) for name in ("luma_tasks", "luma_generations", "luma_videos")]
        cursor = dg.evaluate_automation_conditions(defs, instance).cursor
        assert job.execute_in_process(instance=instance, tags=tags, asset_selection=ours).success
        asked = dg.evaluate_automation_conditions(defs, instance, cursor=cursor)
        assert asked.get_requested_partitions(dg.AssetKey("training_set")) == {"2024-12-24"}
        there: list[Any] = [*(defs.assets or [])]
        for name, (key, _) in MADE.items():
            done = dg.materialize(
                there, selection=[name], partition_key=key, instance=instance, resources=defs.resources
            )
            assert done.success
    for name, (_, folder) in MADE.items():
        assert (lake.directory / "data" / name / folder / "part-0.parquet").exists()


@pytest.mark.parametrize("block", of("sql", "DuckDB"))
def test_sql_runs_in_duckdb(lake: World, block: Block) -> None:
    duckdb.sql(block.text)


@pytest.mark.parametrize("block", of("sql", "DuckDB, on S3", "Athena query"))
def test_sql_is_readable(block: Block) -> None:
    assert duckdb.extract_statements(block.text)


_TYPES = {
    "string": {pa.string(), pa.large_string()},
    "int": {pa.int32()},
    "bigint": {pa.int64()},
    "double": {pa.float64()},
    "boolean": {pa.bool_()},
    "timestamp": {pa.timestamp("us", "UTC")},
}


@pytest.mark.parametrize("block", of("sql", "Athena", "Spark SQL"))
def test_a_table_definition_has_the_columns_of_the_dataset(block: Block) -> None:
    columns = re.findall(r"^  `(\w+)` (\w+),?$", block.text, re.MULTILINE)
    if block.title == "Spark SQL":
        assert columns.pop() == ("date", "date")
    assert [name for name, _ in columns] == VIDEOS_SCHEMA.names
    for name, kind in columns:
        assert VIDEOS_SCHEMA.field(name).type in _TYPES[kind]
    # The rest of the statement is read by a parser of SQL, without what only these two know.
    plain = re.sub(r"\n(PARTITIONED|STORED|USING|LOCATION|TBLPROPERTIES).*", "", block.text, flags=re.DOTALL)
    assert duckdb.extract_statements(plain.replace("EXTERNAL ", "").replace("`", '"'))
    assert block.text.count("(") == block.text.count(")")
    assert block.text.count("'") % 2 == 0


@pytest.mark.parametrize("block", of("python", "Spark"))
def test_python_for_others_compiles(block: Block) -> None:
    compile(block.text, block.page, "exec")


@pytest.mark.parametrize("block", [block for block in BLOCKS if is_defs_yaml(block)], ids=lambda block: block.title)
def test_a_component_in_yaml_loads(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in re.findall(r"env\.(\w+)", block.text):
        monkeypatch.setenv(variable, "sqlite:///given.db")
    written = yaml.safe_load(block.text)
    assert written["type"] == "luma_pipeline.LumaPipelineComponent"
    component = LumaPipelineComponent.resolve_from_yaml(yaml.safe_dump(written["attributes"]))
    component.definitions().resolve_all_asset_keys()


@pytest.mark.parametrize("block", of("yaml", "attributes"))
def test_attributes_in_yaml_load(block: Block) -> None:
    LumaPipelineComponent.resolve_from_yaml(block.text).definitions()


@pytest.mark.parametrize("block", of("yaml", "run config"))
def test_a_run_config_is_one(block: Block) -> None:
    ((op, given),) = yaml.safe_load(block.text)["ops"].items()
    kinds: dict[str, type[dg.Config]] = {
        "luma_pipeline": LumaRunConfig,
        "luma_audit_op": LumaAuditConfig,
        "luma_forget_op": ForgetConfig,
    }
    kinds[op](**given["config"])


@pytest.mark.parametrize("block", of("yaml", "dagster.yaml"))
def test_an_instance_takes_its_settings(block: Block, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(block.text)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_monitoring_enabled
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 4


_BIN = Path(sys.executable).parent


def _commands(block: Block) -> Iterator[list[str]]:
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] not in {"pip", "export"}:
            yield words


@pytest.mark.parametrize("words", [words for block in BLOCKS if block.language == "bash" for words in _commands(block)])
def test_a_command_of_a_shell_is_one(words: list[str]) -> None:
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=DOCS.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    # Its options are those of its own help. What stands before the first option are its subcommands and arguments.
    subcommands = list(itertools.takewhile(re.compile(r"[a-z]+").fullmatch, words[1:]))
    done = subprocess.run([str(_BIN / words[0]), *subcommands, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    told = " ".join(done.stdout.split())
    assert [word for word in words if word.startswith("-") and word not in told] == []


def test_every_extra_that_a_page_installs_is_one() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in (ROOT / "README.md", *PAGES):
        named = {
            extra for found in re.findall(r"luma-pipeline\[([\w,]+)\]", page.read_text()) for extra in found.split(",")
        }
        assert sorted(named - set(extras)) == [], page.name
