"""The media room: from a CDN's link to a whole, verified object in an S3 bucket.

`MediaCopier` is the way in; what it is given and what it gives back are the data classes and enums beside it. Errors
that stop a run are `BucketError`; how one artifact ended is a `CopyResult`. Nothing here knows Dagster.
"""

from luma_pipeline.media.artifacts import (
    DEFAULT_LINK_PREFERENCE,
    Artifact,
    LinkSource,
    MediaKind,
    preferred_link,
)
from luma_pipeline.media.config import TransferConfig
from luma_pipeline.media.copier import MediaCopier
from luma_pipeline.media.download import DownloadLimits
from luma_pipeline.media.errors import (
    BucketError,
    BucketNameError,
    CopyCancelled,
    CopyError,
    ErrorCode,
    MediaError,
    MediaSettingsError,
    StoreUnavailableError,
)
from luma_pipeline.media.facts import MediaFacts
from luma_pipeline.media.links import expires_at, redact_link
from luma_pipeline.media.results import CopyRequest, CopyResult, CopyStatus, KnownObject
from luma_pipeline.media.store import ObjectSettings

__all__ = [
    "DEFAULT_LINK_PREFERENCE",
    "Artifact",
    "BucketError",
    "BucketNameError",
    "CopyCancelled",
    "CopyError",
    "CopyRequest",
    "CopyResult",
    "CopyStatus",
    "DownloadLimits",
    "ErrorCode",
    "KnownObject",
    "LinkSource",
    "MediaCopier",
    "MediaError",
    "MediaFacts",
    "MediaKind",
    "MediaSettingsError",
    "ObjectSettings",
    "StoreUnavailableError",
    "TransferConfig",
    "expires_at",
    "preferred_link",
    "redact_link",
]
