"""The IO manager: what assets downstream get, by the annotation of their parameter, and what they leave."""

# No postponed annotations in this module: Dagster reads those of assets as types.

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from luma_pipeline.dataset import Dataset
from luma_pipeline.orchestration.io_manager import LumaParquetIOManager
from luma_pipeline.orchestration.partitions import Frequency, folder_of, partitions_definition
from luma_pipeline.orchestration.resources.dataset import LumaDataset

DAILY = partitions_definition(Frequency.DAILY, "2024-12-01", "UTC")
WEEKLY = partitions_definition(Frequency.WEEKLY, "2024-12-01", "UTC")
DAYS = ["2024-12-23", "2024-12-24", "2024-12-25"]
WEEK = "2024-12-23"
SCHEMA = pa.schema([("task_id", pa.string()), ("n", pa.int64()), ("at", pa.timestamp("us", "UTC"))])


def things(partitions: dg.PartitionsDefinition[str] = DAILY) -> dg.AssetSpec:
    return dg.AssetSpec("things", partitions_def=partitions).with_io_manager_key("io_manager")


def write(root: Path, *keys: str, partitions: dg.PartitionsDefinition[str] = DAILY) -> None:
    dataset = Dataset(url=str(root))
    for number, key in enumerate(keys):
        rows = [{"task_id": f"{key}-{name}", "n": number} for name in ("a", "b")]
        dataset.partition("things", folder_of(partitions, key)).replace(SCHEMA, [pa.Table.from_pylist(rows, SCHEMA)])


def range_tags(first: str, last: str) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def run(
    root: Path, *assets: dg.AssetsDefinition, upstream: dg.PartitionsDefinition[str] = DAILY, **how: Any
) -> dg.ExecuteInProcessResult:
    """Materialize assets downstream of `things`."""
    return dg.materialize(
        [things(upstream), *assets],
        resources={"io_manager": LumaParquetIOManager(dataset=LumaDataset(url=str(root)))},
        selection=list(assets),
        raise_on_error=False,
        **how,
    )


