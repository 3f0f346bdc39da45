"""What this package leans on in Dagster without documentation to lean on: an upgrade fails here, not in production."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from pydantic import Field

from luma_pipeline.orchestration.outputs import already_logged

DAYS = ["2024-12-01", "2024-12-02", "2024-12-03"]
PARTITIONS = dg.DailyPartitionsDefinition(DAYS[0], end_date="2025-01-01")

FIRST, SECOND, DOWNSTREAM = dg.AssetKey("first"), dg.AssetKey("second"), dg.AssetKey("downstream")

MATERIALIZED, FAILED = AssetPartitionStatus.MATERIALIZED, AssetPartitionStatus.FAILED


class RecordingIOManager(dg.IOManager):
    """Stores nothing; remembers what it was asked for."""

    def __init__(self) -> None:
        self.stored: list[dg.AssetKey] = []
        self.loaded: list[Sequence[str]] = []

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        self.stored.append(context.asset_key)

    def load_input(self, context: dg.InputContext) -> int:
        self.loaded.append(list(context.asset_partition_keys))
        return len(self.loaded[-1])


class Options(dg.Config):
    fails: list[str] = Field(default_factory=list)
    skips: list[str] = Field(default_factory=list)
    version: str = "1"
    suppress: bool = True
    fails_once: bool = False


class World:
    """Two assets of one op that reports its partitions itself, an asset downstream, and an instance in memory."""

    def __init__(self) -> None:
        self.instance = dg.DagsterInstance.ephemeral()
        self.io_manager = RecordingIOManager()
        self.selected: list[dg.AssetKey] = []
        self.seen_while_running: list[str] = []
        specs = [
            dg.AssetSpec("first", partitions_def=PARTITIONS).with_io_manager_key("recording"),
            dg.AssetSpec("second", deps=["first"], partitions_def=PARTITIONS).with_io_manager_key("recording"),
        ]

        @dg.multi_asset(
            specs=specs, can_subset=True, retry_policy=dg.RetryPolicy(max_retries=1), check_specs=_checks("second")
        )
        def both(context: dg.AssetExecutionContext, config: Options) -> Iterator[Any]:
            self.selected = [spec.key for spec in specs if spec.key in context.selected_asset_keys]
            for day in context.partition_keys:
                if day in [*config.fails, *config.skips]:
                    continue
                for key in self.selected:
                    tags = {"dagster/data_version": f"{key.to_user_string()} {day} {config.version}"}
                    context.log_event(dg.AssetMaterialization(key, partition=day, metadata={"day": day}, tags=tags))
                    self.seen_while_running += self.partitions_with_event(key)[:1]
                for check in context.selected_asset_check_keys:
                    context.log_event(_evaluation(check, day, passed=True))
            if config.fails or (config.fails_once and context.retry_number == 0):
                raise dg.Failure("a partition failed", allow_retries=config.fails_once)
            for key in self.selected:
                yield already_logged(context, key) if config.suppress else dg.MaterializeResult(asset_key=key)

        @dg.asset(partitions_def=PARTITIONS, io_manager_key="recording")
        def downstream(second: int) -> None:
            assert second == len(self.io_manager.loaded[-1])

        self.definitions = dg.Definitions(assets=[both, downstream], resources={"recording": self.io_manager})

    def run(self, *selection: dg.AssetKey, days: Sequence[str] = DAYS, **options: Any) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(selection))
        config = {"ops": {"both": {"config": options}}} if options else {}
        return job.execute_in_process(
            instance=self.instance, tags=_range(days), run_config=config, raise_on_error=False
        )

    def partitions_with_event(self, key: dg.AssetKey) -> list[str]:
        """The partition of every materialization event, the newest first."""
        records = self.instance.fetch_materializations(key, limit=100).records
        return [record.partition_key or "" for record in records]

    def statuses(self, key: dg.AssetKey) -> list[AssetPartitionStatus | None]:
        found = self.instance.get_status_by_partition(key, DAYS, PARTITIONS)
        assert found is not None
        return [found[day] for day in DAYS]

    def stale_status(self, key: dg.AssetKey, day: str) -> str:
        graph = self.definitions.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return resolver.get_status(key, day).value


def _range(days: Sequence[str]) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]}


def _checks(asset: str, *, blocking: bool = False) -> list[dg.AssetCheckSpec]:
    return [dg.AssetCheckSpec("checked", asset=asset, blocking=blocking, partitions_def=PARTITIONS)]


def _evaluation(check: dg.AssetCheckKey, day: str, *, passed: bool, blocking: bool = False) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key, check_name=check.name, passed=passed, partition=day, metadata={}, blocking=blocking
    )


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    with made.instance:
        yield made


def _check_history(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> list[tuple[str | None, str]]:
    history = instance.event_log_storage.get_asset_check_execution_history(check, limit=100)
    return sorted((record.partition, record.status.value) for record in history)


def test_a_run_that_logged_its_partitions_adds_no_second_event_and_downstream_still_runs(world: World) -> None:
    assert world.run(FIRST, SECOND, DOWNSTREAM).success
    for key in (FIRST, SECOND):
        assert sorted(world.partitions_with_event(key)) == DAYS
        assert world.statuses(key) == [MATERIALIZED] * 3
    assert sorted(world.partitions_with_event(DOWNSTREAM)) == DAYS
    assert world.io_manager.loaded == [DAYS]
    assert world.io_manager.stored == []


def test_a_result_in_its_place_would_make_a_second_event(world: World) -> None:
    assert world.run(FIRST, SECOND, suppress=False).success
    assert sorted(world.partitions_with_event(FIRST)) == sorted([*DAYS, *DAYS])


def test_a_single_partition_and_a_part_of_the_assets_can_be_selected(world: World) -> None:
    assert world.run(SECOND, days=DAYS[1:2]).success
    assert world.selected == [SECOND]
    assert world.partitions_with_event(SECOND) == DAYS[1:2]
    assert world.partitions_with_event(FIRST) == []


def test_a_logged_event_is_stored_while_the_step_goes_on(world: World) -> None:
    world.run(FIRST)
    assert world.seen_while_running == DAYS


def test_a_failure_at_the_end_fails_only_the_partitions_without_an_event(world: World) -> None:
    assert not world.run(FIRST, SECOND, DOWNSTREAM, fails=[DAYS[1]]).success
    assert world.statuses(FIRST) == world.statuses(SECOND) == [MATERIALIZED, FAILED, MATERIALIZED]
    assert world.partitions_with_event(DOWNSTREAM) == []


def test_a_partition_left_out_of_a_run_that_succeeds_keeps_its_status(world: World) -> None:
    world.run(FIRST, days=DAYS[:2])
    assert world.run(FIRST, skips=DAYS[1:]).success
    assert world.statuses(FIRST) == [MATERIALIZED, MATERIALIZED, None]


def test_a_retried_step_runs_its_whole_body_again(world: World) -> None:
    assert world.run(FIRST, fails_once=True).success
    assert sorted(world.partitions_with_event(FIRST)) == sorted([*DAYS, *DAYS])


def test_a_data_version_tag_alone_tells_downstream_whether_data_changed(world: World) -> None:
    world.run(FIRST, SECOND, DOWNSTREAM)
    world.run(FIRST, SECOND)
    unchanged = world.stale_status(DOWNSTREAM, DAYS[0])
    world.run(FIRST, SECOND, days=DAYS[:1], version="2")
    changed = [world.stale_status(DOWNSTREAM, day) for day in DAYS]
    assert unchanged == "FRESH"
    assert changed == ["STALE", "FRESH", "FRESH"]
    assert world.stale_status(FIRST, DAYS[0]) == world.stale_status(SECOND, DAYS[0]) == "FRESH"


def test_a_check_logged_for_each_partition_needs_no_output_of_its_own(world: World) -> None:
    assert world.run(FIRST, SECOND).success
    history = _check_history(world.instance, dg.AssetCheckKey(SECOND, "checked"))
    assert history == [(day, "SUCCEEDED") for day in DAYS]


def test_a_blocking_check_stops_downstream_when_yielded_and_not_when_logged() -> None:
    """Of an evaluation that is only logged, Dagster keeps the record and ignores that it blocks."""
    ran: list[str] = []

    def definitions(*, yielded: bool) -> dg.Definitions:
        @dg.multi_asset(
            specs=[dg.AssetSpec("first", partitions_def=PARTITIONS)],
            can_subset=True,
            check_specs=_checks("first", blocking=True),
        )
        def checked(context: dg.AssetExecutionContext) -> Iterator[Any]:
            for day in context.partition_keys:
                context.log_event(dg.AssetMaterialization(FIRST, partition=day))
                for check in context.selected_asset_check_keys:
                    evaluation = _evaluation(check, day, passed=day != DAYS[1], blocking=True)
                    if yielded:
                        yield evaluation
                    else:
                        context.log_event(evaluation)
            yield already_logged(context, FIRST)

        @dg.asset(deps=["first"], partitions_def=PARTITIONS)
        def downstream() -> None:
            ran.append("yielded" if yielded else "logged")

        return dg.Definitions(assets=[checked, downstream])

    for yielded in (True, False):
        with dg.DagsterInstance.ephemeral() as instance:
            job = definitions(yielded=yielded).resolve_implicit_global_asset_job_def()
            result = job.execute_in_process(instance=instance, tags=_range(DAYS), raise_on_error=False)
            assert result.success is not yielded
            history = _check_history(instance, dg.AssetCheckKey(FIRST, "checked"))
            assert history == [(DAYS[0], "SUCCEEDED"), (DAYS[1], "FAILED"), (DAYS[2], "SUCCEEDED")]
            assert instance.get_materialized_partitions(FIRST) == set(DAYS)
    assert ran == ["logged"]


def test_a_plain_op_may_report_any_partitions_of_an_asset() -> None:
    """A run without partition tags: nothing is planned for a partition, so nothing turns red that was not touched."""
    scattered = [DAYS[0], DAYS[2]]

    @dg.op
    def revisit(context: dg.OpExecutionContext) -> None:
        for day in scattered:
            context.log_event(dg.AssetMaterialization(FIRST, partition=day))

    @dg.job
    def revisits() -> None:
        revisit()

    with dg.DagsterInstance.ephemeral() as instance:
        assert revisits.execute_in_process(instance=instance).success
        assert instance.get_status_by_partition(FIRST, DAYS, PARTITIONS) == {
            DAYS[0]: MATERIALIZED,
            DAYS[1]: None,
            DAYS[2]: MATERIALIZED,
        }
