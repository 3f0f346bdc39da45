"""The servers of the benchmarks: nginx for what is fetched, SeaweedFS for what is stored, both on loopback."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import trustme

from luma_pipeline.sandbox.s3 import ObjectStore

_START_SECONDS = 20.0
_VOLUME_SIZE_MB = 16 * 1024
"""Larger than any set: the store makes others wait a second when it begins a new volume, and nobody is to pay for that
by chance."""

_NGINX_CONFIG = """
worker_processes 1; daemon off; pid {work}/pid; error_log {work}/log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; {limit} keepalive_requests 100000000;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  types {{ video/mp4 mp4; }}
  server {{ listen 127.0.0.1:{port}{tls}; root {root}; }}
}}
"""


@contextlib.contextmanager
def file_server(root: Path, work: Path, *, bytes_per_second: int = 0, certificate: Path | None = None) -> Iterator[str]:
    """nginx with one worker over the files of `root`, its own files in `work`; yields its URL.

    `bytes_per_second` limits each connection; zero does not. `certificate` is a PEM file with its key: https.

    Raises SystemExit where nginx is not installed, RuntimeError when it does not come up.
    """
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise SystemExit("nginx is not installed: apt-get install nginx")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    work.mkdir()
    # Started as root, nginx reads files as another user.
    for directory in (root, root.parent):
        directory.chmod(0o755)
    config = work / "nginx.conf"
    limit = f"limit_rate {bytes_per_second};" if bytes_per_second else ""
    tls = f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}" if certificate else ""
    config.write_text(_NGINX_CONFIG.format(work=work, root=root, port=port, limit=limit, tls=tls))
    process = subprocess.Popen([nginx, "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        _wait_until_up(process, port)
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_until_up(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("nginx did not come up")


def make_certificate(work: Path) -> tuple[Path, dict[str, str]]:
    """A certificate for 127.0.0.1 with its key, and the environment in which clients trust it."""
    authority, certificate = trustme.CA(), work / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    trusted = str(work / "authority.pem")
    authority.cert_pem.write_to_path(trusted)
    return certificate, dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), trusted)


@contextlib.contextmanager
def empty_store(directory: Path, bucket: str) -> Iterator[ObjectStore]:
    """SeaweedFS with one bucket that has taken its first write; its data are removed at the end."""
    try:
        with ObjectStore(directory, volume_size_mb=_VOLUME_SIZE_MB) as store:
            store.create_bucket(bucket)
            client = store.client()
            # The first write makes the bucket's volumes, which no rival is to pay for.
            client.put_object(Bucket=bucket, Key="first", Body=b"x")
            client.delete_object(Bucket=bucket, Key="first")
            yield store
    finally:
        shutil.rmtree(directory, ignore_errors=True)
