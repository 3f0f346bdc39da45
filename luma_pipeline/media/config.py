"""What a copier is told: one frozen object, with every default in its one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from luma_pipeline.http.guard import Guard
from luma_pipeline.media.download import DownloadLimits
from luma_pipeline.media.errors import BucketNameError, MediaSettingsError
from luma_pipeline.media.keys import DEFAULT_KEY_TEMPLATE, KeyTemplate
from luma_pipeline.media.store import BUCKET_SETTING, ObjectSettings
from luma_pipeline.s3 import BucketNameError as S3BucketNameError
from luma_pipeline.s3 import check_bucket_name
from luma_pipeline.s3.uploads import LARGEST_PART_COUNT, SMALLEST_PART_BYTES

__all__ = ["TransferConfig"]

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """The settings of a `MediaCopier`.

    bucket, prefix, key_template: where objects go. The template knows `{task_id}`, `{artifact}`, and at its end
        `{extension}`.
    max_workers: artifacts that are fetched at the same time.
    part_size_bytes: bytes of a part of a multipart upload, and of a worker's buffer.
    overwrite: copies again, whatever stands under the key.
    objects: how objects are kept.
    limits: how long, how slow, how often and how much of one download.
    allowed_media_hosts: exact names or `*.suffix`; empty lets any public host be asked.
    allow_private_addresses: for a sandbox; else no private, loopback or link-local address is connected to.
    connect_timeout, read_timeout: seconds, for the media host. `read_timeout` is for the answer's head as a whole and
        for each wait for bytes of its body.

    Raises BucketNameError or MediaSettingsError (both ValueError) for settings that cannot work.

    >>> from luma_pipeline.media import Artifact
    >>> TransferConfig(bucket="my-videos", prefix="luma").template.key("abc", Artifact.VIDEO, "mp4")
    'luma/abc/video.mp4'
    """

    bucket: str
    prefix: str = ""
    key_template: str = DEFAULT_KEY_TEMPLATE
    max_workers: int = 8
    part_size_bytes: int = 8 * MIB
    overwrite: bool = False
    objects: ObjectSettings = field(default_factory=ObjectSettings)
    limits: DownloadLimits = field(default_factory=lambda: DownloadLimits(max_bytes=20 * GIB))
    allowed_media_hosts: Sequence[str] = ()
    allow_private_addresses: bool = False
    connect_timeout: float = 10.0
    read_timeout: float = 30.0

    def __post_init__(self) -> None:
        try:
            check_bucket_name(self.bucket, BUCKET_SETTING)
        except S3BucketNameError as error:
            raise BucketNameError(str(error)) from None
        if self.max_workers < 1:
            raise MediaSettingsError("max_workers (LUMA_COPY_WORKERS): at least 1")
        most = self.part_size_bytes * LARGEST_PART_COUNT
        if self.part_size_bytes < SMALLEST_PART_BYTES or most < self.limits.max_bytes:
            raise MediaSettingsError(
                f"part_size_bytes (LUMA_PART_SIZE_BYTES): at least {SMALLEST_PART_BYTES}, and max_video_bytes / "
                f"{LARGEST_PART_COUNT}: S3 takes no smaller and no more parts"
            )
        _ = self.template
        _ = self.guard

    @property
    def template(self) -> KeyTemplate:
        """The keys of artifacts."""
        return KeyTemplate(self.key_template, self.prefix)

    @property
    def guard(self) -> Guard:
        """Which media hosts may be asked."""
        return Guard(self.allowed_media_hosts, allow_private_addresses=self.allow_private_addresses)
