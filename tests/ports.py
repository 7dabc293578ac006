"""Ports for servers that must be told theirs, as JupyterLab, PostgreSQL, nginx, Node."""

import os
import socket
from collections.abc import Iterator
from itertools import cycle

FIRST, EACH = 20_000, 400  # below what systems give to whoever asks for any port: 32768 on Linux, 49152 elsewhere


def _candidates() -> Iterator[int]:
    """The ports of this worker of xdist; another run on the machine begins elsewhere among them."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 30
    start = os.getpid() % EACH
    return cycle(FIRST + worker * EACH + (start + n) % EACH for n in range(EACH))


_ports = _candidates()


def free_port() -> int:
    """A port on which nobody listens, and which nobody is given meanwhile: not asked of the system, which may give it
    to the next who asks before the server has it."""
    for _ in range(EACH):
        port = next(_ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError(f"none of {EACH} ports is free")
