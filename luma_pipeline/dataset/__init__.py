"""The dataset's room: Parquet files, checkpoints, marks and the manifest, in a folder or on S3."""

from luma_pipeline.dataset.audits import Audits, AuditSummary, Hand
from luma_pipeline.dataset.checkpoints import Checkpoints, Shard
from luma_pipeline.dataset.dataset import SWEEP_AFTER_SECONDS, Dataset, check_root
from luma_pipeline.dataset.errors import (
    DatasetError,
    DatasetSettingsError,
    DatasetUnavailableError,
    StaleVersionError,
    UnreadableFileError,
)
from luma_pipeline.dataset.marks import Marks
from luma_pipeline.dataset.partition_file import ROW_GROUP_ROWS, PartitionFile, PartitionReader, Written
from luma_pipeline.dataset.peers import PeerEntries
from luma_pipeline.dataset.tombstones import Forgotten, Tombstones, digest_of
from luma_pipeline.dataset.verdicts import GenerationsVerdict, StoredVerdicts, Verdict, Verdicts, VideosVerdict

__all__ = [
    "ROW_GROUP_ROWS",
    "SWEEP_AFTER_SECONDS",
    "AuditSummary",
    "Audits",
    "Checkpoints",
    "Dataset",
    "DatasetError",
    "DatasetSettingsError",
    "DatasetUnavailableError",
    "Forgotten",
    "GenerationsVerdict",
    "Hand",
    "Marks",
    "PartitionFile",
    "PartitionReader",
    "PeerEntries",
    "Shard",
    "StaleVersionError",
    "StoredVerdicts",
    "Tombstones",
    "UnreadableFileError",
    "Verdict",
    "Verdicts",
    "VideosVerdict",
    "Written",
    "check_root",
    "digest_of",
]
