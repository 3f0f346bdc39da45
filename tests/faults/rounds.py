"""One round of the soak: runs are disturbed and killed, quiet runs follow, and all that is there is looked at."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from luma_pipeline.sandbox.generation import Oddity, Phase, State
from luma_pipeline.sandbox.provider import Generation, RateLimit
from tests.faults import invariants
from tests.faults.invariants import Expected, Look, Outside
from tests.faults.scenario import Attempt, Kill, Scenario
from tests.faults.servers import Chaos, SoakCdn, SoakProvider, SoakStore, Trigger, locked
from tests.faults.stage import DATA_BUCKET, VIDEOS_BUCKET, Process, Stage

SECONDS_TO_STOP = 30.0
"""A run that is sent SIGTERM or SIGINT has ended by then. The code promises 13 s; the rest is for a busy machine."""
SECONDS_OF_A_QUIET_RUN = 120.0
_SAVED_AFTER_SECONDS = {signal.SIGKILL: 11.0, signal.SIGTERM: 2.0, signal.SIGINT: 2.0}
"""Answers that left the provider so long before the signal are not asked for again."""
_PAST_THEIR_AGE = {"LUMA_ORPHANS_OLDER_THAN_HOURS": str(0.5 / 3600), "LUMA_COPY_MAX_SECONDS": "0.5"}
"""For a run that has nothing to copy: uploads of runs that were killed before it are older than that."""
_FIRST_DAY = date(2024, 12, 2)
_AT_THE_RUN = {"checkpoint", "mark", "before rename", "after rename", "delete"}
"""Events that are files of a local data root: the run's own process sees them."""
_LONG_TEXT = "The prompt was rejected by moderation, which says so at length. " * 160
_WORDY = ("botocore.hooks", "botocore.regions", "botocore.loaders")
"""Loggers that tell the names of botocore's own events, a thousand a run, and nothing of a request."""
_BODIES = ("botocore.endpoint", "botocore.parsers")
"""Loggers that write whole bodies: of large videos that would be 25 MB each."""
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL")


@dataclass
class Result:
    """What a round came to."""

    seed: int
    features: tuple[str, ...]
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    seconds_to_stop: list[float] = field(default_factory=list)
    seconds_to_recover: float | None = None
    readings: int = 0
    seconds: float = 0.0


@dataclass
class _Run:
    """A run as a process, and the signal that it gets."""

    process: Process
    trigger: Trigger | None
    result: Path
    fired: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def status(self) -> str:
        return self.result.read_text() if self.result.exists() else ""

    @property
    def killed_at(self) -> float | None:
        """When its signal was sent, in Unix time; None if it ended before."""
        if self.fired.exists():
            return self.fired.stat().st_mtime
        return self.trigger.fired_at if self.trigger is not None else None


