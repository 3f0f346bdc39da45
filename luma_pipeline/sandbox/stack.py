"""The sandbox as a whole: provider, CDN, object store and source table in one folder, and the settings for them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from luma_pipeline.sandbox import seed
from luma_pipeline.sandbox.cdn import CdnServer
from luma_pipeline.sandbox.provider import TOKEN, ProviderServer
from luma_pipeline.sandbox.s3 import ObjectStore
from luma_pipeline.sandbox.server import utc_now

BUCKET = "luma-videos"
PREFIX = "generations"
# Variables of another account that stand above, or break, the sandbox's own.
_IN_THE_WAY = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL")
# The dialog that greets the UI's first visitor would stand before the page. The rest is as docs/production.md advises.
_DAGSTER_SETTINGS = """\
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  pools:
    default_limit: 1
run_monitoring:
  enabled: true
  poll_interval_seconds: 30
  free_slots_after_run_end_seconds: 30
"""


class Sandbox:
    """Everything the pipeline talks to, on 127.0.0.1, kept in `directory` from one start to the next.

    The provider listens on `port`, the CDN and the object store on the two ports after it; 0 picks free ones, which
    differ at every start. `open_task_minutes` is how long after the seeding today's open tasks are finished. Starting
    raises PortTakenError or ObjectStoreError.
    """

    def __init__(self, directory: Path, *, port: int = 0, open_task_minutes: Sequence[float] = (1, 3, 10)):
        self.directory = directory.resolve()
        self.cdn = CdnServer(port=port and port + 1)
        self.provider = ProviderServer(cdn=self.cdn, port=port)
        self.object_store = ObjectStore(self.directory / "s3", port=port and port + 2)
        self._open_task_minutes = tuple(open_task_minutes)
        self._source: seed.SeededSource | None = None
        self._running = ExitStack()

    @property
    def data_directory(self) -> Path:
        """Where the pipeline writes its Parquet datasets."""
        return self.directory / "data"

    @property
    def dagster_home(self) -> Path:
        """Dagster's folder for runs and events; its telemetry is off."""
        return self.directory / "dagster_home"

    @property
    def source(self) -> seed.SeededSource:
        """The seeded source table; known once the sandbox has started."""
        if self._source is None:
            raise RuntimeError("The sandbox has not been started.")
        return self._source

    def start(self) -> Sandbox:
        """Start the three servers and seed what is not seeded yet."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.dagster_home.mkdir(exist_ok=True)
        (self.dagster_home / "dagster.yaml").write_text(_DAGSTER_SETTINGS)
        with ExitStack() as starting:
            # The provider first: where its port is taken, that is the port that a person has named.
            starting.enter_context(self.provider)
            starting.enter_context(self.cdn)
            starting.enter_context(self.object_store)
            self.object_store.create_bucket(BUCKET)
            self.object_store.let_everybody_read(BUCKET)
            url = f"sqlite:///{self.directory / 'source.db'}"
            self._source = seed.seed(url, self.cdn, now=utc_now(), open_task_minutes=self._open_task_minutes)
            self.provider.add(*self._source.generations)
            self._running = starting.pop_all()
        return self

    def stop(self) -> None:
        """Stop the servers; the folder keeps the table, the objects and the datasets."""
        self._running.close()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """The settings under which the pipeline runs on this sandbox."""
        return {
            "LUMA_API_TOKEN": TOKEN,
            "LUMA_BASE_URL": self.provider.base_url,
            "LUMA_SOURCE_URL": self.source.url,
            "LUMA_SOURCE_TABLE": seed.TABLE,
            "LUMA_SOURCE_ID_COLUMN": seed.TASK_ID_COLUMN,
            "LUMA_SOURCE_TIME_COLUMN": seed.TIME_COLUMN,
            "LUMA_SOURCE_COLUMNS": ",".join(seed.EXTRA_COLUMNS),
            "LUMA_DATA_URL": str(self.data_directory),
            "LUMA_S3_BUCKET": BUCKET,
            "LUMA_S3_PREFIX": PREFIX,
            "LUMA_GALLERY_ENABLED": "true",
            "LUMA_PARTITIONS_START": self.source.first_day.isoformat(),
            # The CDN is on the loopback interface, which the media guard refuses by default.
            "LUMA_ALLOW_PRIVATE_MEDIA": "true",
            **self.object_store.environment(),
            "DAGSTER_HOME": str(self.dagster_home),
        }

    def process_environment(self) -> dict[str, str]:
        """This process's environment with the settings put in, and without what would lead AWS clients elsewhere."""
        others = {name: value for name, value in os.environ.items() if name not in _IN_THE_WAY}
        return {**others, **self.environment()}

    def exports(self) -> str:
        """The settings as lines for a shell, which also unset the AWS variables that would get in their way."""
        in_the_way = [name for name in _IN_THE_WAY if name in os.environ]
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.environment().items()]
        return "\n".join([f"unset {' '.join(in_the_way)}", *lines] if in_the_way else lines)
