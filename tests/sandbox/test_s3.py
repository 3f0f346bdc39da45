"""The object store: objects outlive restarts and kills, and it refuses what S3 refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from luma_pipeline.sandbox.s3 import ObjectStore, ObjectStoreError

BODY = b"\x00\x01" * 300_000


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_objects_outlive_a_restart_and_errors_are_those_of_s3(tmp_path: Path) -> None:
    started = time.time()
    with ObjectStore(tmp_path / "s3") as store:
        pid = store.pid
        assert pid is not None
        store.create_bucket("videos")
        store.create_bucket("videos")
        client = store.client()
        client.put_object(Bucket="videos", Key="one/video.mp4", Body=BODY, ContentType="video/mp4")
        with pytest.raises(ClientError, match="PreconditionFailed"):
            client.put_object(Bucket="videos", Key="one/video.mp4", Body=b"", IfNoneMatch="*")
        with pytest.raises(client.exceptions.NoSuchBucket):
            client.put_object(Bucket="elsewhere", Key="one", Body=b"")
        with pytest.raises(ObjectStoreError, match="Another running process"):
            ObjectStore(tmp_path / "s3").start()
    assert not is_running(pid)
    # A store that was killed, once, on the same port may have left its own.
    sockets = Path("/tmp").glob(f"seaweedfs-*-{store.endpoint_url.rsplit(':', 1)[1]}.sock")
    assert not [socket for socket in sockets if socket.stat().st_mtime >= started]

    with ObjectStore(tmp_path / "s3") as store:
        found = store.client().get_object(Bucket="videos", Key="one/video.mp4")
        assert found["Body"].read() == BODY
        assert found["ContentType"] == "video/mp4"
        store.create_bucket("videos")


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death signal is Linux's")
def test_the_store_ends_with_its_owner_and_starts_again_with_its_objects(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from luma_pipeline.sandbox.s3 import ObjectStore\n"
        "store = ObjectStore(sys.argv[1]).start()\n"
        "store.create_bucket('videos')\n"
        "store.client().put_object(Bucket='videos', Key='one', Body=b'kept')\n"
        "print(store.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_running(pid)
        os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)
    with ObjectStore(tmp_path) as store:
        assert store.client().get_object(Bucket="videos", Key="one")["Body"].read() == b"kept"


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ObjectStoreError, match=f"Port {port} on 127.0.0.1 is taken"):
            ObjectStore(tmp_path, port=port).start()