def reason(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert error is not None
    return (error.cause or error).message


found: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_found() -> None:
    found.clear()


@dg.asset(partitions_def=DAILY)
def as_frame(things: pd.DataFrame) -> None:
    assert str(things["at"].dtype) == "datetime64[us, UTC]"
    found.extend(things["task_id"])


@dg.asset(partitions_def=DAILY)
def as_table(things: pa.Table) -> None:
    assert things.schema.equals(SCHEMA)
    found.extend(things["task_id"].to_pylist())


@dg.asset(partitions_def=DAILY)
def untyped(things):  # type: ignore[no-untyped-def]
    assert isinstance(things, pd.DataFrame)
    found.extend(things["task_id"])


@pytest.mark.parametrize("asset", [as_frame, as_table, untyped], ids=["pandas", "pyarrow", "no annotation"])
def test_one_partition_or_many_are_read_as_the_parameter_says(tmp_path: Path, asset: dg.AssetsDefinition) -> None:
    write(tmp_path, *DAYS)
    assert run(tmp_path, asset, partition_key=DAYS[1]).success
    assert found == [f"{DAYS[1]}-a", f"{DAYS[1]}-b"]
    found.clear()
    assert run(tmp_path, asset, tags=range_tags(DAYS[0], DAYS[-1])).success
    assert found == [f"{day}-{name}" for day in DAYS for name in "ab"]


@dg.asset(partitions_def=WEEKLY)
def strict(things: pd.DataFrame) -> None:
    found.append(len(things))


@dg.asset(partitions_def=WEEKLY, ins={"things": dg.AssetIn(metadata={"allow_missing_partitions": True})})
def lenient(things: pd.DataFrame) -> None:
    found.append(len(things))


def test_a_week_is_read_from_its_days_and_missing_ones_are_an_error_unless_allowed(tmp_path: Path) -> None:
    assert "things has not been written for" in reason(run(tmp_path, lenient, partition_key=WEEK))
    write(tmp_path, *DAYS)
    missing = reason(run(tmp_path, strict, partition_key=WEEK))
    assert "date=2024-12-26, date=2024-12-27" in missing
    assert "allow_missing_partitions" in missing
    assert run(tmp_path, lenient, partition_key=WEEK).success
    write(tmp_path, *[f"2024-12-{day}" for day in range(23, 30)])
    assert run(tmp_path, strict, partition_key=WEEK).success
    assert found == [6, 14]


def test_the_hour_that_comes_twice_is_two_partitions(tmp_path: Path) -> None:
    hours = partitions_definition(Frequency.HOURLY, "2024-10-26", "Europe/Berlin")
    keys = ["2024-10-27-01:00", "2024-10-27-02:00", "2024-10-27-02:00+0100", "2024-10-27-03:00"]
    write(tmp_path, *keys, partitions=hours)

    @dg.asset(partitions_def=hours)
    def downstream(things: pa.Table) -> None:
        found.extend(things["task_id"].to_pylist())

    assert run(tmp_path, downstream, upstream=hours, tags=range_tags(keys[0], keys[-1])).success
    assert found == [f"{key}-{name}" for key in keys for name in "ab"]


def test_an_unpartitioned_asset_reads_every_partition(tmp_path: Path) -> None:
    ended = dg.DailyPartitionsDefinition(DAYS[0], end_date="2024-12-26")
    write(tmp_path, *DAYS, partitions=ended)

    @dg.asset
    def everything(things: pa.Table) -> None:
        found.append(len(things))

    assert run(tmp_path, everything, upstream=ended).success
    assert found == [6]


def test_a_type_that_cannot_be_read_is_refused_with_those_that_can(tmp_path: Path) -> None:
    write(tmp_path, *DAYS)

    @dg.asset(partitions_def=DAILY)
    def as_list(things: list[str]) -> None:
        found.extend(things)

    assert "pandas.DataFrame or pyarrow.Table" in reason(run(tmp_path, as_list, partition_key=DAYS[0]))
    assert found == []


def test_what_an_asset_downstream_returns_is_written_beside_the_datasets_and_read_again(tmp_path: Path) -> None:
    write(tmp_path, *DAYS)

    @dg.asset(partitions_def=DAILY)
    def counts(things: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"rows": [len(things)], "first": [things["task_id"].min()]})

    @dg.asset(partitions_def=DAILY)
    def report(counts: pa.Table) -> None:
        found.extend(counts.to_pylist())

    result = run(tmp_path, counts, report, partition_key=DAYS[2])
    assert result.success
    assert (tmp_path / "counts" / f"date={DAYS[2]}" / "part-0.parquet").is_file()
    assert not (tmp_path / "report").exists()
    assert found == [{"rows": 2, "first": f"{DAYS[2]}-a"}]
    (event,) = result.asset_materializations_for_node("counts")
    assert event.metadata["dagster/partition_row_count"].value == 1
    many = run(tmp_path, counts, tags=range_tags(DAYS[0], DAYS[1]))
    assert "counts returned one table for 2 partitions" in reason(many)


def test_something_else_than_a_table_is_refused(tmp_path: Path) -> None:
    @dg.asset(partitions_def=DAILY)
    def number() -> int:
        return 7

    assert "number returned int: return a pandas.DataFrame or pyarrow.Table" in reason(
        run(tmp_path, number, partition_key=DAYS[0])
    )


def test_partitions_with_columns_of_different_versions_are_read_together(tmp_path: Path) -> None:
    older = pa.table({"task_id": ["old"], "n": [1]})
    Dataset(url=str(tmp_path)).partition("things", f"date={DAYS[0]}").replace(older.schema, [older])
    write(tmp_path, DAYS[1])

    @dg.asset(partitions_def=DAILY)
    def downstream(things: pa.Table) -> None:
        found.extend((row["task_id"], row["at"]) for row in things.to_pylist())

    assert run(tmp_path, downstream, tags=range_tags(DAYS[0], DAYS[1])).success
    assert found == [("old", None), (f"{DAYS[1]}-a", None), (f"{DAYS[1]}-b", None)]


