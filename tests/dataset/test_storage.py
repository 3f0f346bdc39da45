"""What writers leave behind, and what is said of a root or a file that does not work."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luma_pipeline.dataset import (
    Dataset,
    DatasetError,
    DatasetSettingsError,
    DatasetUnavailableError,
    StaleVersionError,
    UnreadableFileError,
)
from luma_pipeline.dataset.local_storage import LocalStorage
from luma_pipeline.errors import ConfigurationError
from luma_pipeline.luma import GENERATIONS_SCHEMA, Outcome, TaskResult, to_table

AT = datetime(2024, 12, 24, tzinfo=UTC)
HEX = "0123456789abcdef" * 2
DAY = "date=2024-12-24"


def write(dataset: Dataset, task_id: str = "a") -> Path:
    file = dataset.partition("luma_generations", DAY)
    file.replace(GENERATIONS_SCHEMA, [to_table([TaskResult(task_id, Outcome.NOT_FOUND, AT)], [AT])])
    return Path(file.path)


# What killed writers leave.

LEFT = [
    f"luma_generations/{DAY}/.part-0.parquet.{HEX}.tmp",
    "luma_generations/date=2020-01-01/.part-0.parquet.1a2b.tmp",
    f"team/report/week=2024-12-23/.part-0.parquet.{HEX}.tmp",
    f"_checkpoints/luma_generations/{DAY}/.run-{HEX}-000003.parquet.{HEX}.tmp",
    f"_checkpoints/luma_generations/{DAY}/refresh-1735000000000000-{HEX}-000000.parquet.tmp",
    f".write-probe.{HEX}.tmp",
]
OTHERS = [
    f"luma_generations/{DAY}/part-0.parquet",
    f"luma_generations/{DAY}/mine.tmp",
    f"luma_generations/{DAY}/.part-1.parquet.{HEX}.tmp",
    f"_checkpoints/luma_generations/{DAY}/run-{HEX}-000003.parquet",
    "_open/2024-12-24",
    "notes.tmp",
]


def put(root: Path, name: str, age_seconds: float) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PAR1 half")
    os.utime(path, (time.time() - age_seconds,) * 2)
    return path


def test_a_sweep_takes_what_is_ours_and_old_enough_wherever_it_lies(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))
    for name in (*LEFT, *OTHERS):
        put(tmp_path, name, 7200)
    assert dataset.sweep(3 * 3600) == 0
    assert dataset.sweep(3600) == len(LEFT)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(OTHERS)


def test_a_sweep_of_a_root_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    assert Dataset(url=str(tmp_path / "nowhere")).sweep(0) == 0


_FULL_DISK = """
import resource, sys
import pyarrow as pa
from luma_pipeline.dataset import Dataset, DatasetUnavailableError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
dataset = Dataset(url=sys.argv[1])
table = pa.table({"number": list(range(1_000_000))})
for write in (
    lambda: dataset.partition("luma_tasks", "date=2024-12-24").replace(table.schema, [table]),
    lambda: dataset.checkpoints("luma_tasks", "date=2024-12-24").save(table),
):
    try:
        write()
    except DatasetUnavailableError as error:
        print(error)
"""


def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 2, said
    assert all("LUMA_DATA_URL" in line and "Make room" in line for line in said)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# Roots that cannot be used.


def test_a_root_that_can_only_be_read_is_found_by_the_check() -> None:
    # The kernel's own folder: not even root creates files there.
    with pytest.raises(DatasetSettingsError, match=r"/sys/kernel \(LUMA_DATA_URL\).*right to read and write"):
        Dataset(url="/sys/kernel").check()


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    Dataset(url=str(tmp_path / "data")).check()
    assert list((tmp_path / "data").iterdir()) == []


# Files that cannot be read.


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _damaged(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 2 - 4) + content[len(content) // 2 :])


def _of_another_dataset(path: Path) -> None:
    pq.write_table(pa.table({"name": ["a"]}), path)


def _of_another_type(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    index = table.schema.get_field_index("polled_at")
    pq.write_table(table.set_column(index, "polled_at", pa.array(["yesterday"])), path)


def _with_nulls(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.set_column(0, "task_id", pa.nulls(1, pa.string())), path)


DAMAGES: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("<html>no Parquet</html>"),
    _cut,
    _damaged,
    _of_another_dataset,
    _of_another_type,
    _with_nulls,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_partition_file_that_cannot_be_read_is_told_with_its_path_and_the_remedy(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    dataset = Dataset(url=str(tmp_path))
    path = write(dataset)
    damage(path)
    with pytest.raises(UnreadableFileError) as error, dataset.partition("luma_generations", DAY).open() as reader:
        list(reader.batches(schema=GENERATIONS_SCHEMA))
    assert isinstance(error.value, ConfigurationError), "the same run fails again"
    for words in (str(path), "Move it away", "materialize its partition again"):
        assert words in str(error.value)


def test_a_file_without_a_column_that_is_asked_for_is_told_of(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))
    path = write(dataset)
    _of_another_dataset(path)
    with pytest.raises(UnreadableFileError, match="has no column task_id"):
        dataset.partition("luma_generations", DAY).read(["task_id"])


_READ = """
import os, sys
from luma_pipeline.dataset import Dataset, UnreadableFileError
if os.getuid() == 0:
    os.setuid(65534)
