"""A gateway that answers out of memory: batches (`POST /luma/tasks`) and single requests, in a process of its own.

Usage: python -m benchmarks.gateway TASKS SIZE. It prints its port. Tasks are `task-00000000` and so on, asked for in
their order, SIZE at a time. So it costs far less than who asks, and the figures are those of the client.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "tests" / "luma" / "page_example.json"
_ID_BYTES = len(b"task-00000000")


@contextlib.contextmanager
def batch_server(tasks: int, size: int) -> Iterator[str]:
    """The gateway, as its URL."""
    command = [sys.executable, "-m", "benchmarks.gateway", str(tasks), str(size)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.wait()


def _entry(page: dict[str, object], task_id: str) -> dict[str, object]:
    return {
        "task_id": task_id,
        "status": "SUCCESS",
        "fail_reason": "",
        "submit_time": 1735063285,
        "start_time": 1735063285,
        "finish_time": 1735063300,
        "data": {**page, "id": task_id},
    }


def _answer(body: object) -> bytes:
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


def _serve(connection: socket.socket, page: dict[str, object], batches: dict[bytes, bytes]) -> None:
    with connection, connection.makefile("rb") as lines:
        while first := lines.readline():
            length = 0
            while (line := lines.readline().lower()) not in (b"\r\n", b""):
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            body = lines.read(length)
            if first.startswith(b"POST"):
                start = body.index(b"task-")
                connection.sendall(batches[body[start : start + _ID_BYTES]])
            else:
                task_id = first.split()[1].rpartition(b"/")[2].decode()
                connection.sendall(_answer({**page, "id": task_id}))


def main() -> None:
    """Serve until the process is ended."""
    tasks, size = int(sys.argv[1]), int(sys.argv[2])
    page = json.loads(EXAMPLE.read_text())
    ids = [f"task-{number:08}" for number in range(tasks)]
    batches = {
        ids[start].encode(): _answer(
            {"code": "success", "message": "", "data": [_entry(page, name) for name in ids[start : start + size]]}
        )
        for start in range(0, tasks, size)
    }
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(connection, page, batches), daemon=True).start()


if __name__ == "__main__":
    main()
