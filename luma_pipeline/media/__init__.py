"""The media room: from a CDN's link to a whole, verified object in an S3 bucket.

`MediaCopier` is the way in; what it is given and what it gives back are the data classes and enums beside it. Errors
that stop a run are `BucketError`; everything that befalls one artifact is a `CopyResult`. Nothing here knows Dagster.
"""

from luma_pipeline.media.artifacts import (
    DEFAULT_LINK_PREFERENCE,
    Artifact,
    LinkSource,
    MediaKind,
    preferred_link,
)
from luma_pipeline.media.copier import MediaCopier
from luma_pipeline.media.errors import BucketError, CopyCancelled, CopyError, ErrorCode, MediaError
from luma_pipeline.media.links import expires_at, redact_link
from luma_pipeline.media.results import CopyRequest, CopyResult, CopyStatus, KnownObject

__all__ = [
    "DEFAULT_LINK_PREFERENCE",
    "Artifact",
    "BucketError",
    "CopyCancelled",
    "CopyError",
    "CopyRequest",
    "CopyResult",
    "CopyStatus",
    "ErrorCode",
    "KnownObject",
    "LinkSource",
    "MediaCopier",
    "MediaError",
    "MediaKind",
    "expires_at",
    "preferred_link",
    "redact_link",
]