try:
    Dataset(url=sys.argv[1]).partition("luma_generations", "date=2024-12-24").read()
except UnreadableFileError as error:
    print(error)
"""


@contextmanager
def _open_to_all() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def test_a_file_that_may_not_be_read_is_told_with_its_path() -> None:
    with _open_to_all() as folder:
        path = write(Dataset(url=str(folder)))
        path.chmod(0)
        command = [sys.executable, "-c", _READ, str(folder)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert str(path) in said
    assert "Give the user that runs this the right to read it" in said


_SWEEP = """
import logging, os, sys
from luma_pipeline.dataset import Dataset
logging.basicConfig(stream=sys.stdout, format="%(message)s")
if os.getuid() == 0:
    os.setuid(65534)
print(Dataset(url=sys.argv[1]).sweep(3600))
"""


def test_a_folder_that_may_not_be_swept_is_told_and_the_others_are_swept() -> None:
    with _open_to_all() as folder:
        kept = put(folder, f"a/.part-0.parquet.{HEX}.tmp", 7200)
        swept = put(folder, f"b/.part-0.parquet.{HEX}.tmp", 7200)
        kept.parent.chmod(0o555)
        swept.parent.chmod(0o777)
        command = [sys.executable, "-c", _SWEEP, str(folder)]
        told, count = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert told.startswith(f"{kept.parent} was not swept: ")
        assert count == "1"
        assert (kept.exists(), swept.exists()) == (True, False)
        kept.parent.chmod(0o755)


def test_a_path_that_leads_nowhere_is_told_with_the_setting(tmp_path: Path) -> None:
    path = Path(write(Dataset(url=str(tmp_path))))
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DatasetSettingsError, match=r"cannot be read or written: .*Check LUMA_DATA_URL"):
        Dataset(url=str(tmp_path)).partition("luma_generations", DAY).read()


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, DatasetUnavailableError, "Make room"),
        (errno.EDQUOT, DatasetUnavailableError, "Make room"),
        (errno.EFBIG, DatasetUnavailableError, "Make room"),
        (errno.ESTALE, StaleVersionError, "another machine has replaced a file"),
        (errno.EACCES, DatasetSettingsError, "right to read and write"),
        (errno.EPERM, DatasetSettingsError, "right to read and write"),
        (errno.EROFS, DatasetSettingsError, "right to read and write"),
        (errno.EIO, DatasetSettingsError, "Check LUMA_DATA_URL"),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else "",
)
def test_what_a_file_system_says_has_a_remedy(number: int, kind: type[DatasetError], words: str) -> None:
    with pytest.raises(kind, match=words) as error, LocalStorage("/data", "/data")._explained():
        raise OSError(number, "said by the file system")
    assert "/data" in str(error.value)
    assert "said by the file system" in str(error.value)


def test_what_is_below_a_root_is_told_also_where_nothing_is(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))
    assert (dataset.folders("luma_generations"), dataset.checkpointed("luma_generations")) == (set(), frozenset())
    assert dataset.marks("open").set_at("a") is None
    assert dataset.marks("open").listed() == {}
    dataset.marks("open").clear_all(["a", "b"])
    write(dataset)
    (tmp_path / "luma_generations" / "date=2024-12-25").mkdir()
    (tmp_path / "luma_generations" / "part-0.parquet").write_bytes(b"a file is no folder")
    dataset.checkpoints("luma_generations", DAY).save(to_table([TaskResult("a", Outcome.NOT_FOUND, AT)], [AT]))
    for name in ("a", "b", "c"):
        dataset.marks("open").set(name)
    dataset.marks("open").clear_all(["a", "b", "x"])
    assert dataset.folders("luma_generations") == {DAY}
    assert dataset.checkpointed("luma_generations") == {DAY}
    assert set(dataset.marks("open").listed()) == {"c"}
    assert dataset.remove_old_versions("luma_generations", DAY) == ""


def test_a_dataset_that_was_never_used_is_stopped_and_closed(tmp_path: Path) -> None:
    dataset = Dataset(url=str(tmp_path))
    dataset.stop()
    dataset.close()
    write(dataset)


def test_a_partition_that_was_never_written_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has not been written"):
        Dataset(url=str(tmp_path)).partition("luma_generations", DAY).read()


def test_a_full_disk_may_pass_and_a_missing_right_does_not() -> None:
    assert not issubclass(DatasetUnavailableError, ConfigurationError)
    assert issubclass(DatasetSettingsError, ConfigurationError)
