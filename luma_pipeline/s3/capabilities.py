"""The S3 room: what a store is found not to have, learnt once for each store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from luma_pipeline.s3.client import sets_payload_signing
from luma_pipeline.s3.errors import FAULTS, code_of, message_of, status_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["Capabilities"]

log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

# Refusals with a 4xx status that no header of ours is the reason for.
_ABOUT_OTHER_THINGS = {
    "BadDigest",
    "EntityTooLarge",
    "EntityTooSmall",
    "ExpiredToken",
    "IncompleteBody",
    "InvalidAccessKeyId",
    "InvalidBucketName",
    "InvalidDigest",
    "InvalidToken",
    "KeyTooLongError",
    "MalformedPOSTRequest",
    "NoSuchBucket",
    "NoSuchUpload",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "TokenRefreshRequired",
    "XAmzContentChecksumMismatch",
}
# Checksums first: without the condition, two runs at once could both write.
_LEFT_OUT: tuple[tuple[str, ...], ...] = ((), ("checksums",), ("conditions",), ("checksums", "conditions"))
_CONDITION_FAILED = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}


@dataclass
class Capabilities:
    """What a store takes; true until it refuses a request that it takes without the feature.

    One object for each store, shared by whoever talks to it: a lesson costs one request more, once.
    """

    conditional_writes: bool = True
    """`If-None-Match` and `If-Match` on writes."""
    checksums: bool = True
    """`x-amz-checksum-*` and `x-amz-sdk-checksum-*` headers, and the checksum's element in CompleteMultipartUpload."""
    start_after: bool = True
    """`start-after` in listings."""
    deletes_of_many: bool = True
    """`DeleteObjects`."""
    versions: bool = True
    """`ListObjectVersions`."""
    _signed_in_vain: set[str] = field(default_factory=set, repr=False)

    def attempt(
        self,
        client: S3Client,
        operation: str,
        request: Callable[[dict[str, Any]], _Answer],
        *,
        checksums: Mapping[str, Any] | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> _Answer:
        """Make a request with the arguments for features that the store is not known to lack.

        A refusal that a feature may be the reason for is met by the same request without it. What then succeeds is
        remembered. Raises the first error of boto3 where nothing succeeds.
        """
        features = {
            "checksums": dict(checksums or {}) if self.checksums else {},
            "conditions": dict(conditions or {}) if self.conditional_writes else {},
        }
        first: Exception | None = None
        for left_out in _LEFT_OUT:
            if any(not features[name] for name in left_out):
                continue
            kept = {name: features[name] for name in features if name not in left_out}
            try:
                answer = self._send(
                    client, operation, request, {**kept.get("checksums", {}), **kept.get("conditions", {})}
                )
            except FAULTS as error:
                if "conditions" in kept and is_condition_failed(error):
                    # An answer to the request: what was left out was the reason of the first refusal.
                    self._learn(left_out, first)
                    raise
                first = first or error
                if not _may_be_unsupported(first):
                    break
            else:
                self._learn(left_out, first)
                return answer
        raise first or AssertionError("unreachable")

    def _send(
        self, client: S3Client, operation: str, request: Callable[[dict[str, Any]], _Answer], extra: dict[str, Any]
    ) -> _Answer:
        """Make a request; a denied one once more with its body in the signature, unless that was in vain before."""
        try:
            return request(extra)
        except FAULTS as error:
            if operation in self._signed_in_vain or not _may_want_signed_payload(client, error):
                raise
            first = error
        settings: Any = client.meta.config.s3  # type: ignore[attr-defined]
        settings["payload_signing_enabled"] = True
        try:
            answer = request(extra)
        except FAULTS as error:
            if is_condition_failed(error):
                raise
            settings["payload_signing_enabled"] = False
            self._signed_in_vain.add(operation)
            raise first from None
        log.info("the store wants signed payloads: requests are signed with their bodies from now on")
        return answer

    def _learn(self, left_out: tuple[str, ...], first: Exception | None) -> None:
        why = f"{status_of(first)} {code_of(first)}" if first is not None else ""
        if "checksums" in left_out and self.checksums:
            self.checksums = False
            log.info("the store refuses checksums (%s): size and ETag confirm what is written", why)
        if "conditions" in left_out and self.conditional_writes:
            self.conditional_writes = False
            log.info("the store has no conditional writes (%s): two runs at once end with the later object", why)


def is_condition_failed(error: Exception) -> bool:
    """Whether the store says that the condition of a write does not hold."""
    return code_of(error) in _CONDITION_FAILED or status_of(error) in {409, 412}


def _may_be_unsupported(error: Exception) -> bool:
    """Whether a feature of the request may be the reason. A proxy that drops unknown headers breaks the signature."""
    code, status = code_of(error), status_of(error)
    if code in _ABOUT_OTHER_THINGS:
        return False
    is_named = status == 403 and "checksum" in message_of(error).lower()
    is_dropped = status == 403 and code in {"SignatureDoesNotMatch", "403"}
    return status in {400, 405, 415, 422, 501} or is_named or is_dropped


def _may_want_signed_payload(client: S3Client, error: Exception) -> bool:
    settings = getattr(client.meta.config, "s3", None) or {}
    if settings.get("payload_signing_enabled") is not False or code_of(error) in _ABOUT_OTHER_THINGS:
        return False
    text = f"{code_of(error)} {message_of(error)}".lower()
    says_so = "unsigned" in text or "sha256" in text
    is_denied = status_of(error) == 403 and code_of(error) != "SignatureDoesNotMatch"
    if not is_denied and not (says_so and status_of(error) in {400, 501}):
        return False
    return not sets_payload_signing()
