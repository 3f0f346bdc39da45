"""Ports of this machine that nothing listens on."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the ports that are handed to outgoing connections and for port 0, and beside those of the sandbox's store: so
# nothing takes one between its choice and its use, nor while the server that has it is started again.
_PORTS_TO_CHOOSE_FROM = range(11_000, 15_000)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in random.sample(_PORTS_TO_CHOOSE_FROM, 20 * count):
            bound = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                bound.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError("no free ports")
