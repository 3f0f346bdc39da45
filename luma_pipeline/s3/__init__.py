"""The S3 room: one bucket through one boto3 client, by one chain of settings, for the videos and the datasets.

`ObjectStore` is the way in. Its errors are `S3Error` and say in the store's own words what is wrong and which setting
it is about. Nothing here knows what the objects are.
"""

from luma_pipeline.s3.capabilities import Capabilities
from luma_pipeline.s3.client import make_client
from luma_pipeline.s3.errors import (
    BucketNameError,
    ErrorTranslator,
    ObjectArchivedError,
    ObjectExistsError,
    S3DeniedError,
    S3Error,
    S3RequestError,
    S3SettingsError,
    check_bucket_name,
    check_key,
)
from luma_pipeline.s3.objects import ListedObject, ListedPage, ObjectHead, ObjectStore, WrittenObject
from luma_pipeline.s3.uploads import MultipartUpload, UploadedPart, abort_uploads, begin_upload, list_uploads
from luma_pipeline.s3.versions import NotDeleted, ObjectVersion, delete_versions, list_objects, list_versions

__all__ = [
    "BucketNameError",
    "Capabilities",
    "ErrorTranslator",
    "ListedObject",
    "ListedPage",
    "MultipartUpload",
    "NotDeleted",
    "ObjectArchivedError",
    "ObjectExistsError",
    "ObjectHead",
    "ObjectStore",
    "ObjectVersion",
    "S3DeniedError",
    "S3Error",
    "S3RequestError",
    "S3SettingsError",
    "UploadedPart",
    "WrittenObject",
    "abort_uploads",
    "begin_upload",
    "check_bucket_name",
    "check_key",
    "delete_versions",
    "list_objects",
    "list_uploads",
    "list_versions",
    "make_client",
]
