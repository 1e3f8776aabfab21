"""An API process: one of several that accept connections on one socket. Its parent starts it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading

import msgspec

from octavo.engine.process.lifeline import leave_with_parent, read_line
from octavo.frontend.shared_engine import AttachedEngine
from octavo.machine.event_loop import loop_factory
from octavo.server.app import create_app
from octavo.server.processes.link import Link
from octavo.server.processes.linked_state import LinkedState
from octavo.server.processes.messages import ApiProcessOptions, Serving, WantTurn
from octavo.server.run import make_server


async def serve(options: ApiProcessOptions) -> None:
    """Answer until SIGTERM; open requests outlast the first one for a while."""
    loop = asyncio.get_running_loop()
    engine = await asyncio.to_thread(AttachedEngine.read, options.config, options.name)
    link = Link(options.address, options.name, engine.tell)
    engine.want_turn = lambda wanted: link.send(WantTurn(wanted))
    try:
        if not await engine.settled():
            return  # the parent says why
        admits_all = options.server_config.max_waiting is None and options.config.target_ttft is None
        app = create_app(
            engine,
            options.server_config,
            options.model,
            lambda drain: LinkedState(link, drain, admits_all=admits_all),
        )
        # The HTTP server has its own handlers, and signals again what it was ended by.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: None)
        listener = socket.socket(fileno=options.listener)
        server = make_server(app, options.server_config, lambda: link.send(Serving()))
        await server.serve(sockets=[listener])
    finally:
        await engine.stop()
        link.close()


def main() -> int:
    """Run as the line on standard input says."""
    options = msgspec.json.decode(read_line(0), type=ApiProcessOptions)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
