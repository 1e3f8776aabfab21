"""Which of a server's API processes a connection has reached."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
from support.serve_command import Command

API, ENGINE = "octavo.server.processes.process", "octavo.engine.process.engine_process"


def children(command: Command, module: str) -> set[int]:
    """The process ids of the server's children that run that module."""
    tasks = Path(f"/proc/{command.process.pid}/task").glob("*/children")
    found = {int(child) for task in tasks for child in task.read_text().split()}
    return {child for child in found if module.encode() in _read(Path(f"/proc/{child}/cmdline"))}


def client_of(command: Command, pid: int) -> httpx.Client:
    """A client whose one connection that API process has accepted."""
    for _ in range(200):
        limits = httpx.Limits(max_connections=1)
        # Without certificates to load, which take longer than all the rest.
        client = httpx.Client(base_url=command.url, timeout=60, limits=limits, verify=False)
        if _socket_of(client) in _sockets(pid):
            return client
        client.close()
    raise AssertionError(f"no connection reaches process {pid}")


def _socket_of(client: httpx.Client) -> str:
    """The server's end of a client's connection, as the kernel names it."""
    response = client.get("/version")
    stream = response.extensions["network_stream"]
    ports = f"{stream.get_extra_info('server_addr')[1]:04X}", f"{stream.get_extra_info('client_addr')[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, *rest = line.split()
        if (local.rpartition(":")[2], remote.rpartition(":")[2]) == ports:
            return f"socket:[{rest[5]}]"
    raise AssertionError("the connection is closed")


def _sockets(pid: int) -> set[str]:
    return {os.readlink(descriptor) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
