"""The S3 room: how a client is made."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError

from luma_pipeline.s3.errors import S3SettingsError, without_secrets
from luma_pipeline.s3.listing import read_contents
from luma_pipeline.s3.redaction import redact_logs

if TYPE_CHECKING:
    import botocore.session
    from mypy_boto3_s3 import S3Client

__all__ = ["endpoint_and_region", "make_client", "sets_payload_signing"]


def make_client(*, max_connections: int, timeouts: tuple[float, float], max_attempts: int = 5) -> S3Client:
    """An S3 client by boto3's chain of settings and credentials.

    The chain covers profiles with `role_arn` and `source_profile`, `endpoint_url`, `AWS_ENDPOINT_URL_S3`,
    `AWS_CA_BUNDLE`, `addressing_style`, and temporary keys that boto3 renews. `AWS_REGION` counts too: all SDKs but
    boto3 read it. What the AWS config says of signed payloads and of checksums holds. `timeouts` are seconds to
    connect and to wait for bytes.

    Raises S3SettingsError, which names the setting, for settings that boto3 refuses.
    """
    # Imported by whoever needs a client: the code server needs none.
    import boto3
    import botocore.session
    from botocore.config import Config

    try:
        # A session of its own: the default one is not safe to build clients from in several threads.
        core = botocore.session.get_session()
        core.register_component("data_loader", _data_loader(core.get_config_variable("data_path")))
        settings: dict[str, Any] = {
            name: "when_required"
            for name in ("request_checksum_calculation", "response_checksum_validation")
            if not _is_set(core, name)
        }
        if not sets_payload_signing(core):
            # The checksum of a body is in a signed header, so that hashing the body once more proves nothing.
            settings["s3"] = {"payload_signing_enabled": False}
        config = Config(
            connect_timeout=timeouts[0],
            read_timeout=timeouts[1],
            max_pool_connections=max_connections,
            retries={"mode": "standard", "total_max_attempts": max_attempts},
            tcp_keepalive=True,
            **settings,
        )
        session = boto3.session.Session(botocore_session=core, region_name=os.environ.get("AWS_REGION") or None)
        client = session.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise S3SettingsError(f"cannot set up an S3 client: {without_secrets(str(error))}{_hint(error)}") from None
    redact_logs()
    # The first star makes it the first handler: botocore's own parses the body to find out whether it is an error.
    client.meta.events.register("before-parse.*.ListObjectsV2", read_contents)
    return client


@cache
def _data_loader(data_path: str | None) -> Any:
    """botocore's descriptions of S3, read once for all clients: 40 ms of CPU each."""
    from botocore.loaders import create_loader

    return create_loader(data_path)


def endpoint_and_region() -> tuple[str | None, str | None]:
    """The address of a store that is not AWS, without user and query, and the region; None for what is not set.

    Nothing is connected, and a setting that boto3 refuses counts as not set.
    """
    import botocore.session
    from botocore.configprovider import ConfiguredEndpointProvider

    try:
        core = botocore.session.get_session()
        region = os.environ.get("AWS_REGION") or core.get_config_variable("region")
        found = ConfiguredEndpointProvider(core.full_config, core.get_scoped_config(), "s3").provide()
    except (BotoCoreError, ValueError):
        return None, None
    parts = urlsplit(found or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None, region
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}", region


def sets_payload_signing(core: botocore.session.Session | None = None) -> bool:
    """Whether the AWS config says if payloads are signed; then that holds, whatever a store would rather have."""
    import botocore.session

    core = core or botocore.session.get_session()
    return (core.get_config_variable("s3") or {}).get("payload_signing_enabled") is not None


def _is_set(core: botocore.session.Session, name: str) -> bool:
    """Whether the environment or the profile sets a variable that has a default."""
    return bool(os.environ.get(f"AWS_{name.upper()}") or core.get_scoped_config().get(name))


def _hint(error: Exception) -> str:
    text = str(error).lower()
    if "endpoint" in text:
        return "; AWS_ENDPOINT_URL_S3 (or endpoint_url of the AWS profile) is a URL such as https://s3.example.com"
    if "profile" in text:
        return "; check AWS_PROFILE and the AWS config file"
    if "region" in text:
        return "; check AWS_REGION"
    return "; check the AWS_* settings and the AWS config file"
