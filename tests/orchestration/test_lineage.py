"""The lineage: the source table upstream, where the data lie, and what an asset downstream is told."""

# No postponed annotations in this module: Dagster reads those of assets as types.

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from luma_pipeline.orchestration.instance import UNNAMED, Instance
from luma_pipeline.orchestration.locations import Locations, source_spec
from luma_pipeline.orchestration.specs import asset_specs
from luma_pipeline.source.url import address_of
from tests.orchestration.instances import DAILY, EU, US, Site, beside
from tests.world import World

DAY = "2024-12-24"
AWS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in AWS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


# -- the source table -------------------------------------------------------------------------------------------------


def test_the_source_table_is_upstream_and_is_made_elsewhere(tmp_path: Path) -> None:
    graph = Site(EU, tmp_path).definitions().resolve_asset_graph()
    source = dg.AssetKey(["eu", "eu_generations"])
    tasks = graph.get(dg.AssetKey(["eu", "luma_tasks"]))
    assert tasks.parent_keys == {source}
    node = graph.get(source)
    assert (node.is_external, node.is_materializable, node.automation_condition) == (True, False, None)
    lineage = tasks.metadata["dagster/column_lineage"]
    assert lineage.deps_by_column["submitted_at"] == [dg.TableColumnDep(source, "submitted_at")]


URLS = [
    (
        "postgresql+psycopg://me:pa55@db.example:5432/app?sslkey=k",
        "postgres",
        "postgresql://db.example:5432/app",
        "app",
    ),
    ("mysql+pymysql://me:pa55@db/shop", "mysql", "mysql://db/shop", "shop"),
    ("sqlite:////srv/source.db", "sqlite", "sqlite:////srv/source.db", None),
    ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dpa55", "sqlserver", "mssql://", None),
    ("mssql+pyodbc://me:pa55@dsn/db;PWD=pa55", "sqlserver", "mssql://", None),
    ("postgresql://me:pa55@[::1]:5433/app", "postgres", "postgresql://[::1]:5433/app", "app"),
    ("snowflake://me:pa55@account/db/schema?warehouse=w", "snowflake", "snowflake://account/db/schema", "db.schema"),
    ("crate://me:pa55@host", "sql", "crate://host", None),
]


@pytest.mark.parametrize(("url", "kind", "uri", "database"), URLS, ids=[case[0].partition(":")[0] for case in URLS])
def test_the_source_tells_its_database_and_no_secret(url: str, kind: str, uri: str, database: str | None) -> None:
    spec = source_spec(UNNAMED, Locations(source_url=url, source_table="app.generations"), group="luma")
    assert spec is not None
    assert spec.key == dg.AssetKey(["app", "generations"])
    assert spec.kinds == {kind, "table"}
    assert spec.metadata["dagster/uri"] == uri
    table = f"{database}.app.generations" if database else "app.generations"
    assert spec.metadata["dagster/table_name"] == table
    assert "pa55" not in repr(spec)
    assert "me:" not in repr(spec)


@pytest.mark.parametrize("url", ["postgresql://me:p@ss@host/db", "no url", "postgresql://me:pa/55@host/db@x"])
def test_a_url_that_cannot_be_read_is_not_shown(url: str) -> None:
    found = address_of(url)
    assert found is None or found.uri == "postgresql://"
    assert source_spec(UNNAMED, Locations(source_url=url, source_table="t"), group="luma") is not None


TABLES = [
    ("generations", ["generations"]),
    ("app.generations", ["app", "generations"]),
    ("Mes tâches-2024.é", ["Mes_t_ches-2024"]),
    ("..", ["luma_source"]),
]


@pytest.mark.parametrize(("table", "key"), TABLES)
def test_the_key_of_the_source_is_the_tables_name_below_the_prefix(tmp_path: Path, table: str, key: list[str]) -> None:
    for instance in (UNNAMED, EU):
        graph = Site(instance, tmp_path, table=table).definitions().resolve_asset_graph()
        [source] = graph.get(instance.asset_key("luma_tasks")).parent_keys
        assert source.path == [*instance.key_prefix, *key]


def test_a_table_that_is_not_known_before_a_run_is_upstream_all_the_same() -> None:
    source = source_spec(EU, Locations(), group="luma")
    assert source is not None
    assert (source.key.path, source.kinds, dict(source.metadata)) == (["eu", "luma_source"], {"sql", "table"}, {})


def test_an_asset_of_the_users_own_may_be_the_source_also_of_two_instances(tmp_path: Path) -> None:
    @dg.asset
    def generations() -> None: ...

    key = dg.AssetKey("generations")
    sites = [Site(instance, tmp_path / instance.name, source_asset=key) for instance in (EU, US)]
    graph = beside(*sites, generations).resolve_asset_graph()
    assert graph.get(key).child_keys == {dg.AssetKey(["eu", "luma_tasks"]), dg.AssetKey(["us", "luma_tasks"])}
    assert graph.get(key).is_materializable
    assert {node.key for node in graph.asset_nodes if not node.is_materializable} == set()


def test_two_instances_share_a_table_that_no_asset_in_the_deployment_makes(tmp_path: Path) -> None:
    key = dg.AssetKey(["app", "generations"])
    graph = beside(*(Site(it, tmp_path / it.name, source_asset=key) for it in (EU, US))).resolve_asset_graph()
    assert graph.get(key).child_keys == {dg.AssetKey(["eu", "luma_tasks"]), dg.AssetKey(["us", "luma_tasks"])}
    assert not graph.get(key).is_materializable


# -- where the data lie -----------------------------------------------------------------------------------------------


