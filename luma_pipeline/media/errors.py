"""What can go wrong on the way from a CDN to the bucket, and which of it stops a whole run."""

from __future__ import annotations

from enum import StrEnum

from luma_pipeline.errors import ConfigurationError, ItemError, LumaPipelineError, PassingError


class ErrorCode(StrEnum):
    """Why one artifact was not copied: the `error_code` of its row in `luma_videos`."""

    NO_LINK = "no_link"
    """The provider's answer has no link for this artifact."""
    LINK_EXPIRED = "link_expired"
    """The link has died (400 to 404, 410, 451, or its own expiry), and no living one could be had for it."""
    LINK_UNAVAILABLE = "link_unavailable"
    """The provider could not be asked for a link at the moment; it is asked again."""
    BAD_SCHEME = "bad_scheme"
    """Neither http nor https, or an https link that redirects to http, or no readable URL at all."""
    FORBIDDEN_HOST = "forbidden_host"
    """The host is not among `allowed_media_hosts`."""
    FORBIDDEN_ADDRESS = "forbidden_address"
    """The host's address is private, loopback, link-local, a cloud's metadata service, or not a host's address."""
    TOO_MANY_REDIRECTS = "too_many_redirects"
    """More redirects than `max_redirects`, or one that leads nowhere."""
    HTTP_STATUS = "http_status"
    """The media host answered with a status that is neither success nor a dead link, on every attempt."""
    CONNECTION = "connection"
    """The media host could not be reached, or broke the protocol, on every attempt."""
    STALLED = "stalled"
    """Slower than `min_bytes_per_second`, or silent for longer than the read time-out, on every attempt."""
    DEADLINE = "deadline"
    """The transfer as a whole took longer than `max_seconds`."""
    TOO_LARGE = "too_large"
    """More bytes than `max_video_bytes`."""
    ENCODED_BODY = "encoded_body"
    """The body is content-encoded although identity was asked for: its bytes are not the file's bytes."""
    WRONG_LENGTH = "wrong_length"
    """Shorter or longer than promised, by the media host or by the file's own structure, or without index or media."""
    NOT_MEDIA = "not_media"
    """The first bytes are those of no video or picture (an error page, an empty body)."""
    WRONG_TYPE = "wrong_type"
    """A video where a picture should be, a picture where a video should be, or text by its own Content-Type."""
    KEY_TAKEN = "key_taken"
    """Under the artifact's key stands another's object; `overwrite` replaces it."""
    STORE_ERROR = "store_error"
    """The bucket did not take the object, or would not let it be looked at, also after retries."""
    UNEXPECTED = "unexpected"
    """Something failed in a way that nothing here provides for; the message has the error's type, the log its place."""

    def __str__(self) -> str:
        return self.value


class MediaError(LumaPipelineError):
    """Base of every error of this room."""


class CopyError(MediaError, ItemError):
    """One artifact cannot be copied: it becomes that artifact's row, and no other suffers.

    The message never holds the query of a link.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class BucketError(MediaError, ConfigurationError):
    """Nothing can be copied: no such bucket, no permission, no credentials, no store. The message says what to do."""


class BucketNameError(BucketError, ValueError):
    """No bucket can have the name that the settings give."""


class StoreUnavailableError(BucketError, PassingError):
    """The store failed for one artifact after the other. What was copied stays; a later run may copy the rest.

    It is a PassingError and, for whoever catches BucketError, that too: ask for PassingError first.
    """


class MediaSettingsError(MediaError, ConfigurationError, ValueError):
    """A setting of the copier cannot work; the message names it."""


class CopyCancelled(MediaError):  # noqa: N818  (asked for, not a fault)
    """The copier was closed while this artifact was under way; nothing of it is in the bucket."""
