"""Two instances in one deployment: each has names of its own, and sees only its own runs and data."""

# No postponed annotations in this module: Dagster reads those of assets as types.

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext, DefinitionsLoadType
from dagster._core.definitions.repository_definition.repository_definition import RepositoryLoadData
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from luma_pipeline.dataset import Dataset
from luma_pipeline.engine.partition import mark_of
from luma_pipeline.orchestration.assets import LumaRun
from luma_pipeline.orchestration.instance import UNNAMED, Instance
from luma_pipeline.orchestration.resources.dataset import LumaDataset
from tests.orchestration.instances import DAILY, EU, US, Site, beside
from tests.world import World, failure, materialized

DAY = "2024-12-24"
ASSETS = ("luma_tasks", "luma_generations", "luma_videos")
_kept: list[Any] = []
"""Dagster keeps the storage of the last instance for the process, and the storage a weak reference to the instance."""


def run(definitions: dg.Definitions, world: World, *only: str, **how: Any) -> dg.ExecuteInProcessResult:
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=world.instance,
        partition_key=DAY,
        asset_selection=[dg.AssetKey.from_user_string(key) for key in only] or None,
        raise_on_error=False,
        **how,
    )


@pytest.fixture
def eu(tmp_path: Path, world: World) -> Site:
    return Site(EU, tmp_path / "eu", world)


@pytest.fixture
def us(tmp_path: Path, world: World) -> Site:
    return Site(US, tmp_path / "us", world)


# -- names ------------------------------------------------------------------------------------------------------------


def test_two_instances_and_the_unnamed_one_load_in_one_deployment(tmp_path: Path) -> None:
    sites = [Site(instance, tmp_path / (instance.name or "plain")) for instance in (EU, US, UNNAMED)]
    repository = dg.Definitions.merge(*(site.definitions() for site in sites)).get_repository_def()
    assert set(repository.job_names) >= {"eu_luma_job", "us_luma_job", "luma_job"}
    keys = {key.to_user_string() for key in repository.asset_graph.materializable_asset_keys}
    assert keys == {f"{prefix}{asset}" for prefix in ("eu/", "us/", "") for asset in ASSETS}
    checks = {key.asset_key.to_user_string() for key in repository.asset_graph.asset_check_keys}
    assert checks == {f"{prefix}{asset}" for prefix in ("eu/", "us/", "") for asset in ASSETS[1:]}
    for site in sites:
        selected = repository.get_job(site.instance.job_name).asset_layer.executable_asset_keys
        assert selected == {site.instance.asset_key(asset) for asset in ASSETS}


@pytest.mark.parametrize("pool", [None, "one_at_a_time"])
def test_the_pool_is_the_instances_and_may_be_none(tmp_path: Path, pool: str | None) -> None:
    definitions = Site(replace(EU, pool=pool), tmp_path).definitions()
    [op] = {definition.op for definition in definitions.assets or () if isinstance(definition, dg.AssetsDefinition)}
    assert op.pool == pool


# -- runs -------------------------------------------------------------------------------------------------------------


def test_two_instances_work_in_one_run_each_on_its_own_data(eu: Site, us: Site, world: World) -> None:
    eu.submit(("a", f"{DAY} 01:00:00"), ("b", f"{DAY} 02:00:00"))
    us.submit(("c", f"{DAY} 01:00:00"))
    result = run(beside(eu, us), world)
    assert result.success
    assert materialized(world, result.run_id) == sorted((f"{i}/{asset}", DAY) for i in ("eu", "us") for asset in ASSETS)
    for asset in ASSETS:
        assert set(eu.rows(asset)) == {"a", "b"}
        assert set(us.rows(asset)) == {"c"}
    assert {key.split("/")[0] for key in world.object_keys()} == {"eu", "us"}
    found = world.instance.get_run_by_id(result.run_id)
    assert found is not None
    assert {found.tags["eu_luma/tasks_asked"], found.tags["us_luma/tasks_asked"]} == {"2", "1"}
    records = world.instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    events = [record.event_log_entry.dagster_event for record in records.records]
    evaluated = [event.asset_check_evaluation_data for event in events if event is not None]
    assert {evaluation.asset_key for evaluation in evaluated} == {
        site.instance.asset_key(asset) for site in (eu, us) for asset in ASSETS[1:]
    }


