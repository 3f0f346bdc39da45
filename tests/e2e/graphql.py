"""Dagster's GraphQL as its own UI speaks it: what the end-to-end tests ask and do, with typed answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

_TIMEOUT_SECONDS = (5, 60)

_PLAIN_ERROR = "__typename ... on Error { message }"
_ERROR = "__typename ... on Error { message } ... on RunConfigValidationInvalid { errors { message path } }"

_METADATA = """
metadataEntries {
  __typename label
  ... on IntMetadataEntry { intRepr }
  ... on FloatMetadataEntry { floatRepr }
  ... on BoolMetadataEntry { boolValue }
  ... on TextMetadataEntry { text }
  ... on MarkdownMetadataEntry { mdStr }
  ... on JsonMetadataEntry { jsonString }
  ... on UrlMetadataEntry { url }
  ... on PathMetadataEntry { path }
  ... on TimestampMetadataEntry { timestamp }
  ... on TableMetadataEntry { table { records } }
  ... on TableSchemaMetadataEntry { schema { columns { name type description } } }
  ... on TableColumnLineageMetadataEntry { lineage { columnName columnDeps { assetKey { path } columnName } } }
}
"""

_RUN = "runId status jobName creationTime startTime endTime rootRunId parentRunId tags { key value }"

_CHAIN = "message errorChain { error { message } }"

_TICKS = f"id status timestamp runIds runKeys skipReason cursor error {{ {_CHAIN} }}"

_PID = re.compile(r"\(pid: (\d+)\)")


class GraphQLError(RuntimeError):
    """Dagster answered a query with an error, or with a type that says so."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run: `status` in Dagster's words (`QUEUED`, `STARTED`, `SUCCESS`, `FAILURE`...), times in epoch seconds."""

    run_id: str
    status: str
    job_name: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    parent_run_id: str | None
    tags: Mapping[str, str]

    @property
    def is_finished(self) -> bool:
        return self.status in {"SUCCESS", "FAILURE", "CANCELED"}


@dataclass(frozen=True, slots=True)
class AssetProgress:
    """What a backfill counts of one asset's partitions."""

    targeted: int
    materialized: int
    failed: int
    in_progress: int


@dataclass(frozen=True, slots=True)
class Backfill:
    """A backfill, with its runs and its counts by asset (slashes between the parts of an asset's key)."""

    backfill_id: str
    status: str
    error: str | None
    runs: tuple[Run, ...]
    assets: Mapping[str, AssetProgress]

    @property
    def is_finished(self) -> bool:
        return self.status in {"COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED", "COMPLETED"}


@dataclass(frozen=True, slots=True)
class Materialization:
    """One materialization event; `metadata` holds plain Python values, a table as a list of rows."""

    run_id: str
    partition: str | None
    timestamp: float
    metadata: Mapping[str, Any]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CheckExecution:
    """One evaluation of an asset check: `SUCCEEDED`, `FAILED`, `IN_PROGRESS`, `EXECUTION_FAILED` or `SKIPPED`.

    `severity` is `ERROR` or `WARN`; empty without an evaluation.
    """

    run_id: str
    status: str
    partition: str | None
    severity: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One event of a run's log; `error` is the whole chain of messages, the outermost first."""

    kind: str
    message: str
    step_key: str | None
    error: str


@dataclass(frozen=True, slots=True)
class Tick:
    """One evaluation of a schedule or sensor: `SUCCESS`, `SKIPPED`, `FAILURE` or `STARTED`."""

    status: str
    timestamp: float
    run_ids: tuple[str, ...]
    run_keys: tuple[str, ...]
    skip_reason: str | None
    cursor: str | None
    error: str | None


