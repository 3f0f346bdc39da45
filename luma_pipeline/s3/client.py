"""The S3 room: how a client is made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from luma_pipeline.s3.errors import S3SettingsError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["make_client"]


def make_client(*, max_connections: int, timeouts: tuple[float, float], max_attempts: int = 5) -> S3Client:
    """An S3 client by boto3's standard chain of settings and credentials (`AWS_ENDPOINT_URL_S3` for other stores).

    `AWS_REGION` counts too, which all SDKs read but boto3.
    """
    config = Config(
        connect_timeout=timeouts[0],
        read_timeout=timeouts[1],
        max_pool_connections=max_connections,
        retries={"mode": "standard", "total_max_attempts": max_attempts},
        tcp_keepalive=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False},
    )
    try:
        # A session of its own: the default one is not safe to build clients from in several threads.
        session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
        return session.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise S3SettingsError(f"cannot set up an S3 client: {error}; check the AWS_* settings") from error
