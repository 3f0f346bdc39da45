"""Runs over what earlier runs have left: broken refreshes, what was given up, and settings that help no second try."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap

from luma_pipeline.sandbox.generation import Phase
from luma_pipeline.sandbox.provider import TOKEN, Account, Answer, Generation, Oddity
from tests.settings import setting
from tests.world import World, failure, materialized, metadata

DAY, NEXT_DAY = "2024-12-24", "2024-12-25"
NOT_FOUND = Answer.of_json({"detail": "Not found"}, 404)


def submit(world: World, *task_ids: str, day: str = DAY, known: bool = True, **generation: Any) -> None:
    rows = [(task_id, f"{day}T{number:02}:00:00Z") for number, task_id in enumerate(task_ids)]
    world.submit(*rows, known=known, **generation)


def states(world: World) -> dict[str, str]:
    return {row["task_id"]: row["state"] or row["outcome"] for row in world.rows("luma_generations")}


def asked(world: World) -> list[str]:
    """The task IDs of the provider's requests since the last call."""
    found = sorted(task_id for request in world.provider.requests for task_id in request.task_ids)
    world.provider.clear_log()
    return found


def finish(world: World, task_id: str) -> None:
    world.provider.add(Generation(task_id, urls=world.cdn.publish(task_id)))


def events(world: World, result: dg.ExecuteInProcessResult, kind: dg.DagsterEventType) -> list[dg.DagsterEvent]:
    entries = world.instance.all_logs(result.run_id, of_type=kind)
    return [entry.dagster_event for entry in entries if entry.dagster_event is not None]


# Answers against rows.


@pytest.mark.parametrize("answer", [NOT_FOUND, Answer.of_json({"detail": "busy"}, 400)], ids=["not found", "refused"])
def test_a_refresh_that_fails_for_a_task_leaves_the_final_row_that_it_had(world: World, answer: Answer) -> None:
    submit(world, "a", "b")
    world.run(DAY)
    before = world.rows("luma_generations")
    world.provider.script("a", [answer])
    assert world.run(DAY, config={"refresh": True}).success
    after = world.rows("luma_generations")
    assert after[0] == before[0]
    assert after[1]["polled_at"] > before[1]["polled_at"]


def test_a_refresh_that_was_broken_off_leaves_no_answer_worse_than_the_row_before(world: World) -> None:
    submit(world, "a", "b", "c")
    world.run(DAY)
    world.provider.script("a", [NOT_FOUND])
    world.provider.script("c", [Answer(401), None])
    broken = world.run(DAY, config={"refresh": True}, max_concurrency=1)
    assert "refused the token" in failure(broken)
    assert world.run(DAY).success
    assert states(world) == dict.fromkeys("abc", "completed")


def test_answers_of_a_broken_run_that_are_too_old_are_asked_for_anew(world: World) -> None:
    submit(world, "a", "b", "c")
    world.provider.script("c", [Answer(401), None])
    world.run(DAY, max_concurrency=1)
    asked(world)
    assert world.run(DAY, checkpoint_hours=0).success
    assert asked(world) == ["a", "b", "c"]


def test_what_was_given_up_is_left_alone_until_retry_failed(world: World) -> None:
    submit(world, "lost")
    submit(world, "unknown", known=False)
    submit(world, "open", phases=(Phase(0, "pending"),))
    world.cdn.revoke(world.cdn.publish("lost").video)
    world.settings["give_up_after_hours"] = 1
    first = world.run(DAY)
    assert first.success
    assert metadata(world, first.run_id, "luma_generations", DAY)["asked_again_later"] == 0
    assert not list((world.directory / "data" / "_open").glob("*"))
    asked(world)
    world.cdn.clear_log()
    assert world.run(DAY).success
    assert asked(world) == ["open"]
    assert world.cdn.total == 0
    finish(world, "unknown")
    finish(world, "lost")
    assert world.run(DAY, config={"retry_failed": True}).success
    assert asked(world) == ["open", "unknown"]
    assert {row["task_id"]: row["status"] for row in world.rows("luma_videos")} == {
        "lost": "copied",
        "unknown": "copied",
    }


def test_an_old_video_that_cannot_be_copied_is_not_waited_for(world: World) -> None:
    submit(world, "lost")
    world.cdn.revoke(world.cdn.publish("lost").video)
    for hours, marks in ((24 * 365 * 100, [DAY]), (1, [])):
        assert world.run(DAY, give_up_after_hours=hours).success
        assert [mark.name for mark in (world.directory / "data" / "_open").glob("*")] == marks


def test_a_limit_of_nothing_keeps_every_row_there_is(world: World) -> None:
    submit(world, "open", phases=(Phase(0, "pending"),))
    world.run(DAY)
    before = world.rows("luma_generations")
    submit(world, "new")
    assert world.run(DAY, config={"limit": 0}).success
    after = world.rows("luma_generations")
    assert after[1] == before[0]
    assert (after[0]["task_id"], after[0]["error_code"]) == ("new", "not_asked")


