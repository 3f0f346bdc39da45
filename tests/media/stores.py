"""S3 stores to copy into: SeaweedFS, moto and rclone, each a real server on a free port of loopback."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from tests.ports import free_ports

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"
READER_KEY, READER_SECRET = "readerkey", "readersecret"
_BIN = Path(sys.executable).parent
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Store:
    """A running store."""

    name: str
    port: int

    @property
    def endpoint(self) -> str:
        """What to give to an S3 client."""
        return f"http://127.0.0.1:{self.port}"

    @lru_cache  # noqa: B019  (a handful of stores; a client takes a tenth of a second to build)
    def client(self, *, endpoint: str | None = None, key: str = ACCESS_KEY, secret: str = SECRET_KEY) -> S3Client:
        """A client like the copier's own, with keys and endpoint given and fast retries."""
        config = Config(
            connect_timeout=5,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 2},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"payload_signing_enabled": False},
        )
        return boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint or self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=config,
        )

    def environment(self) -> dict[str, str]:
        """The settings for boto3's standard chain."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
        }


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{log.name} did not come up:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def _running(name: str, command: list[str], port: int, folder: Path) -> Iterator[Store]:
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    try:
        _wait_for(process, port, log)
        yield Store(name, port)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[Store]:
    """SeaweedFS with an administrator and an identity that may only read."""
    identities = [
        {
            "name": "admin",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER_KEY, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
    ]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": identities}))
    data = folder / "weed"
    data.mkdir()
    ports = free_ports(11)
    names = ("s3.port", "master.port", "filer.port", "volume.port", "admin.port", "metricsPort")
    grpc = ("s3.port.grpc", "master.port.grpc", "filer.port.grpc", "volume.port.grpc", "admin.port.grpc")
    flags = [f"-{name}={port}" for name, port in zip(names + grpc, ports, strict=True)]
    command = [
        str(_BIN / "weed"),
        "mini",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-admin.ui=false",
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={data / 's3.sock'}",
        f"-filer.localSocket={data / 'filer.sock'}",
        "-s3.autoCreateBucket=false",
        f"-s3.config={config}",
        *flags,
    ]
    with _running("seaweedfs", command, ports[0], folder) as store:
        yield store


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[Store]:
    """Moto's server: strict about requests, knows conditional writes."""
    (port,) = free_ports(1)
    command = [str(_BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with _running("moto", command, port, folder) as store:
        yield store


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[Store]:
    """Rclone's S3 over a folder: knows no conditions, and forgets the metadata of small objects."""
    (port,) = free_ports(1)
    data = folder / "rclone"
    data.mkdir()
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    config = folder / "rclone.conf"
    config.touch()
    command = [
        str(_BIN / "rclone"),
        "serve",
        "s3",
        "--config",
        str(config),
        "--addr",
        f"127.0.0.1:{port}",
        "--auth-key",
        keys,
        str(data),
    ]
    with _running("rclone", command, port, folder) as store:
        yield store