def specs(**locations: Any) -> dict[str, dg.AssetSpec]:
    instance: Instance = locations.pop("instance", UNNAMED)
    found = Locations(**locations)
    return asset_specs("luma", [], DAILY, freshness=None, instance=instance, locations=found)


def test_each_dataset_says_what_it_is_and_where_it_lies() -> None:
    found = specs(instance=EU, data_url="s3://lake/luma/", bucket="videos", prefix="/eu/clips/")
    assert {name: spec.metadata["dagster/table_name"] for name, spec in found.items()} == {
        "luma_tasks": "eu.luma_tasks",
        "luma_generations": "eu.luma_generations",
        "luma_videos": "eu.luma_videos",
    }
    assert {name: spec.metadata["dagster/uri"] for name, spec in found.items()} == {
        "luma_tasks": "s3://lake/luma/luma_tasks",
        "luma_generations": "s3://lake/luma/luma_generations",
        "luma_videos": "s3://videos/eu/clips/",
    }
    assert found["luma_videos"].metadata["manifest"] == dg.MetadataValue.path("s3://lake/luma/luma_videos")
    assert {name: (spec.kinds, spec.tags["dagster/storage_kind"]) for name, spec in found.items()} == {
        "luma_tasks": ({"s3", "parquet"}, "s3"),
        "luma_generations": ({"s3", "parquet"}, "s3"),
        "luma_videos": ({"s3", "parquet"}, "s3"),
    }
    assert specs(data_url="/srv/data")["luma_tasks"].kinds == {"file", "parquet"}


def test_a_root_that_holds_keys_of_an_account_is_not_shown() -> None:
    for spec in specs(data_url="s3://key:secret@lake/luma", bucket="videos").values():
        assert "secret" not in repr(spec)


def test_what_is_not_known_before_a_run_is_not_shown() -> None:
    for name, spec in specs().items():
        assert spec.metadata["dagster/table_name"] == name
        assert not {"dagster/uri", "manifest", "objects"} & spec.metadata.keys()


CONSOLE = "https://s3.console.aws.amazon.com/s3/buckets/videos?prefix="
LINKS: list[tuple[str, dict[str, str], str | None]] = [
    ("", {}, CONSOLE),
    ("a b/c", {"AWS_REGION": "eu-central-1"}, f"{CONSOLE}a%20b/c/"),
    ("x", {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9/"}, "http://127.0.0.1:9/videos/x/"),
    ("x", {"AWS_ENDPOINT_URL": "https://me:secret@minio.example/s3?key=secret"}, "https://minio.example/s3/videos/x/"),
    ("x", {"AWS_ENDPOINT_URL_S3": "not a url"}, CONSOLE + "x/"),
    ("x", {"AWS_DEFAULT_REGION": "cn-north-1"}, None),
    ("x", {"AWS_PROFILE": "store"}, "https://r2.example/videos/x/"),
]
PROFILE = "[profile store]\nservices = r2\nregion = auto\n[services r2]\ns3 =\n  endpoint_url = https://r2.example\n"


@pytest.mark.parametrize(("prefix", "environment", "expected"), LINKS)
def test_the_objects_are_a_link_into_the_console_or_the_stores_own_address(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str, environment: dict[str, str], expected: str | None
) -> None:
    (tmp_path / "config").write_text(PROFILE)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    metadata = specs(bucket="videos", prefix=prefix)["luma_videos"].metadata
    assert metadata.get("objects") == (dg.MetadataValue.url(expected) if expected else None)


# -- assets downstream ------------------------------------------------------------------------------------------------


def test_an_asset_downstream_that_is_eager_is_asked_for_when_its_partition_is_done(
    tmp_path: Path, world: World
) -> None:
    """The materializations are logged by the op; an automation condition sees them as those that Dagster makes."""

    @dg.asset(deps=[["eu", "luma_videos"]], partitions_def=DAILY, automation_condition=dg.AutomationCondition.eager())
    def report() -> None: ...

    site = Site(EU, tmp_path / "eu", world, more=[report])
    definitions = site.definitions()
    today = DAILY.get_last_partition_key()
    assert today is not None
    first = dg.evaluate_automation_conditions(definitions, world.instance)
    assert first.total_requested == 0
    site.submit(("a", f"{today} 00:00:00"))
    job = definitions.resolve_job_def("eu_luma_job")
    assert job.execute_in_process(instance=world.instance, partition_key=today).success
    second = dg.evaluate_automation_conditions(definitions, world.instance, cursor=first.cursor)
    assert second.get_requested_partitions(dg.AssetKey("report")) == {today}
    third = dg.evaluate_automation_conditions(definitions, world.instance, cursor=second.cursor)
    assert third.total_requested == 0


CONDITIONS = {
    "eager": dg.AutomationCondition.eager(),
    "on_missing": dg.AutomationCondition.on_missing(),
    "on_cron": dg.AutomationCondition.on_cron("0 * * * *"),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_on_luma_tasks_does_not_wait_for_the_source_that_nothing_materializes(
    tmp_path: Path, condition: str
) -> None:
    def automated(name: str, spec: dg.AssetSpec) -> dg.AssetSpec:
        chosen = CONDITIONS[condition] if name == "luma_tasks" else None
        return spec.replace_attributes(automation_condition=chosen)

    definitions = Site(EU, tmp_path / "eu", translate=automated).definitions()
    with dg.DagsterInstance.ephemeral() as instance:
        now = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
        found = dg.evaluate_automation_conditions(definitions, instance, evaluation_time=now)
        now += timedelta(days=1)
        found = dg.evaluate_automation_conditions(definitions, instance, cursor=found.cursor, evaluation_time=now)
        assert found.get_requested_partitions(EU.asset_key("luma_tasks")) == {"2026-11-21"}
