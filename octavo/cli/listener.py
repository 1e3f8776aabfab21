"""The sockets that a server listens on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator

from octavo.cli.errors import CommandError
from octavo.server.config import ServerConfig


@contextlib.contextmanager
def listeners_of(config: ServerConfig) -> Iterator[list[socket.socket]]:
    """The sockets that the settings ask for, closed and gone after the block.

    One for each API process, between which the kernel spreads the connections; one in all on a path.
    """
    if config.uds is None:
        with contextlib.ExitStack() as listeners:
            opened = listen(config.host, config.port, config.api_server_count)
            yield [listeners.enter_context(each) for each in opened]
        return
    with listen_on_path(config.uds) as listener:
        try:
            yield [listener]
        finally:
            with contextlib.suppress(OSError):
                os.unlink(config.uds)


def listen_on_path(path: str) -> socket.socket:
    """A Unix socket at `path`, in place of one that nobody serves any more.

    Raises CommandError when something else is there or a server answers on it.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if os.path.lexists(path):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise FileExistsError(errno.EEXIST, "there is something that is not a socket")
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(path) == 0:
                    raise OSError(errno.EADDRINUSE, "another server answers there")
            os.unlink(path)
        listener.bind(path)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise CommandError(f"cannot listen on {path} (--uds): {reason}") from error
    return listener


def listen(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """Sockets bound to the address, which do not accept yet; raises CommandError when it is taken."""
    try:
        # The first is alone, so that another server's address is refused even where both would share it.
        listener = _bind(host, port, shares=False)
        if count == 1:
            return [listener]
        with listener:
            port = listener.getsockname()[1]
        return [_bind(host, port, shares=True) for _ in range(count)]
    except OSError as error:
        reason = error.strerror or str(error)
        raise CommandError(f"cannot listen on {host} port {port} (--host, --port): {reason}") from error


def _bind(host: str, port: int, *, shares: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
