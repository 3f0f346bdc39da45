"""A provider that nobody has, from the source table to Parquet and the bucket: its `ProviderSpec` is all it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest

from luma_pipeline import (
    EngineSettings,
    PartitionReport,
    Policies,
    ProviderConfig,
    SourceTable,
    TransferConfig,
    plan_partition,
    run_partition,
)
from luma_pipeline.dataset import Dataset
from luma_pipeline.luma import Outcome, ProviderSpec, QuotaExceededError, TaskResult, to_table
from luma_pipeline.media import LinkSource
from luma_pipeline.sandbox.server import HttpServer
from tests.luma.test_another_provider import REEL, Reel
from tests.world import World

DAY = datetime(2024, 12, 24, tzinfo=UTC)
NEXT = DAY + timedelta(days=1)


def job(task_id: str, phase: str, href: str | None = None, seed: int | None = None) -> dict[str, Any]:
    return {"uuid": task_id, "phase": phase, "seed": seed, "clip": {"href": href} if href else None}


class Studio:
    """The provider's server and the settings of a run."""

    def __init__(self, world: World, reel: Reel, base_url: str, spec: ProviderSpec) -> None:
        self.world = world
        self.reel = reel
        self.spec = spec
        self.settings = EngineSettings(
            SourceTable(url=world.source_url, table="generations"),
            ProviderConfig(token="t" * 20, base_url=base_url, spec=spec),
            TransferConfig(bucket=world.bucket, allow_private_addresses=True),
            str(world.directory / "data"),
            Policies(
                link_preference=(LinkSource.UNWATERMARKED, LinkSource.DOWNLOAD_URL, LinkSource.URL),
                give_up_after_seconds=1e9,
            ),
        )

    def run(self) -> PartitionReport:
        return run_partition(self.settings, DAY, NEXT)

    def rows(self, *columns: str) -> dict[str, tuple[Any, ...]]:
        rows = self.world.rows("luma_generations")
        return {row["task_id"]: tuple(row[column] for column in columns) for row in rows}

    def videos(self) -> dict[str, tuple[str, str | None]]:
        return {row["task_id"]: (row["status"], row["source_url"]) for row in self.world.rows("luma_videos")}


ONLY_ITS_OWN = tuple(field for field in REEL.fields if field.name in ("id", "state", "seed", "video_href"))


@pytest.fixture(params=[REEL, replace(REEL, fields=ONLY_ITS_OWN)], ids=["columns of the page too", "its columns alone"])
def studio(world: World, request: pytest.FixtureRequest) -> Iterator[Studio]:
    reel = Reel({}, {})
    server = HttpServer(reel.answer)
    server.start()
    yield Studio(world, reel, server.base_url, request.param)
    server.stop()


def test_its_tasks_become_rows_with_its_columns_and_objects_over_its_links(world: World, studio: Studio) -> None:
    links = {name: world.cdn.publish(name).video for name in ("ready", "clean", "slow", "dead", "living", "stored")}
    world.cdn.revoke(links["dead"])
    studio.reel.clean = {"clean/1": links["clean"]}
    studio.reel.jobs = {
        "ready": {"payload": job("ready", "ready", links["ready"], 42)},
        "clean/1": job("clean/1", "ready", links["ready"], 43),
        "slow": [job("slow", "brewing"), job("slow", "ready", links["slow"], 44)],
        "renewed": [job("renewed", "ready", links["dead"], 45), job("renewed", "ready", links["living"], 45)],
        "spoilt": job("spoilt", "spoilt"),
        "other": job("ready", "ready", links["ready"], 42),
    }
    ids = [*studio.reel.jobs, "unheard", "stored"]
    world.submit(*((task_id, f"2024-12-24T0{number}:00:00Z") for number, task_id in enumerate(ids)), known=False)
    # A run that was killed has left this answer.
    generation = REEL.generation(job("stored", "ready", links["stored"], 46))
    killed = TaskResult("stored", Outcome.RESOLVED, datetime.now(UTC), generation=generation)
    dataset = Dataset(url=studio.settings.data_url)
    dataset.checkpoints("luma_generations", "date=2024-12-24").save(to_table([killed], fields=studio.spec.fields))

    assert plan_partition(studio.settings, DAY, NEXT).to_ask == 7
    report = studio.run()
    assert report.generations is not None
    assert (report.generations.asked, report.generations.resumed, report.generations.drift) == (7, 1, {})
    first = studio.rows("state", "error_code", "seed", "video_href")
    assert first == {
        "ready": ("completed", None, 42, links["ready"]),
        "clean/1": ("completed", None, 43, links["ready"]),
        "slow": ("processing", None, None, None),
        "renewed": ("completed", None, 45, links["dead"]),
        "spoilt": ("failed", None, None, None),
        "other": (None, "task_id_mismatch", None, None),
        "unheard": (None, "http_418", None, None),
        "stored": ("completed", None, 46, links["stored"]),
    }
    copied = {"ready": "ready", "clean/1": "clean", "renewed": "living", "stored": "stored"}
    assert studio.videos() == {task_id: ("copied", links[name]) for task_id, name in copied.items()}
    for row in world.rows("luma_videos"):
        assert world.objects()[row["key"]] == world.cdn.content(links[copied[row["task_id"]]])

    asked = len(studio.reel.paths)
    assert plan_partition(studio.settings, DAY, NEXT).to_ask == 3
    studio.run()
    assert studio.rows("state", "error_code", "seed", "video_href") == {
        **first,
        "slow": ("completed", None, 44, links["slow"]),
    }
    assert sorted(path for path in studio.reel.paths[asked:] if "/jobs/" in path) == [
        f"/v9/jobs/{name}.json" for name in ("other", "slow", "unheard")
    ]
    there = dict.fromkeys(copied, "copied")
    assert {task_id: status for task_id, (status, _) in studio.videos().items()} == {**there, "slow": "copied"}
    (file,) = (world.directory / "data" / "luma_generations").rglob("*.parquet")
    assert pq.read_schema(file).equals(studio.spec.schema)


def test_its_words_for_an_empty_account_stop_the_run(world: World, studio: Studio) -> None:
    world.submit(("a", "2024-12-24T01:00:00Z"), known=False)
    studio.reel.is_broke = True
    with pytest.raises(QuotaExceededError, match="pay first"):
        studio.run()
