"""The HTTP room: its errors, and what each exception of the layers below means."""

from __future__ import annotations

import http.client
import socket
import ssl
from enum import StrEnum

from luma_pipeline.errors import ItemError, PassingError

__all__ = [
    "BodyTooLargeError",
    "TargetRefusedError",
    "TargetRefusedReason",
    "TransportCode",
    "TransportError",
    "transport_error",
]


class TransportCode(StrEnum):
    """Why no complete answer came."""

    CONNECTION = "connection"
    """No connection, or it broke."""
    DNS = "dns"
    """The host's name has no address."""
    CERTIFICATE = "certificate"
    """The host's certificate is not trusted."""
    TIMEOUT = "timeout"
    """The host did not connect, begin to answer, or send its next bytes in time."""
    DEADLINE = "deadline"
    """The answer was not complete when the time for the whole request was over."""
    BAD_HTTP = "bad_http"
    """What came is no readable HTTP."""
    CUT_BODY = "cut_body"
    """The body is shorter than its own framing says."""
    BAD_ENCODING = "bad_encoding"
    """The body is compressed in a way that was not asked for, or its compression is broken."""
    BODY_TOO_LARGE = "body_too_large"
    """The body is larger than the caller takes."""

    def __str__(self) -> str:
        return self.value


class TransportError(PassingError):
    """No complete answer came. `code` says why. The message holds no header and no query."""

    def __init__(self, code: TransportCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class BodyTooLargeError(TransportError):
    """The answer is larger than the caller takes. The same request brings the same answer again."""

    def __init__(self, message: str) -> None:
        super().__init__(TransportCode.BODY_TOO_LARGE, message)


class TargetRefusedReason(StrEnum):
    """Why a link is not followed."""

    BAD_SCHEME = "bad_scheme"
    """Neither http nor https, or no readable URL."""
    FORBIDDEN_HOST = "forbidden_host"
    """The host is not among the allowed ones."""
    FORBIDDEN_ADDRESS = "forbidden_address"
    """The host's address is private, loopback, link-local, a cloud's metadata service, or not a host's address."""

    def __str__(self) -> str:
        return self.value


class TargetRefusedError(ItemError):
    """A link that must not be followed; `reason` tells why. The message holds no query of a link."""

    def __init__(self, reason: TargetRefusedReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def root_cause(error: BaseException) -> BaseException:
    """The innermost exception: urllib3 hands the original over as an argument of its own exceptions."""
    for argument in reversed(error.args):
        if isinstance(argument, BaseException):
            return root_cause(argument)
    return error


def transport_error(error: BaseException, host: str) -> TransportError:
    """Say in our own words what went wrong with a request to `host`: the original may quote headers and links.

    Raise the result outside the `except` block, else the original is its context.
    """
    error = root_cause(error)
    if isinstance(error, TransportError):
        return error
    if isinstance(error, http.client.IncompleteRead):
        return TransportError(
            TransportCode.CUT_BODY, f"the answer from {host} broke off after {len(error.partial)} bytes"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return TransportError(
            TransportCode.CERTIFICATE, f"the certificate of {host} is not trusted: {error.verify_message}"
        )
    if isinstance(error, socket.gaierror):
        return TransportError(TransportCode.DNS, f"the name of {host} cannot be resolved: {error.strerror}")
    if isinstance(error, TimeoutError):
        return TransportError(TransportCode.TIMEOUT, f"{host} did not answer in time")
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return TransportError(TransportCode.CONNECTION, f"the connection to {host} failed: {reason}")
    return TransportError(TransportCode.BAD_HTTP, f"{host} does not answer in readable HTTP: {type(error).__name__}")