class Round:
    """A round in a directory of its own, with servers of its own over the stage's store and database."""

    seconds_to_stop = SECONDS_TO_STOP
    patience_seconds = 20.0
    """Seconds until the signal is sent although its event has not come. What stalls is a reason why it does not."""

    def __init__(self, stage: Stage, scenario: Scenario, directory: Path) -> None:
        self.stage = stage
        self.scenario = scenario
        self.directory = directory
        self.chance = random.Random(f"round {scenario.seed}")
        self.chaos = Chaos(scenario.seed, scenario.rates)
        self.cdn = SoakCdn(self.chaos)
        self.provider = SoakProvider(self.chaos, self.cdn, stage.secrets.token)
        self.result = Result(scenario.seed, scenario.features)
        self.expected: dict[str, Expected] = {}
        self.days = [(_FIRST_DAY + timedelta(days=number)).isoformat() for number in range(scenario.days)]
        self.prefix = f"round-{scenario.seed}"
        self.table = f"generations_{scenario.seed}"
        self._counts: Counter[str] = Counter()
        self._allowed: dict[str, list[int]] = {}
        self._later: list[Generation] = []
        self._runs = 0
        self._proxies: list[SoakStore] = []
        self._readers: Process | None = None

    @property
    def is_on_s3(self) -> bool:
        return self.scenario.root == "s3"

    @property
    def root(self) -> str:
        return f"s3://{DATA_BUCKET}/{self.prefix}" if self.is_on_s3 else str(self.directory / "data")

    @property
    def outside(self) -> Outside:
        root = None if self.is_on_s3 else self.directory / "data"
        inside = f"{self.prefix}/"
        return Outside(root, self.stage.store.client(), DATA_BUCKET, inside, VIDEOS_BUCKET, inside)

    @contextmanager
    def set_up(self) -> Iterator[None]:
        """The round's servers, its tasks, and its readers."""
        for name in ("logs", "tmp", "tmp-readers"):
            (self.directory / name).mkdir(parents=True)
        self.home = self.stage.new_home(self.directory)
        with ExitStack() as stack:
            stack.enter_context(self.cdn)
            stack.enter_context(self.provider)
            if self.scenario.requests_per_second is not None:
                self.provider.rate_limit = RateLimit(self.scenario.requests_per_second, burst=10)
            self.provider.latency_seconds = self.scenario.latency_seconds
            for _ in range(2):
                proxy = SoakStore(self.stage.store_port, self.chaos, VIDEOS_BUCKET + f"/{self.prefix}", self._data_path)
                self._proxies.append(stack.enter_context(proxy))
            self._create_table()
            self.submit(self.scenario.tasks)
            self._start_readers()
            yield

    @property
    def _data_path(self) -> str:
        return f"{DATA_BUCKET}/{self.prefix}"

    def play(self) -> Result:
        """The whole round."""
        started = time.monotonic()
        with self.set_up():
            kept: set[str] = set()
            for number, attempt in enumerate(self.scenario.attempts):
                if number:
                    self.submit(self.chance.choice((0, 3)))
                kept = self._disturb(attempt, kept)
            self.settle()
            self._recover(kept)
            if self.result.seconds_to_recover is not None:
                self._run_again()
            self._stop_readers()
            self.result.violations += self.look()
        self.result.faults += self.chaos.counts
        self.result.seconds = time.monotonic() - started
        return self.result

    # -- tasks ------------------------------------------------------------------------------------------------------

    @property
    def source_url(self) -> str:
        if self.scenario.source == "sqlite":
            return f"sqlite:///{self.directory / 'source.db'}"
        return self.stage.postgres_url()

    def _create_table(self) -> None:
        self._execute(f"CREATE TABLE {self.table} (task_id TEXT, submitted_at TIMESTAMP)")

    def _execute(self, statement: str, rows: Sequence[dict[str, str]] | None = None) -> None:
        self.stage.postgres.wait_until_up()
        engine = sa.create_engine(self.source_url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text(statement), rows)

    def submit(self, tasks: int) -> None:
        """So many more tasks on each day: in the source table, at the provider, and in what is expected."""
        rows = []
        for day in self.days:
            for _ in range(tasks):
                number = self._counts[day]
                self._counts[day] += 1
                task_id = f"{day}-{number:04}-{self.scenario.seed}"
                rows.append({"id": task_id, "at": f"{day} {number // 60 % 24:02}:{number % 60:02}:00"})
                self._know(task_id, is_first=number < self.scenario.large_videos)
            self._allowed.setdefault(day, []).append(self._counts[day])
        allowed = self.directory / "allowed.json"
        allowed.with_suffix(".new").write_text(json.dumps(self._allowed))
        allowed.with_suffix(".new").rename(allowed)
        if rows:
            self._execute(f"INSERT INTO {self.table} VALUES (:id, :at)", rows)

    def _know(self, task_id: str, *, is_first: bool) -> None:
        """Put a task at the provider, or not, and note what it has to end as."""
        chance = random.Random(task_id)
        drawn = chance.random()
        if self.scenario.is_large and drawn > 0.01:
            self.provider.add(Generation(task_id, (Phase(0.0, State.FAILED),), failure_reason=_LONG_TEXT))
            self.expected[task_id] = Expected("resolved", "failed")
            return
        if is_first:
            self._complete(Generation(task_id, urls=self.cdn.publish_large(task_id)))
        elif drawn < 0.06:
            self.expected[task_id] = Expected("not_found", None)
        elif drawn < 0.14:
            self.provider.add(Generation(task_id, (Phase(0.0, State.FAILED),)))
            self.expected[task_id] = Expected("resolved", "failed")
        elif drawn < 0.19:
            self.provider.add(Generation(task_id, (Phase(0.0, State.PROCESSING),)))
            self.expected[task_id] = Expected("resolved", "processing")
        elif drawn < 0.29:
            self.provider.add(Generation(task_id, (Phase(0.0, State.PROCESSING),)))
            self._later.append(Generation(task_id).published(self.cdn))
            self._expect(task_id)
        else:
            generation = Generation(task_id).published(self.cdn)
            if drawn < 0.6:
                seconds = chance.choice((2, 3600))
                generation = replace(generation, oddities=(Oddity.PRESIGNED_DOWNLOAD,), link_seconds=seconds)
            self._complete(generation)
            if drawn > 0.97:
                self.cdn.lose(generation.urls.video)
                self._expect(task_id, lost=frozenset({"video"}))

    def _complete(self, generation: Generation) -> None:
        self.provider.add(generation)
        self._expect(generation.task_id, generation)

    def _expect(self, task_id: str, generation: Generation | None = None, lost: frozenset[str] = frozenset()) -> None:
        urls = (generation or Generation(task_id).published(self.cdn)).urls
        links = {"video": urls.video, "thumbnail": urls.thumbnail, "last_frame": urls.last_frame}
        files = {
            name: hashlib.sha256(self.cdn.content(links[name])).hexdigest()
            for name in self.scenario.artifacts
            if name not in lost
        }
        self.expected[task_id] = Expected("resolved", "completed", files, lost)

    def settle(self) -> None:
        """No fault any more, and what was open at the provider is finished."""
        self.chaos.is_on = False
        self.provider.add(*self._later)
        self.stage.postgres.wait_until_up()

    # -- runs -------------------------------------------------------------------------------------------------------

    def _environment(self, endpoint: str, settings: Mapping[str, str]) -> dict[str, str]:
        secrets = self.stage.secrets
        return {
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            "TMPDIR": str(self.directory / "tmp"),
            "DAGSTER_HOME": str(self.home),
            "LUMA_API_TOKEN": secrets.token,
            "LUMA_BASE_URL": self.provider.base_url,
            "LUMA_SOURCE_URL": self.source_url,
            "LUMA_SOURCE_TABLE": self.table,
            "LUMA_DATA_URL": self.root,
            "LUMA_S3_BUCKET": VIDEOS_BUCKET,
            "LUMA_S3_PREFIX": self.prefix,
            "LUMA_ALLOW_PRIVATE_MEDIA": "true",
            "LUMA_PARTITIONS_START": _FIRST_DAY.isoformat(),
            "LUMA_RETRY_DELAY_SECONDS": "0",
            "LUMA_GIVE_UP_AFTER_HOURS": str(24 * 365 * 100),
            "LUMA_PART_SIZE_BYTES": str(5 * 1024 * 1024),
            "LUMA_MAX_VIDEO_BYTES": str(1024**3),
            "LUMA_ARTIFACTS": ",".join(self.scenario.artifacts),
            **({"LUMA_BATCH_SIZE": self.scenario.batch_size} if self.scenario.batch_size else {}),
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": secrets.access_key_id,
            "AWS_SECRET_ACCESS_KEY": secrets.secret_access_key,
            "AWS_REGION": self.stage.store.region,
            "AWS_DEFAULT_REGION": self.stage.store.region,
            **settings,
        }

    def start(
        self,
        endpoint: str,
        config: dict[str, Any] | None = None,
        kill: Kill | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        with_checks: bool = True,
    ) -> _Run:
        """A run over all days of the round."""
        self._runs += 1
        name = f"run-{self._runs}"
        result, fired = self.directory / f"{name}.status", self.directory / f"{name}.fired"
        order: dict[str, Any] = {
            "kind": "run",
            "name": f"{self.prefix} {name}",
            "environment": self._environment(endpoint, settings or {}),
            "log": str(self.directory / "logs" / f"{name}.log"),
            "first": self.days[0],
            "last": self.days[-1],
            "config": config or {},
            "checks": with_checks,
            "quiet_loggers": _WORDY + (_BODIES if self.scenario.large_videos else ()),
            "result": str(result),
        }
        if kill is not None and not self.is_on_s3 and kill.event in _AT_THE_RUN:
            order["at"] = {
                "event": kill.event,
                "nth": kill.nth,
                "kind": int(kill.kind),
                "root": self.root,
                "fired": str(fired),
            }
        process = self.stage.forker.fork(order)
        return _Run(process, Trigger(kill, process.pid) if kill is not None else None, result, fired)

    def _disturb(self, attempt: Attempt, kept: set[str]) -> set[str]:
        """Runs under faults, each with its signal; returns the tasks that are not to be asked for again."""
        self._forget_requests()
        self.chaos.is_on = True
        runs: list[_Run] = []
        with self._broken_database(attempt.crash_after_seconds):
            for kill, proxy in zip(attempt.kills, self._proxies, strict=False):
                if runs:
                    time.sleep(self.chance.uniform(0.0, 0.5))
                run = self.start(proxy.endpoint, attempt.config, kill, with_checks=self.scenario.seed % 4 == 3)
                proxy.trigger = run.trigger
                runs.append(run)
            for run in runs:
                self._see_to_the_end(run, self.patience_seconds)
        self.chaos.is_on = False
        for proxy in self._proxies:
            proxy.trigger = None
            proxy.wait_until_idle()
        for run in runs:
            self._note(run)
        if not attempt.config.get("refresh"):
            self._violated(invariants.asked_again(self._asked(), kept, "that a run before had the answer of"))
        return self._answered_before_the_kill(runs) if len(runs) == 1 else set()

    def _see_to_the_end(self, run: _Run, patience: float) -> None:
        """Send the run its signal in time, and wait for its end."""
        if run.trigger is None:
            if not run.process.wait(patience + SECONDS_TO_STOP):
                os.kill(run.process.pid, signal.SIGKILL)
                run.process.wait(SECONDS_TO_STOP)
                self.result.kills["SIGKILL after long"] += 1
            return
        is_random = run.trigger.kill.event == "random moment"
        deadline = run.started + (run.trigger.kill.seconds if is_random else patience)
        while time.monotonic() < deadline and not run.process.ended.is_set() and run.killed_at is None:
            run.process.wait(0.02)
        if not run.process.ended.is_set() and run.killed_at is None:
            run.trigger.fire("random moment" if is_random else "late")
        if not run.process.wait(self.seconds_to_stop):
            self._violated([f"stop: {run.trigger.kill} had not ended the run after {self.seconds_to_stop:.0f} s"])
            os.kill(run.process.pid, signal.SIGKILL)
            run.process.wait(SECONDS_TO_STOP)
        elif run.killed_at is not None and run.trigger.kill.kind is not signal.SIGKILL:
            self.result.seconds_to_stop.append(time.time() - run.killed_at)

    def _note(self, run: _Run) -> None:
        status = run.status
        self.result.statuses[status or "killed"] += 1
        if run.trigger is None or run.killed_at is None:
            if status not in {"SUCCESS", "FAILURE"} and "SIGKILL after long" not in self.result.kills:
                self._violated([f"status: a run that nobody killed ended as {status or run.process.code}"])
            return
        kind = run.trigger.kill.kind
        event = run.trigger.kill.event if run.fired.exists() else run.trigger.fired_by
        if run.process.code == 0 and kind is signal.SIGKILL:
            return
        self.result.kills[f"{kind.name} {event}"] += 1
        # A signal can meet the process before Dagster has taken over its handling, and after it has ended the run.
        if kind is not signal.SIGKILL and status not in {"CANCELED", "SUCCESS", "FAILURE", ""}:
            self._violated([f"status: {kind.name} at {event} ended the run as {status}, code {run.process.code}"])

    def _answered_before_the_kill(self, runs: list[_Run]) -> set[str]:
        """The tasks in a final state whose answers have to outlive the end of the run.

        None of them are where the store may have refused to keep them; nor those whose video may need a new link.
        """
        [run] = runs
        if run.trigger is None or run.killed_at is None or (self.is_on_s3 and self.scenario.rates.store):
            return set()
        kind = run.trigger.kill.kind
        if kind is not signal.SIGKILL and run.status != "CANCELED":
            return set()
        before = run.killed_at - _SAVED_AFTER_SECONDS[kind]
        answered = {task_id for each in self.provider.answered if each.at < before for task_id in each.task_ids}
        return {task_id for task_id in answered if self.expected[task_id].state == "failed"}

    @contextmanager
    def _broken_database(self, after_seconds: float | None) -> Iterator[None]:
        if after_seconds is None:
            yield
            return
        down = self.chance.uniform(0.2, 1.0)
        work: Callable[[], None] = lambda: self._crash_postgres(after_seconds, down)  # noqa: E731
        if self.scenario.source == "sqlite":
            work = lambda: self._lock_sqlite(after_seconds, down)  # noqa: E731
        thread = threading.Thread(target=work)
        thread.start()
        yield
        thread.join()

    def _crash_postgres(self, after_seconds: float, down: float) -> None:
        time.sleep(after_seconds)
        self.chaos.count("database: crash and restart")
        self.stage.postgres.crash(down)

    def _lock_sqlite(self, after_seconds: float, down: float) -> None:
        time.sleep(after_seconds)
        self.chaos.count("database: locked")
        with locked(self.directory / "source.db"):
            time.sleep(down)

    def _forget_requests(self) -> None:
        self.provider.clear_log()
        self.provider.answered.clear()

    def _asked(self) -> list[str]:
        return [task_id for request in self.provider.requests for task_id in request.task_ids]

    # -- after the kills --------------------------------------------------------------------------------------------

    def quiet_run(self, *, with_checks: bool = True, **settings: str) -> str:
        """A run that nothing disturbs; its status."""
        run = self.start(self.stage.store.endpoint_url, settings=settings, with_checks=with_checks)
        if not run.process.wait(SECONDS_OF_A_QUIET_RUN):
            os.kill(run.process.pid, signal.SIGKILL)
            run.process.wait(SECONDS_TO_STOP)
        return run.status or f"code {run.process.code}"

    def _recover(self, kept: set[str]) -> None:
        final = invariants.done(Look(self.outside.data_files(), {}, []), len(self.scenario.artifacts))
        self._forget_requests()
        started = time.monotonic()
        status = self.quiet_run()
        if status != "SUCCESS":
            self._violated([f"recovery: the run after the kill ended as {status}"])
            return
        self.result.seconds_to_recover = time.monotonic() - started
        asked = self._asked()
        self._violated(invariants.asked_again(asked, final, "that were final before the quiet run"))
        self._violated(invariants.asked_again(asked, kept, "that a run before had the answer of"))

    def _run_again(self) -> None:
        look = Look(self.outside.data_files(), {}, [])
        final = invariants.done(look, len(self.scenario.artifacts))
        before = self.outside.versions()
        self._forget_requests()
        if (status := self.quiet_run(with_checks=False, **_PAST_THEIR_AGE)) != "SUCCESS":
            self._violated([f"recovery: the second quiet run ended as {status}"])
        self._violated(invariants.asked_again(self._asked(), final, "that were final after the quiet run"))
        is_open = {f"date={task_id[:10]}" for task_id in self.expected if task_id not in final}
        self._violated(invariants.written_again(before, self.outside.versions(), is_open))

    def look(self) -> list[str]:
        """Everything that is wrong with what is there."""
        look = Look.at(self.outside)
        secrets = self.stage.secrets
        kept = {"logs": self.directory / "logs", "Dagster's home": self.home, "temporary files": self.directory / "tmp"}
        left = [path for path in (self.directory / "tmp").rglob("*") if path.is_file()]
        return [
            *invariants.violations(look, self.expected, is_refreshed="refresh" in self.scenario.features),
            *(f"stray: {path} among temporary files" for path in left),
            *invariants.secrets_in_files(secrets, kept),
            *invariants.secrets_in_data(secrets, look),
        ]

    def clean(self) -> None:
        """Remove what the round has left in the stage's servers."""
        self.outside.remove()
        self._execute(f"DROP TABLE {self.table}")
        shutil.rmtree(self.directory)

    # -- readers ----------------------------------------------------------------------------------------------------

    def _start_readers(self) -> None:
        environment = self._environment(self.stage.store.endpoint_url, {"TMPDIR": str(self.directory / "tmp-readers")})
        self._readers = self.stage.forker.fork(
            {
                "kind": "read",
                "name": f"{self.prefix} readers",
                "environment": environment,
                "log": str(self.directory / "readers.log"),
                "root": self.root,
                "endpoint": self.stage.store.endpoint_url,
                "allowed": str(self.directory / "allowed.json"),
                "pause": 0.6,
                "result": str(self.directory / "readers.json"),
            }
        )

    def _stop_readers(self) -> None:
        assert self._readers is not None
        os.kill(self._readers.pid, signal.SIGTERM)
        if not self._readers.wait(SECONDS_TO_STOP):
            self._violated(["readers: they have not ended"])
            return
        said = json.loads((self.directory / "readers.json").read_text())
        for reader in said.values():
            self.result.readings += reader["readings"]
            self._violated(f"reader: {violation}" for violation in reader["violations"])

    def _violated(self, violations: Iterator[str] | Sequence[str]) -> None:
        self.result.violations += violations