def test_the_job_of_an_instance_runs_that_instance_alone(eu: Site, us: Site, world: World) -> None:
    eu.submit(("a", f"{DAY} 01:00:00"))
    us.submit(("c", f"{DAY} 01:00:00"))
    job = beside(eu, us).resolve_job_def("eu_luma_job")
    assert job.execute_in_process(instance=world.instance, partition_key=DAY).success
    assert (eu.rows("luma_videos"), us.rows("luma_videos")) == (["a"], [])


def test_a_subclass_may_do_something_around_the_work(eu: Site, world: World) -> None:
    seen: list[str] = []

    def execute(context: dg.AssetExecutionContext, run: LumaRun) -> Iterator[Any]:
        assert context.partition_key == DAY
        seen.extend([f"before {run.selected}", run.source.table, run.bucket.prefix, run.dataset.url])
        yield from run.execute()
        seen.append("after")

    eu.execute = execute
    eu.submit(("a", f"{DAY} 01:00:00"))
    assert run(eu.definitions(), world).success
    assert seen == [f"before {list(ASSETS)}", "eu_generations", "eu", str(eu.root), "after"]
    assert eu.rows("luma_videos") == ["a"]


# -- translated -------------------------------------------------------------------------------------------------------


def translated(name: str, spec: dg.AssetSpec) -> dg.AssetSpec:
    """Other keys, and all else that a spec may say."""
    return spec.replace_attributes(
        key=dg.AssetKey(["lake", name.removeprefix("luma_")]),
        deps=["calendar"],
        group_name="video",
        tags={"team": "ml", **spec.tags},
        owners=["team:ml"],
    ).merge_attributes(metadata={"cost_center": 7, "dagster/table_name": f"lake.{name}"})


def test_a_translation_holds_wherever_the_assets_are_named(eu: Site, world: World) -> None:
    seen: list[Any] = []

    @dg.asset(partitions_def=DAILY, ins={"videos": dg.AssetIn(key=["lake", "videos"])})
    def report(videos: pd.DataFrame) -> None:
        seen.extend(videos["task_id"])

    eu.translate, eu.more = translated, [report]
    eu.submit(("a", f"{DAY} 01:00:00"))
    definitions = eu.definitions()
    graph = definitions.resolve_asset_graph()
    lake = {name: dg.AssetKey(["lake", name]) for name in ("tasks", "generations", "videos")}
    parents = {key: graph.get(key).parent_keys - {dg.AssetKey("calendar")} for key in lake.values()}
    assert parents == {
        lake["tasks"]: {dg.AssetKey(["eu", "eu_generations"])},
        lake["generations"]: {lake["tasks"]},
        lake["videos"]: {lake["generations"]},
    }
    node = graph.get(lake["videos"])
    assert (node.group_name, node.owners, node.tags["team"], node.metadata["cost_center"]) == (
        "video",
        ["team:ml"],
        "ml",
        7,
    )
    assert node.metadata["dagster/table_name"] == "lake.luma_videos"
    lineage = node.metadata["dagster/column_lineage"]
    assert lineage.deps_by_column["task_id"] == [dg.TableColumnDep(lake["generations"], "task_id")]
    assert dg.AssetKey("calendar") in node.parent_keys
    assert {key.asset_key for key in graph.asset_check_keys} == {lake["generations"], lake["videos"]}

    result = run(definitions, world)
    assert result.success, failure(result)
    assert materialized(world, result.run_id) == [
        *((f"lake/{name}", DAY) for name in sorted(lake)),
        ("report", DAY),
    ]
    assert eu.rows("luma_videos") == seen == ["a"]
    assert not (eu.root / "lake").exists()


