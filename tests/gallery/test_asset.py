"""luma_gallery in Dagster: a second step of the run, which fails and is skipped by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from luma_pipeline.dataset import Dataset
from luma_pipeline.gallery import GallerySettings
from luma_pipeline.orchestration.gallery import GALLERY, build_gallery
from luma_pipeline.orchestration.instance import Instance
from tests.world import World, failure, materialized, metadata

DAY, NEXT_DAY = "2024-12-24", "2024-12-25"


def definitions(world: World, **settings: Any) -> dg.Definitions:
    return world.component(gallery_enabled=True, **settings).definitions()


def run(
    world: World,
    first: str,
    last: str = "",
    *,
    only: list[str] | None = None,
    config: dict[str, Any] | None = None,
    defs: dg.Definitions | None = None,
) -> dg.ExecuteInProcessResult:
    job = (defs or definitions(world)).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=world.instance,
        tags={
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last or first,
        },
        run_config={"ops": {"luma_pipeline": {"config": config}}} if config else None,
        asset_selection=[dg.AssetKey(name) for name in only] if only else None,
        raise_on_error=False,
    )


def test_a_run_writes_the_pages_of_its_partitions_after_the_videos(world: World) -> None:
    world.submit(("a", f"{DAY} 10:00:00"), ("b", f"{NEXT_DAY} 10:00:00"))
    result = run(world, DAY, NEXT_DAY)
    assert result.success, failure(result)
    events = materialized(world, result.run_id)
    assert [event for event in events if event[0] == GALLERY] == [(GALLERY, DAY), (GALLERY, NEXT_DAY)]
    shown = metadata(world, result.run_id, GALLERY, DAY)
    assert (shown["tasks"], shown["ready"], shown["pages_written"]) == (1, 1, 1)
    assert "failed" not in shown
    endpoint = f"{world.store.endpoint_url}/{world.bucket}/_gallery"
    assert shown["page"] == f"{endpoint}/date%3D{DAY}/index.html"
    assert shown["index"] == f"{endpoint}/index.html"
    assert {"_gallery/index.html", f"_gallery/date={DAY}/index.html"} <= world.object_keys()
    again = run(world, DAY, NEXT_DAY)
    assert metadata(world, again.run_id, GALLERY, DAY)["pages_written"] == 0


def test_the_link_leads_to_where_the_bucket_is_published(world: World) -> None:
    world.submit(("a", f"{DAY} 10:00:00"))
    defs = definitions(world, gallery_public_url="https://films.example.com/luma/", s3_prefix="gen")
    result = run(world, DAY, defs=defs)
    shown = metadata(world, result.run_id, GALLERY, DAY)
    assert shown["page"] == f"https://films.example.com/luma/_gallery/date%3D{DAY}/index.html"


def test_a_gallery_that_fails_leaves_the_videos_as_they_are(world: World) -> None:
    world.submit(("a", f"{DAY} 10:00:00"))
    place = f"arn:aws:s3:::{world.bucket}/_gallery/*"
    denied = {"Effect": "Deny", "Principal": "*", "Action": ["s3:PutObject"], "Resource": [place]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [denied]})
    world.store.client().put_bucket_policy(Bucket=world.bucket, Policy=policy)
    result = run(world, DAY)
    assert not result.success
    assert "the videos are not concerned" in failure(result)
    assert "s3:PutObject" in failure(result)
    events = materialized(world, result.run_id)
    assert ("luma_videos", DAY) in events
    assert (GALLERY, DAY) not in events
    world.store.client().delete_bucket_policy(Bucket=world.bucket)
    assert run(world, DAY, only=[GALLERY]).success


def test_a_missing_bucket_is_named(world: World) -> None:
    world.submit(("a", f"{DAY} 10:00:00"))
    assert run(world, DAY).success
    result = run(world, DAY, only=[GALLERY], defs=definitions(world, s3_bucket="no-such-bucket"))
    assert "LUMA_S3_BUCKET" in failure(result)


def test_a_partition_that_fails_does_not_stop_the_others(world: World) -> None:
    world.submit(("a", f"{DAY} 10:00:00"), ("b", f"{NEXT_DAY} 10:00:00"))
    assert run(world, DAY, NEXT_DAY, only=["luma_tasks", "luma_generations", "luma_videos"]).success
    damaged = Dataset(url=str(world.directory / "data")).partition("luma_videos", f"date={DAY}")
    with open(damaged.path, "wb") as file:
        file.write(b"no parquet")
    result = run(world, DAY, "2024-12-26", only=[GALLERY])
    assert not result.success
    assert materialized(world, result.run_id) == [(GALLERY, NEXT_DAY)]
    assert "2 of 3 partitions" in failure(result)
    assert "materialize luma_videos of 2024-12-26 first" in failure(result)


@pytest.mark.parametrize("passed", [True, False])
def test_a_blocking_check_that_fails_skips_the_gallery(world: World, passed: bool) -> None:
    world.submit(("a", f"{DAY} 10:00:00"))
    assert run(world, DAY, only=["luma_tasks", "luma_generations", "luma_videos"]).success
    own = world.component().definitions()
    partitions = dg.DailyPartitionsDefinition(DAY, end_offset=1)

    @dg.multi_asset(
        specs=[dg.AssetSpec("luma_videos", partitions_def=partitions)],
        check_specs=[dg.AssetCheckSpec("whole", asset="luma_videos", blocking=True)],
        backfill_policy=dg.BackfillPolicy.multi_run(50),
    )
    def luma_videos() -> Iterator[dg.MaterializeResult[Any]]:
        yield dg.MaterializeResult("luma_videos", check_results=[dg.AssetCheckResult(passed=passed)])

    gallery = build_gallery(Instance(), partitions, GallerySettings(enabled=True))
    defs = dg.Definitions(assets=[luma_videos, gallery], resources=own.resources)
    result = run(world, DAY, defs=defs)
    assert result.success is passed
    assert ((GALLERY, DAY) in materialized(world, result.run_id)) is passed


def test_a_dry_run_writes_no_page(world: World) -> None:
    world.submit(("a", f"{DAY} 10:00:00"))
    result = run(world, DAY, config={"dry_run": True})
    assert result.success, failure(result)
    assert materialized(world, result.run_id) == []
    assert world.object_keys() == set()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_job_has_the_gallery_where_it_is_enabled(world: World, enabled: bool) -> None:
    job = world.component(gallery_enabled=enabled).definitions().resolve_job_def("luma_job")
    assert (dg.AssetKey(GALLERY) in job.asset_layer.executable_asset_keys) == enabled


def test_the_gallery_of_a_named_instance_has_its_names() -> None:
    partitions = dg.DailyPartitionsDefinition(DAY)
    gallery = build_gallery(Instance("eu", ("lake", "eu")), partitions, GallerySettings(enabled=True), group="films")
    assert gallery.op.name == "eu_luma_gallery"
    (spec,) = gallery.specs
    assert spec.key == dg.AssetKey(["lake", "eu", GALLERY])
    assert [dep.asset_key for dep in spec.deps] == [dg.AssetKey(["lake", "eu", "luma_videos"])]
    assert (spec.group_name, spec.kinds) == ("films", {"html", "s3"})
    assert gallery.required_resource_keys == {"eu_luma_dataset", "eu_luma_bucket", "eu_luma_parquet"}