class DagsterClient:
    """A browser's view of one code location, without the browser."""

    def __init__(self, url: str, *, location: str, repository: str = "__repository__") -> None:
        self.url = url
        self._location = location
        self._repository = repository
        self._session = requests.Session()

    def close(self) -> None:
        self._session.close()

    def query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Send one document; raise GraphQLError when it, its execution or one of its top fields has an error."""
        response = self._session.post(
            f"{self.url}/graphql", json={"query": text, "variables": variables}, timeout=_TIMEOUT_SECONDS
        )
        body = response.json()
        if body.get("errors"):
            raise GraphQLError(json.dumps(body["errors"], indent=1))
        data: dict[str, Any] = body["data"]
        for name, value in data.items():
            kind = value.get("__typename", "") if isinstance(value, dict) else ""
            if "Error" in kind or kind in {"RunConfigValidationInvalid", "InvalidStepError", "RunConflict"}:
                raise GraphQLError(f"{name}: {json.dumps(value)}")
        return data

    def location_error(self) -> str | None:
        """Why the code location is not loaded, or None when it is."""
        entry = self.query(
            "query($name: String!) { workspaceLocationEntryOrError(name: $name) { ... on WorkspaceLocationEntry {"
            " loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } }",
            name=self._location,
        )["workspaceLocationEntryOrError"]
        loaded = (entry or {}).get("locationOrLoadError")
        if loaded is None:
            return "still loading"
        return loaded["message"] if loaded["__typename"] == "PythonError" else None

    # Runs and backfills

    def launch_backfill(
        self,
        assets: Sequence[str],
        partitions: Sequence[str],
        *,
        run_config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Press "Launch backfill" in the dialog of these assets; returns the backfill's ID."""
        parameters: dict[str, Any] = {
            "assetSelection": [_asset_key(asset) for asset in assets],
            "partitionNames": list(partitions),
            "fromFailure": False,
            "tags": _tags(tags),
        }
        if run_config is not None:
            parameters["runConfigData"] = json.dumps(run_config)
        answer = self.query(
            "mutation($parameters: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $parameters)"
            f" {{ {_ERROR} ... on LaunchBackfillSuccess {{ backfillId }} }} }}",
            parameters=parameters,
        )
        backfill_id: str = answer["launchPartitionBackfill"]["backfillId"]
        return backfill_id

    def backfill(self, backfill_id: str) -> Backfill:
        answer = self.query(
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename ... on Error { message }"
            f" ... on PartitionBackfill {{ status error {{ message }} runs(limit: 1000) {{ {_RUN} }}"
            " assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts { assetKey { path }"
            " numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed numPartitionsInProgress } } } } } }",
            id=backfill_id,
        )["partitionBackfillOrError"]
        statuses = (answer["assetBackfillData"] or {}).get("assetBackfillStatuses", [])
        return Backfill(
            backfill_id=backfill_id,
            status=answer["status"],
            error=answer["error"] and answer["error"]["message"],
            runs=tuple(_run(run) for run in answer["runs"]),
            assets={
                "/".join(status["assetKey"]["path"]): AssetProgress(
                    targeted=status["numPartitionsTargeted"],
                    materialized=status["numPartitionsMaterialized"],
                    failed=status["numPartitionsFailed"],
                    in_progress=status["numPartitionsInProgress"],
                )
                for status in statuses
                if status
            },
        )

    def launch_run(
        self,
        assets: Sequence[str],
        *,
        partition: str | None = None,
        partition_range: tuple[str, str] | None = None,
        run_config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        job: str = "__ASSET_JOB",
    ) -> str:
        """Press "Launch run" in the launchpad, for one partition or for a range in one run; returns the run's ID."""
        run_tags = dict(tags or {})
        if partition is not None:
            run_tags["dagster/partition"] = partition
        if partition_range is not None:
            first, last = partition_range
            run_tags |= {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        answer = self.query(
            "mutation($parameters: ExecutionParams!) { launchPipelineExecution(executionParams: $parameters)"
            f" {{ {_ERROR} ... on LaunchRunSuccess {{ run {{ runId }} }} }} }}",
            parameters={
                "mode": "default",
                "executionMetadata": {"tags": _tags(run_tags)},
                "runConfigData": json.dumps(run_config or {}),
                "selector": self._job_selector(job) | {"assetSelection": [_asset_key(asset) for asset in assets]},
            },
        )
        run_id: str = answer["launchPipelineExecution"]["run"]["runId"]
        return run_id

    def execute_check(self, asset: str, check: str) -> str:
        """Press "Execute" on an asset check; returns the run's ID."""
        answer = self.query(
            "mutation($parameters: ExecutionParams!) { launchPipelineExecution(executionParams: $parameters)"
            f" {{ {_ERROR} ... on LaunchRunSuccess {{ run {{ runId }} }} }} }}",
            parameters={
                "mode": "default",
                "executionMetadata": {"tags": []},
                "runConfigData": "{}",
                "selector": self._job_selector("__ASSET_JOB")
                | {"assetSelection": [], "assetCheckSelection": [{"assetKey": _asset_key(asset), "name": check}]},
            },
        )
        run_id: str = answer["launchPipelineExecution"]["run"]["runId"]
        return run_id

    def reexecute_from_failure(self, run_id: str) -> str:
        """Press "Re-execute from failure" on a failed run; returns the new run's ID."""
        answer = self.query(
            "mutation($parameters: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $parameters)"
            f" {{ {_ERROR} ... on LaunchRunSuccess {{ run {{ runId }} }} }} }}",
            parameters={"parentRunId": run_id, "strategy": "FROM_FAILURE"},
        )
        new_run_id: str = answer["launchRunReexecution"]["run"]["runId"]
        return new_run_id

    def terminate(self, run_id: str) -> None:
        """Press "Terminate" on a run."""
        self.query(
            "mutation($id: String!) "
            f"{{ terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) {{ {_PLAIN_ERROR} }} }}",
            id=run_id,
        )

    def cancel_backfill(self, backfill_id: str) -> None:
        """Press "Cancel backfill" on a backfill."""
        self.query(
            f"mutation($id: String!) {{ cancelPartitionBackfill(backfillId: $id) {{ {_PLAIN_ERROR} }} }}",
            id=backfill_id,
        )

    def run(self, run_id: str) -> Run:
        answer = self.query(
            "query($id: ID!) { runOrError(runId: $id) { __typename ... on Error { message }"
            f" ... on Run {{ {_RUN} }} }} }}",
            id=run_id,
        )
        return _run(answer["runOrError"])

    def runs(self, *, tags: Mapping[str, str] | None = None, limit: int = 1000) -> list[Run]:
        """The latest runs that bear all of these tags, the newest first."""
        answer = self.query(
            "query($filter: RunsFilter, $limit: Int) { runsOrError(filter: $filter, limit: $limit) { __typename"
            f" ... on Error {{ message }} ... on Runs {{ results {{ {_RUN} }} }} }} }}",
            filter={"tags": _tags(tags)},
            limit=limit,
        )
        return [_run(run) for run in answer["runsOrError"]["results"]]

    def run_events(self, run_id: str) -> list[RunEvent]:
        """The run's whole event log, in order."""
        return [
            RunEvent(
                kind=event["__typename"],
                message=event.get("message", ""),
                step_key=event.get("stepKey"),
                error=_error_chain(event.get("error")),
            )
            for event in self._raw_events(run_id)
        ]

    def log_lines(self, run_id: str) -> list[str]:
        """What a person reads in the run's log: each message, and the names of what stands beside it."""
        return [
            " ".join([event.get("message", ""), *_metadata(event.get("metadataEntries", []))])
            for event in self._raw_events(run_id)
        ]

    def process_ids(self, run_id: str) -> list[int]:
        """The run's processes as its event log names them, the run's own first, then those of its steps."""
        found: dict[int, None] = {}
        for event in self._raw_events(run_id):
            entries = _metadata(event.get("metadataEntries", []))
            named = _PID.findall(event.get("message", ""))
            for process_id in [*named, *([entries["pid"]] if "pid" in entries else [])]:
                found[int(process_id)] = None
        return list(found)

    def _raw_events(self, run_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self.query(
                "query($id: ID!, $cursor: String) { logsForRun(runId: $id, afterCursor: $cursor) { __typename"
                " ... on Error { message } ... on EventConnection { cursor hasMore events { __typename"
                " ... on MessageEvent { message stepKey timestamp }"
                f" ... on ExecutionStepOutputEvent {{ {_METADATA} }}"
                f" ... on EngineEvent {{ {_METADATA} }} ... on StepWorkerStartedEvent {{ {_METADATA} }}"
                f" ... on ErrorEvent {{ error {{ {_CHAIN} }} }} }} }} }} }}",
                id=run_id,
                cursor=cursor,
            )["logsForRun"]
            events += page["events"]
            cursor = page["cursor"]
            if not page["hasMore"]:
                return events

    # Launchpad

    def default_run_config(self, assets: Sequence[str], *, job: str = "__ASSET_JOB") -> str:
        """The YAML that the launchpad scaffolds with every default filled in."""
        answer = self.query(
            "query($selector: PipelineSelector!) { runConfigSchemaOrError(selector: $selector) { __typename"
            " ... on Error { message } ... on RunConfigSchema { rootDefaultYaml } } }",
            selector=self._pipeline_selector(job, assets),
        )
        yaml: str = answer["runConfigSchemaOrError"]["rootDefaultYaml"]
        return yaml

    def run_config_errors(
        self, assets: Sequence[str], run_config: Mapping[str, Any], *, job: str = "__ASSET_JOB"
    ) -> list[str]:
        """What the launchpad marks as wrong in this run config; empty when nothing is."""
        answer = self.query(
            "query($pipeline: PipelineSelector!, $config: RunConfigData) {"
            ' result: isPipelineConfigValid(pipeline: $pipeline, mode: "default", runConfigData: $config) {'
            " kind: __typename ... on RunConfigValidationInvalid { errors { message } } ... on Error { message } } }",
            pipeline=self._pipeline_selector(job, assets),
            config=json.dumps(run_config),
        )["result"]
        if answer["kind"] == "PipelineConfigValidationValid":
            return []
        return [error["message"] for error in answer.get("errors", [])] or [answer["message"]]

    # Assets

    def partition_keys(self, asset: str) -> list[str]:
        keys: list[str] = self._asset(asset, "partitionKeys")["partitionKeys"]
        return keys

    def partition_statuses(self, asset: str) -> dict[str, str]:
        """Every partition with `MATERIALIZED`, `FAILED`, `MATERIALIZING` or `MISSING`, as the UI colours it."""
        answer = self._asset(
            asset,
            "partitionKeys assetPartitionStatuses { __typename ... on TimePartitionStatuses {"
            " ranges { startKey endKey status } } }",
        )
        keys: list[str] = answer["partitionKeys"]
        place = {key: index for index, key in enumerate(keys)}
        statuses = dict.fromkeys(keys, "MISSING")
        for span in answer["assetPartitionStatuses"]["ranges"]:
            for key in keys[place[span["startKey"]] : place[span["endKey"]] + 1]:
                statuses[key] = span["status"]
        return statuses

    def partitions_with_status(self, asset: str, status: str) -> list[str]:
        """The asset's partition keys in that state, in order."""
        return [key for key, value in self.partition_statuses(asset).items() if value == status]

    def materializations(self, asset: str, *, limit: int = 10_000) -> list[Materialization]:
        """The asset's materialization events, the newest first."""
        answer = self._asset(asset, f"assetMaterializations(limit: {limit}) {{ {_MATERIALIZATION} }}")
        return [_materialization(event) for event in answer["assetMaterializations"]]

    def latest_materializations(self, asset: str, partitions: Sequence[str]) -> dict[str, Materialization]:
        """The latest event of each of these partitions; a partition without one is left out."""
        answer = self._asset(
            asset,
            f"latestMaterializationByPartition(partitions: {json.dumps(list(partitions))}) {{ {_MATERIALIZATION} }}",
        )
        found = (_materialization(event) for event in answer["latestMaterializationByPartition"] if event)
        return {event.partition: event for event in found if event.partition is not None}

    def stale_statuses(self, asset: str, partitions: Sequence[str]) -> dict[str, str]:
        """`FRESH`, `STALE` or `MISSING` of each of these partitions."""
        names = json.dumps(list(partitions))
        answer = self._asset(asset, f"staleStatusByPartition(partitions: {names})")
        return dict(zip(partitions, answer["staleStatusByPartition"], strict=True))

    def asset_metadata(self, asset: str) -> dict[str, Any]:
        """The metadata of the asset's definition, not of an event."""
        return _metadata(self._asset(asset, _METADATA)["metadataEntries"])

    def check_executions(self, asset: str, check: str, *, limit: int = 1000) -> list[CheckExecution]:
        """The check's evaluations over all partitions, the newest first."""
        answer = self.query(
            "query($asset: AssetKeyInput!, $check: String!, $limit: Int!) {"
            " assetCheckExecutions(assetKey: $asset, checkName: $check, limit: $limit) {"
            f" runId status partition evaluation {{ success severity {_METADATA} }} }} }}",
            asset=_asset_key(asset),
            check=check,
            limit=limit,
        )
        return [
            CheckExecution(
                run_id=execution["runId"],
                status=execution["status"],
                partition=execution["partition"],
                severity=(execution["evaluation"] or {}).get("severity", ""),
                metadata=_metadata((execution["evaluation"] or {}).get("metadataEntries", [])),
            )
            for execution in answer["assetCheckExecutions"]
        ]

    def _asset(self, asset: str, fields: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.query(
            "query($asset: AssetKeyInput!) { assetNodeOrError(assetKey: $asset) { __typename ... on Error { message }"
            f" ... on AssetNode {{ {fields} }} }} }}",
            asset=_asset_key(asset),
        )["assetNodeOrError"]
        return answer

    # Schedules and sensors

    def start_schedule(self, name: str) -> None:
        self.query(
            "mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector)"
            f" {{ {_INSTIGATION} }} }}",
            selector=self._repository_selector() | {"scheduleName": name},
        )

    def start_sensor(self, name: str) -> None:
        self.query(
            f"mutation($selector: SensorSelector!) {{ startSensor(sensorSelector: $selector) {{ {_INSTIGATION} }} }}",
            selector=self._repository_selector() | {"sensorName": name},
        )

    def ticks(self, name: str, *, limit: int = 100) -> list[Tick]:
        """The ticks of the schedule or sensor of that name, the newest first."""
        answer = self.query(
            "query($selector: InstigationSelector!, $limit: Int) {"
            " instigationStateOrError(instigationSelector: $selector) { __typename ... on Error { message }"
            f" ... on InstigationState {{ status ticks(limit: $limit) {{ {_TICKS} }} }} }} }}",
            selector=self._repository_selector() | {"name": name},
            limit=limit,
        )
        return [
            Tick(
                status=tick["status"],
                timestamp=tick["timestamp"],
                run_ids=tuple(tick["runIds"]),
                run_keys=tuple(tick["runKeys"]),
                skip_reason=tick["skipReason"],
                cursor=tick["cursor"],
                error=_error_chain(tick["error"]) or None,
            )
            for tick in answer["instigationStateOrError"]["ticks"]
        ]

    def instigation_status(self, name: str) -> str:
        """`RUNNING` or `STOPPED`, for the schedule or sensor of that name."""
        answer = self.query(
            "query($selector: InstigationSelector!) { instigationStateOrError(instigationSelector: $selector) {"
            " __typename ... on Error { message } ... on InstigationState { status } } }",
            selector=self._repository_selector() | {"name": name},
        )
        status: str = answer["instigationStateOrError"]["status"]
        return status

    def _repository_selector(self) -> dict[str, Any]:
        return {"repositoryLocationName": self._location, "repositoryName": self._repository}

    def _job_selector(self, job: str) -> dict[str, Any]:
        return self._repository_selector() | {"jobName": job}

    def _pipeline_selector(self, job: str, assets: Sequence[str]) -> dict[str, Any]:
        return self._repository_selector() | {
            "pipelineName": job,
            "assetSelection": [_asset_key(asset) for asset in assets],
        }


_MATERIALIZATION = f"runId partition timestamp tags {{ key value }} {_METADATA}"

_INSTIGATION = "__typename ... on Error { message }"


def _asset_key(asset: str) -> dict[str, list[str]]:
    return {"path": asset.split("/")}


def _tags(tags: Mapping[str, str] | None) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in (tags or {}).items()]


def _run(answer: Mapping[str, Any]) -> Run:
    return Run(
        run_id=answer["runId"],
        status=answer["status"],
        job_name=answer["jobName"],
        created_at=answer["creationTime"],
        started_at=answer["startTime"],
        ended_at=answer["endTime"],
        parent_run_id=answer["parentRunId"],
        tags={tag["key"]: tag["value"] for tag in answer["tags"]},
    )


def _materialization(event: Mapping[str, Any]) -> Materialization:
    return Materialization(
        run_id=event["runId"],
        partition=event["partition"],
        timestamp=float(event["timestamp"]) / 1000,
        metadata=_metadata(event["metadataEntries"]),
        tags={tag["key"]: tag["value"] for tag in event["tags"]},
    )


def _metadata(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {entry["label"]: _metadata_value(entry) for entry in entries}


def _metadata_value(entry: Mapping[str, Any]) -> Any:
    kind = entry["__typename"]
    if kind == "IntMetadataEntry":
        return int(entry["intRepr"])
    if kind == "FloatMetadataEntry":
        return float(entry["floatRepr"])
    if kind == "JsonMetadataEntry":
        return json.loads(entry["jsonString"])
    if kind == "TableMetadataEntry":
        return [json.loads(record) for record in entry["table"]["records"]]
    if kind == "TableSchemaMetadataEntry":
        return entry["schema"]["columns"]
    for field in ("text", "mdStr", "url", "path", "timestamp", "boolValue", "lineage"):
        if field in entry:
            return entry[field]
    return None


def _error_chain(error: Mapping[str, Any] | None) -> str:
    if error is None:
        return ""
    return "\n".join([error["message"], *(link["error"]["message"] for link in error["errorChain"])])