BAD: list[tuple[Callable[[str, dg.AssetSpec], dg.AssetSpec], str]] = [
    (lambda _, spec: spec.replace_attributes(key="all"), "a key of its own, not all, all, all"),
    (lambda _, spec: spec.replace_attributes(partitions_def=None), "must not change the partitions of luma_tasks"),
]


@pytest.mark.parametrize(("translate", "said"), BAD, ids=["one key", "partitions"])
def test_a_translation_that_cannot_be_is_told(tmp_path: Path, translate: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Site(EU, tmp_path, translate=translate).definitions()


# -- assets downstream ------------------------------------------------------------------------------------------------


def test_an_asset_downstream_reads_each_instance_through_its_own_io_manager(eu: Site, us: Site, world: World) -> None:
    seen: dict[str, list[str]] = {}

    @dg.asset(
        key=["eu", "both"],
        partitions_def=DAILY,
        io_manager_key="eu_luma_parquet",
        ins={"one": dg.AssetIn(key=["eu", "luma_videos"]), "other": dg.AssetIn(key=["us", "luma_videos"])},
    )
    def both(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
        seen.update(one=list(one["task_id"]), other=list(other["task_id"]))
        return pd.concat([one, other])[["task_id"]]

    eu.submit(("a", f"{DAY} 01:00:00"))
    us.submit(("c", f"{DAY} 01:00:00"))
    result = run(beside(eu, us, both), world)
    assert result.success, failure(result)
    assert seen == {"one": ["a"], "other": ["c"]}
    assert (eu.root / "eu" / "both" / f"date={DAY}" / "part-0.parquet").is_file()


@pytest.mark.parametrize("read", ["us/luma_videos", "luma_videos"])
def test_another_instances_asset_is_never_read_out_of_this_ones_data(
    tmp_path: Path, eu: Site, world: World, read: str
) -> None:
    """The IO manager of `eu` is asked for an asset that has a dataset's name and is another's."""
    other = Site(US if read.startswith("us/") else UNNAMED, tmp_path / "us", world)

    @dg.asset(
        partitions_def=DAILY,
        ins={"videos": dg.AssetIn(dg.AssetKey.from_user_string(read), input_manager_key="eu_luma_parquet")},
    )
    def report(videos: pd.DataFrame) -> None:
        raise AssertionError("it was read")

    eu.submit(("a", f"{DAY} 01:00:00"))
    other.submit(("c", f"{DAY} 01:00:00"))
    definitions = beside(eu, other, report)
    assert run(definitions, world, *(f"eu/{asset}" for asset in ASSETS)).success
    result = run(definitions, world, "report")
    assert not result.success
    reason = _reason(result)
    assert read in reason
    assert other.instance.io_manager_key in reason or "eu/luma_videos" in reason


@pytest.mark.parametrize("key", ["luma_videos", "luma_videos/summary", "_verdicts"])
def test_an_asset_downstream_is_not_written_where_a_dataset_lies(eu: Site, world: World, key: str) -> None:
    @dg.asset(key=key.split("/"), partitions_def=DAILY, io_manager_key="eu_luma_parquet")
    def mine() -> pd.DataFrame:
        return pd.DataFrame({"n": [1]})

    eu.more = [mine]
    result = run(eu.definitions(), world, key)
    assert not result.success
    assert "give an asset that is written by this one another key" in _reason(result)
    assert not (eu.root / key).exists()


def _reason(result: dg.ExecuteInProcessResult) -> str:
    [event] = [event for event in result.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None
    return (error.cause or error).message


# -- ticks ------------------------------------------------------------------------------------------------------------


class Ticks:
    """Schedule and sensor of a site in an instance of Dagster, as its daemon evaluates them in a code location."""

    def __init__(self, site: Site, definitions: dg.Definitions, instance: dg.DagsterInstance, location: str) -> None:
        self._site = site
        self._repository = definitions.get_repository_def()
        self._instance = instance
        self._location = location

    def schedule(self) -> list[str | None]:
        """The partitions that the schedule asks for."""
        context = dg.build_schedule_context(
            self._instance,
            scheduled_execution_time=datetime.now(UTC),
            repository_def=self._repository,
            resources={self._site.instance.dataset_key: LumaDataset(url=str(self._site.root))},
        )
        _kept.append(context.instance)
        loaded = RepositoryLoadData(code_location_name=self._location)
        with DefinitionsLoadContext.scoped(DefinitionsLoadContext(DefinitionsLoadType.RECONSTRUCTION, loaded)):
            tick = self._repository.get_schedule_def(self._site.instance.schedule_name).evaluate_tick(context)
        return [request.partition_key for request in tick.run_requests or ()]

    def sensor(self) -> list[str]:
        """The partitions with which the runs begin that the sensor asks for."""
        context = dg.SensorEvaluationContext(
            self._instance.get_ref(),
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=None,
            log_key=None,
            repository_name=None,
            repository_def=self._repository,
            instance=self._instance,
            code_location_origin=GrpcServerCodeLocationOrigin("127.0.0.1", 1, location_name=self._location),
        ).merge_resources({self._site.instance.dataset_key: LumaDataset(url=str(self._site.root))})
        _kept.append(context.instance)
        tick = self._repository.get_sensor_def(self._site.instance.sensor_name).evaluate_tick(context)
        return [request.tags["dagster/asset_partition_range_start"] for request in tick.run_requests or ()]


@pytest.fixture
def home(tmp_path: Path) -> dg.DagsterInstance:
    (tmp_path / "home").mkdir()
    instance = dg.DagsterInstance.local_temp(str(tmp_path / "home"))
    _kept.append(instance)
    return instance


def day(days_ago: int) -> str:
    return f"{datetime.now(UTC).date() - timedelta(days=days_ago)}"


def under_way(home: dg.DagsterInstance, instance: Instance, location: str, *, backfill: bool) -> None:
    """A run over all partitions of a week, by the job or by a backfill."""
    job = "__ASSET_JOB" if backfill else instance.job_name
    repository = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(location), "__repository__")
    run = dg.DagsterRun(
        job,
        run_id=str(uuid.uuid4()),
        tags={"dagster/asset_partition_range_start": day(7), "dagster/asset_partition_range_end": day(0)},
        asset_selection=frozenset(instance.asset_key(asset) for asset in ASSETS) if backfill else None,
        remote_job_origin=RemoteJobOrigin(repository, job),
        status=dg.DagsterRunStatus.STARTED,
    )
    home.add_run(run)


@pytest.mark.parametrize("backfill", [True, False], ids=["backfill", "job"])
@pytest.mark.parametrize(
    ("of", "location", "holds"),
    [(EU, "ours", True), (US, "ours", False), (EU, "another", False)],
    ids=["own", "of the other instance", "of another code location with the same names"],
)
def test_only_runs_of_the_instance_hold_its_ticks_back(
    tmp_path: Path, home: dg.DagsterInstance, backfill: bool, of: Instance, location: str, holds: bool
) -> None:
    sites = [Site(instance, tmp_path / instance.name) for instance in (EU, US)]
    definitions = beside(*sites)
    site = sites[0]
    Dataset(url=str(site.root)).marks("open").set(mark_of(day(2)))
    at = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    os.utime(site.root / "_open" / mark_of(day(2)), (at, at))
    ticks = Ticks(site, definitions, home, "ours")
    assert (ticks.schedule(), ticks.sensor()) == ([day(0)], [day(2)])
    under_way(home, of, location, backfill=backfill)
    assert (ticks.schedule(), ticks.sensor()) == (([], []) if holds else ([day(0)], [day(2)]))