def test_the_data_version_changes_with_the_data_alone(world: World) -> None:
    submit(world, "a")
    submit(world, "b", phases=(Phase(0, "pending"),))
    versions = []
    for _ in range(2):
        for _ in range(2):
            result = world.run(DAY)
            (event,) = (
                event
                for event in events(world, result, dg.DagsterEventType.ASSET_MATERIALIZATION)
                if event.asset_key == dg.AssetKey("luma_generations")
            )
            tags = event.step_materialization_data.materialization.tags or {}
            versions.append(tags["dagster/data_version"])
        finish(world, "b")
    assert versions[0] == versions[1] != versions[2] == versions[3]


# What is said.


def test_a_dry_run_tells_each_partition_what_it_would_do(world: World) -> None:
    submit(world, "a", "b")
    submit(world, "c", "d", day=NEXT_DAY)
    world.provider.script("d", [Answer(401)])
    world.run(DAY)
    world.run(NEXT_DAY, max_concurrency=1)
    submit(world, "late")
    before = {path: path.read_bytes() for path in (world.directory / "data").rglob("*") if path.is_file()}
    asked(world)
    result = world.run(DAY, NEXT_DAY, config={"dry_run": True})
    assert result.success
    would: dict[tuple[str, str], int] = {}
    for event in events(world, result, dg.DagsterEventType.ASSET_OBSERVATION):
        observation = event.asset_observation_data.asset_observation
        for name, value in observation.metadata.items():
            would[name, str(observation.partition)] = int(str(value.value))
    # Of the second day one answer was kept when the token was refused.
    assert would == {
        ("would_ask", DAY): 1,
        ("would_copy", DAY): 0,
        ("would_ask", NEXT_DAY): 1,
        ("would_copy", NEXT_DAY): 0,
    }
    assert asked(world) == []
    assert materialized(world, result.run_id) == []
    assert {path: path.read_bytes() for path in (world.directory / "data").rglob("*") if path.is_file()} == before


def test_a_prompt_cannot_break_out_of_the_preview(world: World) -> None:
    prompt = "<script>alert(1)</script> | ![x](https://evil.example/x.png) `code`\n# heading"
    submit(world, "a", prompt=prompt)
    preview = metadata(world, world.run(DAY).run_id, "luma_generations", DAY)["preview"]
    (row,) = [line for line in preview.splitlines() if line.startswith("| a |")]
    assert "<script>" not in preview
    assert "![x](" not in preview
    assert row.count("|") == 5


def test_retries_and_drift_are_counted_with_an_example(world: World) -> None:
    submit(world, "a", oddities=(Oddity.EXTRA_FIELDS,))
    submit(world, "b", oddities=(Oddity.THUMBNAIL_STRING,))
    world.provider.script("b", [Answer(502), None])
    result = world.run(DAY)
    numbers = metadata(world, result.run_id, "luma_generations", DAY)
    assert (numbers["requests"], numbers["retries"], numbers["completed"]) == (3, 1, 2)
    assert 0 < numbers["latency_p50_seconds"] <= numbers["latency_p95_seconds"]
    drift = {record.data["field"]: record.data["example_task_id"] for record in numbers["schema_drift_fields"].records}
    assert drift.items() >= {"user_id": "a", "video.thumbnail": "b"}.items()
    videos = metadata(world, result.run_id, "luma_videos", DAY)
    size = sum(row["size_bytes"] for row in world.rows("luma_videos"))
    assert (videos["copied"], videos["bytes_downloaded"], videos["bytes_in_bucket"]) == (2, size, size)


def test_rows_without_a_time_are_told_of(world: World) -> None:
    submit(world, "a")
    world.submit(("timeless", None), known=False)  # type: ignore[arg-type]
    result = world.run(DAY)
    entries = world.instance.all_logs(result.run_id)
    said = "rows of generations that are in no partition of now: 1 without a time"
    assert any(said in entry.user_message for entry in entries)
    assert list(states(world)) == ["a"]


# Settings.

REQUIRED = ("api_token", "source_url", "source_table", "data_url", "s3_bucket")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_variable_given_to_the_component_is_read_when_a_run_starts(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(world, "a")
    value = setting(world.component(), name)
    world.settings[name] = dg.EnvVar("A_NAME_OF_MY_OWN")
    monkeypatch.delenv("A_NAME_OF_MY_OWN", raising=False)
    with pytest.raises(dg.DagsterInvalidConfigError, match='environment variable "A_NAME_OF_MY_OWN" which is not set'):
        world.run(DAY)
    assert world.provider.total == 0
    monkeypatch.setenv("A_NAME_OF_MY_OWN", value)
    result = world.run(DAY)
    assert result.success, failure(result)


# What no second try helps.

HELPLESS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("condition that is no SQL", {"source_where": "kind ="}, ["LUMA_SOURCE_WHERE"]),
    ("source that is no URL", {"source_url": "generations"}, ["LUMA_SOURCE_URL"]),
    ("data where nothing can be written", {"data_url": "/dev/null/data"}, ["LUMA_DATA_URL"]),
    ("data in a bucket that is not there", {"data_url": "s3://no-such-lake/luma"}, ["LUMA_DATA_URL"]),
    ("bucket that is not there", {"s3_bucket": "no-such-bucket"}, ["no-such-bucket", "LUMA_S3_BUCKET"]),
]


