"""The S3 room: keeps keys and session tokens out of what botocore logs at DEBUG, of requests and of answers of STS."""

from __future__ import annotations

import logging
import re

__all__ = ["redact_logs"]

_NAMES = (
    r"x-amz-security-token|x-amz-s3session-token|secretaccesskey|secret_access_key|accesskeyid|access_key_id"
    r"|credential|sessiontoken|session_token|\btoken"
)
# `name: value`, `'name': b'value'`, `"Name" : "value"` and `<Name>value</Name>`.
_SECRETS = re.compile(rf"((?:{_NAMES})['\"]?\s*(?:[:=>]|%3d)\s*b?['\"]?)[A-Za-z0-9+/=_%.~-]{{8,}}", re.IGNORECASE)


class _Redacting(logging.Filter):
    """Takes the secrets out of a record's text."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        redacted = _SECRETS.sub(r"\1[redacted]", text)
        if redacted != text:
            record.msg, record.args = redacted, ()
        return True


_FILTER = _Redacting()


def redact_logs() -> None:
    """Let every logger of botocore that there is so far redact its records. Costs nothing where they are not logged."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in {"botocore", "boto3", "s3transfer"}:
            # A logger's filter does not see the records of its children.
            logging.getLogger(name).addFilter(_FILTER)
