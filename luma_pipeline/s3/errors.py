"""The S3 room: its errors, and what an answer of a store means."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    InvalidConfigError,
    InvalidEndpointDiscoveryConfigurationError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from luma_pipeline.errors import ConfigurationError, LumaPipelineError, PassingError

__all__ = [
    "FAULTS",
    "BucketNameError",
    "ErrorTranslator",
    "NotS3Error",
    "ObjectArchivedError",
    "ObjectExistsError",
    "S3DeniedError",
    "S3Error",
    "S3RequestError",
    "S3SettingsError",
    "check_bucket_name",
    "check_key",
    "code_of",
    "message_of",
    "status_of",
    "without_secrets",
]


class S3Error(LumaPipelineError):
    """Base of this room's errors. `code` and `status` are the store's, where it answered with an error."""

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class S3SettingsError(S3Error, ConfigurationError):
    """A setting, a key or the account is wrong; the message says which and what to do."""


class BucketNameError(S3SettingsError, ValueError):
    """No bucket can have this name."""


class S3DeniedError(S3SettingsError):
    """The store refuses a request with these credentials. For a read, one object alone may be concerned."""


class S3RequestError(S3Error, PassingError):
    """The store failed, or did not answer. The same request may succeed later."""


class ObjectExistsError(S3Error):
    """A conditional write found another object, or another version of it, under the key."""


class ObjectArchivedError(S3Error):
    """The object is in an archive and can be read only after it is restored."""


class NotS3Error(Exception):
    """An answer with a success status that no S3 store gives, such as the page of a portal. For the translator."""


# boto3 follows a portal's redirect by calling itself: the RecursionError comes wrapped or bare, by where it ends.
FAULTS = (BotoCoreError, ClientError, ResponseParserError, NotS3Error, RecursionError)
"""What a request through boto3 ends with in place of an answer."""

_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403", "401", "Unauthorized"}
_KEYS = {
    "InvalidAccessKeyId": "the store does not know the access key: check AWS_ACCESS_KEY_ID or the AWS profile",
    "SignatureDoesNotMatch": (
        "the signature is wrong: check AWS_SECRET_ACCESS_KEY or the AWS profile, and that no proxy changes requests"
    ),
    "ExpiredToken": "the temporary keys have expired: renew AWS_SESSION_TOKEN and its keys",
    "TokenRefreshRequired": "the temporary keys have expired: renew AWS_SESSION_TOKEN and its keys",
    "InvalidToken": "the session token is wrong: check AWS_SESSION_TOKEN, which belongs to temporary keys alone",
    "RequestTimeTooSkewed": "the clock of this machine and the store's differ: set the clock right",
    "NotSignedUp": "the account is not signed up: check it with the provider of the store",
    "InvalidPayer": "the account cannot pay: check it with the provider of the store",
}
_REGION = {
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
}
_FULL = re.compile(r"quota|storage ?full|insufficientstorage|storagelimit|cap ?exceeded|outofspace", re.IGNORECASE)
_SECRETS = re.compile(r"(?=[^\s]*[a-z])(?=[^\s]*[A-Z])(?=[^\s]*[0-9])[A-Za-z0-9+/=_-]{36,}")
_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
    InvalidConfigError,
    ProfileNotFound,
)
# Requests that boto3 makes for temporary keys, in the middle of one of ours.
_KEY_REQUESTS = {"AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetRoleCredentials"}
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
# Control characters, surrogates, line and paragraph separators.
_NO_KEYS = {"Cc", "Cs", "Zl", "Zp"}
_LONGEST_MESSAGE = 300
_PORTAL = "check AWS_ENDPOINT_URL_S3, and that no portal or proxy stands in front of the store"


def check_bucket_name(name: str, setting: str) -> None:
    """Raise BucketNameError, which names `setting`, unless a bucket can have this name. ARNs of access points can.

    >>> check_bucket_name("my-videos", "LUMA_S3_BUCKET")
    >>> check_bucket_name("s3://my-videos/x", "LUMA_S3_BUCKET")
    Traceback (most recent call last):
    luma_pipeline.s3.errors.BucketNameError: LUMA_S3_BUCKET 's3://my-videos/x': the name alone, such as 'my-videos'
    """
    if name.startswith("arn:"):
        return
    if _BUCKET_NAME.fullmatch(name) and ".." not in name and not _ADDRESS.fullmatch(name):
        return
    name = name.rpartition("@")[2]  # what stands before it may be a password
    bare = re.sub(r"^\w+://", "", name).strip().strip("/").partition("/")[0].lower()
    if not name.strip():
        why = "is empty: give it the bucket's name, such as 'my-videos'"
        raise BucketNameError(f"{setting} {why}")
    if _BUCKET_NAME.fullmatch(bare):
        raise BucketNameError(f"{setting} {name!r}: the name alone, such as {bare!r}")
    raise BucketNameError(
        f"{setting} {name!r} is no bucket's name: 3 to 63 lowercase letters, digits, dots and hyphens, "
        "such as 'my-videos'"
    )


def check_key(key: str, where: str) -> None:
    """Raise S3SettingsError, which begins with `where`, for what stores, XML or tools would read as another key.

    >>> check_key("videos/2024", "prefix")
    >>> check_key("videos//2024", "prefix")
    Traceback (most recent call last):
    luma_pipeline.s3.errors.S3SettingsError: prefix: has an empty segment (a slash beside a slash, or at an end)
    """
    segments = key.split("/")
    if "" in segments:
        raise S3SettingsError(f"{where}: has an empty segment (a slash beside a slash, or at an end)")
    if {".", ".."} & set(segments):
        raise S3SettingsError(f"{where}: has a segment that is a dot or two, which tools take for a folder")
    if any(unicodedata.category(c) in _NO_KEYS or c in "\ufffe\uffff" for c in key):
        raise S3SettingsError(f"{where}: has a control character, a line break, or what is no character")


class ErrorTranslator:
    """Says what an error of boto3 means: its kind by class, the store's own words, and the setting it is about.

    `permissions` is what credentials need, to be named where the store denies; `setting` names the bucket.
    """

    def __init__(self, bucket: str, endpoint: str, *, permissions: str, setting: str) -> None:
        self._where = f"bucket {bucket!r} ({without_secrets(endpoint)})"
        self._permissions = permissions
        self._setting = setting

    def translate(self, error: Exception, doing: str, *, is_bucket: bool = False) -> S3Error:
        """An error of ours. `is_bucket`: the request was about the bucket, so that a 404 means that it is missing."""
        code, status = code_of(error), status_of(error)

        def made(kind: type[S3Error], text: str) -> S3Error:
            return kind(f"{self._where}: {text}", code=code, status=status)

        said = _said(error)
        if isinstance(error, ClientError) and error.operation_name in _KEY_REQUESTS:
            hint = "check role_arn and source_profile of the AWS profile, and what the role trusts"
            return made(S3SettingsError, f"no usable S3 credentials: {error.operation_name} failed ({said}); {hint}")
        if not isinstance(error, ClientError):
            return made(*self._without_answer(error, doing, is_bucket=is_bucket))
        if code == "InvalidObjectState":
            return made(ObjectArchivedError, f"{doing}: {said}")
        if code == "NoSuchBucket" or (is_bucket and status == 404):
            return made(
                S3SettingsError, f"does not exist; create it, or set {self._setting} and AWS_REGION right ({said})"
            )
        if code in _KEYS:
            return made(S3SettingsError, f"the store refuses the credentials ({said}); {_KEYS[code]}")
        if code in _REGION or status in {301, 302, 303, 307, 308}:
            kind = S3SettingsError if is_bucket or code in _REGION or status == 301 else S3RequestError
            return made(kind, f"{doing}: the store answered {status} ({said}); {_region_hint(error)}")
        if code == "InvalidBucketName":
            return made(S3SettingsError, f"{said}; set {self._setting} to the name of a bucket")
        is_refusal = status is not None and (400 <= status < 500 or status == 507) and status not in {408, 429}
        if is_refusal and _FULL.search(f"{code} {message_of(error)}"):
            return made(
                S3SettingsError, f"{doing}: {said}; raise the quota of the account or the bucket, or free space"
            )
        if status in {401, 403} or code in _DENIED:
            return made(S3DeniedError, f"denied while {doing} ({said}); {self._denied_hint(error)}")
        if is_bucket and status == 400:
            return made(S3SettingsError, f"cannot be reached ({said}); check AWS_ENDPOINT_URL_S3 and AWS_REGION")
        hint = f"; the answer is not S3's: {_PORTAL}" if _is_page(error) else ""
        return made(S3RequestError, f"{doing}: the store answered {status} ({said}){hint}")

    def _without_answer(self, error: Exception, doing: str, *, is_bucket: bool) -> tuple[type[S3Error], str]:
        if isinstance(error, _CREDENTIALS):
            said = without_secrets(str(error))
            return S3SettingsError, (
                f"no usable S3 credentials ({said}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        if isinstance(error, NotS3Error | ResponseParserError):
            # In the middle of a run it is one answer of many, cut or from a proxy.
            return S3SettingsError if is_bucket else S3RequestError, (
                f"{doing}: the answer is not S3's ({_said(error)}); {_PORTAL}"
            )
        if isinstance(error, ParamValidationError | InvalidEndpointDiscoveryConfigurationError):
            return S3SettingsError, f"{doing}: {without_secrets(str(error))}; set {self._setting} right"
        if isinstance(error, SSLError):
            kind = S3SettingsError if is_bucket else S3RequestError
            return kind, f"{doing}: {_said(error)}; check AWS_CA_BUNDLE and AWS_ENDPOINT_URL_S3"
        if isinstance(error, ProxyConnectionError):
            return S3RequestError, f"{doing}: no answer ({_said(error)}); check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        return S3RequestError, f"{doing}: no answer ({_said(error)}); check AWS_ENDPOINT_URL_S3 and AWS_REGION"

    def _denied_hint(self, error: Exception) -> str:
        text = f"{code_of(error)} {message_of(error)}".lower()
        if "unsigned" in text or "content-sha256" in text:
            return "the store wants signed payloads: set payload_signing_enabled = true under s3 in the AWS config file"
        if code_of(error).isdigit():
            return f"the credentials need {self._permissions}; or a proxy or portal answers in place of the store"
        return f"the credentials need {self._permissions}"


def code_of(error: Exception) -> str:
    """The store's error code; the error's class where there was no answer."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code") or "") or str(status_of(error) or "")
    return type(error).__name__