@pytest.mark.parametrize(("settings", "said"), [case[1:] for case in HELPLESS], ids=[case[0] for case in HELPLESS])
def test_a_setting_that_cannot_work_fails_the_run_once_and_before_any_request(
    world: World, settings: dict[str, Any], said: list[str]
) -> None:
    submit(world, "a", "b", "c")
    result = world.run(DAY, **settings)
    assert not result.success
    for words in said:
        assert words in failure(result)
    assert events(world, result, dg.DagsterEventType.STEP_UP_FOR_RETRY) == []
    assert world.provider.total == 0


def test_an_artifact_that_does_not_exist_fails_the_run_with_those_that_do(world: World) -> None:
    result = world.run(DAY, config={"artifacts": ["gif"]})
    assert "video, video_raw, thumbnail, last_frame" in failure(result)
    assert events(world, result, dg.DagsterEventType.STEP_UP_FOR_RETRY) == []


@pytest.mark.parametrize("account", [Account.PAYMENT_REQUIRED, Account.OUT_OF_QUOTA])
def test_an_account_without_quota_stops_the_run_after_one_request(world: World, account: Account) -> None:
    submit(world, *map(str, range(20)))
    world.provider.account = account
    result = world.run(DAY)
    assert "out of quota" in failure(result)
    assert "Top up the account" in failure(result)
    assert events(world, result, dg.DagsterEventType.STEP_UP_FOR_RETRY) == []
    assert world.provider.total == 1


# Secrets.


@pytest.fixture
def home(world: World, tmp_path: Path) -> Iterator[Path]:
    """The folder of an instance that keeps everything it is told, and what steps print."""
    folder = tmp_path / "home"
    folder.mkdir()
    with dg.DagsterInstance.local_temp(str(folder)) as world.instance:
        yield folder


@pytest.mark.parametrize("given", ["as variables", "as text"])
def test_no_secret_is_in_anything_that_dagster_keeps(
    world: World, home: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    url = f"{world.source_url}?check_same_thread=false"
    world.settings |= {"api_token": TOKEN, "source_url": url}
    if given == "as variables":
        for setting, variable in (("api_token", "LUMA_API_TOKEN"), ("source_url", "LUMA_SOURCE_URL")):
            monkeypatch.setenv(variable, world.settings[setting])
            world.settings[setting] = dg.EnvVar(variable)
    submit(world, "signed", oddities=(Oddity.PRESIGNED_DOWNLOAD,))
    submit(world, "dead", oddities=(Oddity.EXPIRED_DOWNLOAD,))
    submit(world, "echo")
    message = f"upstream said no to Bearer {TOKEN}"
    world.provider.script("echo", [Answer.of_json({"error": {"message": message, "code": TOKEN}}, 400)])
    half_escaped = "postgresql+psycopg://app:s3cr@t-Passw0rd@127.0.0.1:1/prod"
    runs = [world.run(DAY), world.run(DAY, s3_bucket="no-such-bucket"), world.run(DAY, source_url=half_escaped)]
    world.provider.token = "another"
    runs.append(world.run(DAY, config={"refresh": True}))
    assert [run.success for run in runs] == [True, False, False, False], failure(runs[0])
    bodies = "".join(row["raw_response"] or "" for row in world.rows("luma_generations"))
    signatures = set(re.findall(r"Signature=(\w+)", bodies))
    assert len(signatures) == 2
    secrets = [TOKEN, url, "s3cr", "t-Passw0rd", world.store.secret_access_key, "X-Amz-Signature", *signatures]
    assert TOKEN not in str(world.rows("luma_generations"))
    location = RepositorySnap.from_def(world.component().definitions().get_repository_def())
    texts = {"code location": dg.serialize_value(location)}
    for run in runs:
        texts[f"run {run.run_id}"] = dg.serialize_value(run.dagster_run)
        assert run.dagster_run.job_snapshot_id is not None
        snapshot = world.instance.get_job_snapshot(run.dagster_run.job_snapshot_id)
        texts[f"job of {run.run_id}"] = dg.serialize_value(snapshot)
        entries = world.instance.all_logs(run.run_id)
        texts |= {f"event {number} of {run.run_id}": dg.serialize_value(entry) for number, entry in enumerate(entries)}
    printed = [path for path in home.rglob("*") if path.suffix in (".err", ".out") and os.path.getsize(path)]
    assert printed, "what steps print is kept"
    texts |= {str(path): path.read_text() for path in printed}
    kept = b"".join(path.read_bytes() for path in home.rglob("*.db*"))
    texts["databases"] = kept.decode("latin-1")
    assert not {(where, secret) for where, text in texts.items() for secret in secrets if secret in text}