ROWS = pd.DataFrame({"state": ["a", "b", "a"], "kind": ["x", "x", "y"], "n": [1, 2, 3]})
FRAMES: list[tuple[str, pd.DataFrame, dict[str, list[Any]]]] = [
    ("grouped", ROWS.groupby("state")[["n"]].sum(), {"state": ["a", "b"], "n": [4, 2]}),
    (
        "grouped by two",
        ROWS.groupby(["state", "kind"])[["n"]].sum(),
        {"state": ["a", "a", "b"], "kind": ["x", "y", "x"], "n": [1, 3, 2]},
    ),
    ("index that is a column as well", ROWS.set_index("n", drop=False)[["n"]], {"n": [1, 2, 3]}),
    ("numbered", ROWS[["n"]], {"n": [1, 2, 3]}),
    ("filtered", ROWS[ROWS["n"] > 1][["n"]], {"n": [2, 3]}),
    ("index without a name", ROWS[["n"]].set_axis(["r", "s", "t"]), {"n": [1, 2, 3]}),
    (
        "one level without a name",
        ROWS[["n"]].set_axis(pd.MultiIndex.from_arrays([["r", "s", "t"], [7, 8, 9]], names=[None, "m"])),
        {"level_0": ["r", "s", "t"], "m": [7, 8, 9], "n": [1, 2, 3]},
    ),
    ("empty", ROWS.groupby("state")[["n"]].sum().iloc[:0], {"state": [], "n": []}),
    ("names that are no text", pd.DataFrame([[7]], columns=[0]).rename_axis(2024), {"2024": [0], "0": [7]}),
    (
        "index that is a column as text",
        ROWS[["n"]].set_axis([0], axis=1).set_index(ROWS["n"].rename("0")),
        {"0": [1, 2, 3]},
    ),
]


@pytest.mark.parametrize(("frame", "columns"), [case[1:] for case in FRAMES], ids=[case[0] for case in FRAMES])
def test_a_named_index_is_written_as_columns(
    tmp_path: Path, frame: pd.DataFrame, columns: dict[str, list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    @dg.asset(partitions_def=DAILY, io_manager_key="io_manager")
    def summary() -> pd.DataFrame:
        return frame

    result = dg.materialize(
        [summary],
        resources={"io_manager": LumaParquetIOManager(dataset=LumaDataset(url=str(tmp_path)))},
        partition_key=DAYS[0],
    )
    assert result.success
    table = Dataset(url=str(tmp_path)).partition("summary", f"date={DAYS[0]}").read()
    assert table.to_pydict() == columns


RETURNED: list[tuple[Any, str]] = [
    (ROWS["n"], "returned Series: return a pandas.DataFrame or pyarrow.Table (a Series becomes one by"),
    (ROWS.set_index(pd.Index([7, 8, 9], name="n")), "an index and a column that are both called 'n' and differ"),
    (pd.DataFrame([[7, 8]], columns=["n", "n"]), "summary has more than one column called n"),
    (pd.DataFrame([[7, 8]], columns=[1, "1"]), "summary has more than one column called 1"),
    (ROWS.set_index(["state", "kind"]).rename_axis(["a", "a"]), "summary has more than one column called a"),
    (pa.table([[7], [8]], names=["n", "n"]), "summary has more than one column called n"),
]


@pytest.mark.parametrize(
    ("returned", "said"), RETURNED, ids=["series", "collision", "twice", "number and text", "levels", "Arrow"]
)
def test_what_cannot_be_written_is_told(tmp_path: Path, returned: Any, said: str) -> None:
    @dg.asset(partitions_def=DAILY, io_manager_key="io_manager")
    def summary() -> Any:
        return returned

    result = run(tmp_path, summary, partition_key=DAYS[0])
    assert said in reason(result)