def message_of(error: Exception) -> str:
    """The store's own message, or empty text."""
    return str(error.response.get("Error", {}).get("Message") or "") if isinstance(error, ClientError) else ""


def status_of(error: Exception) -> int | None:
    """The HTTP status; None where there was no answer."""
    if not isinstance(error, ClientError):
        return None
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(status) if status is not None else None


def _said(error: Exception) -> str:
    """The code and the message of the store on one line, without what may be a secret."""
    if isinstance(error, ClientError):
        message = without_secrets(message_of(error))
        if _is_page(error):
            return f"{without_secrets(code_of(error))}: a page of type {_content_type(error)}, not S3's XML"
        return f"{without_secrets(code_of(error))}: {message}" if message else without_secrets(code_of(error))
    if isinstance(error, NotS3Error):
        return without_secrets(str(error))
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError | ReadTimeoutError | SSLError):
        # Their text has the URL, which has no signature: boto3 signs in headers.
        return without_secrets(f"{type(error).__name__}: {error}")
    wrapped = error.kwargs.get("error") if isinstance(error, HTTPClientError) else error
    if isinstance(wrapped, RecursionError):
        return "redirects without end"
    if isinstance(error, BotoCoreError):
        return type(error).__name__
    return "no XML"


def without_secrets(text: str) -> str:
    """Text on one line, without tags, queries, user names, passwords, and what looks like a key or a token."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    plain = re.sub(r"<[^>]{0,200}>", " ", plain)
    plain = re.sub(r"//[^/\s@]*@", "//", plain)
    plain = re.sub(r"\?[^\s'\"]*", "?…", _SECRETS.sub("[redacted]", plain))
    return " ".join(plain.split())[:_LONGEST_MESSAGE]


def _region_hint(error: ClientError) -> str:
    response: dict[str, Any] = dict(error.response)
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region") or response.get("Error", {}).get("Region")
    if region:
        return f"the bucket's region is {without_secrets(str(region))}: set AWS_REGION to it"
    if code_of(error) in _REGION:
        return "check AWS_REGION and AWS_ENDPOINT_URL_S3"
    return _PORTAL


def _is_page(error: ClientError) -> bool:
    """Whether the error is a page: boto3 makes a 500 of one with status 200. The answer to a HEAD has no body."""
    kind = _content_type(error)
    return bool(kind) and "xml" not in kind and code_of(error).isdigit() and error.operation_name != "HeadObject"


def _content_type(error: ClientError) -> str:
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return without_secrets(str(headers.get("content-type", "")).partition(";")[0]).lower()
