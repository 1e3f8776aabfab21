"""Other processes that are clients of one engine: each request belongs to the one that sent it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import zmq

from octavo.engine.messages import (
    AbortRequests,
    AddRequest,
    FromClient,
    FromEngine,
    SequenceOutput,
    StepOutputs,
)


class Clients:
    """A ROUTER socket; every client has a name of its own (its routing id), which no later one has again."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        """Listens at `address`."""
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        # A client that is slow must neither hold up the others nor miss a token; what is queued for it is
        # bounded by what its requests may still generate.
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.bind(address)
        self._decoder = msgspec.msgpack.Decoder(FromClient)
        self._encoder = msgspec.msgpack.Encoder()
        self._owners: dict[str, bytes] = {}
        """Request id -> the client that it belongs to."""
        self._gone: set[bytes] = set()

    def messages(self) -> Iterator[tuple[bytes, FromClient]]:
        """Those that are there, each with its client; nothing of a client that is gone."""
        while int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            client, encoded = self.socket.recv_multipart()
            if client in self._gone:
                continue
            message = self._decoder.decode(encoded)
            match message:
                case AddRequest(request_id):
                    self._owners.setdefault(request_id, client)
                case AbortRequests(request_ids):
                    for request_id in request_ids:
                        self._owners.pop(request_id, None)
            yield client, message

    def send(self, client: bytes, message: FromEngine) -> None:
        """Send to one client; dropped when it is gone."""
        self.socket.send_multipart((client, self._encoder.encode(message)))

    def deliver(self, step: StepOutputs) -> None:
        """Send each client the outputs of its requests."""
        by_client: dict[bytes, list[SequenceOutput]] = {}
        for output in step.outputs:
            client = self._owners.get(output.request_id)
            if client is None:
                continue
            by_client.setdefault(client, []).append(output)
            if output.finish_reason is not None:
                del self._owners[output.request_id]
        for client, outputs in by_client.items():
            self.send(client, StepOutputs(outputs, step.stats))

    def forget(self, name: str) -> list[str]:
        """A client is gone; returns the requests that it leaves behind."""
        client = name.encode()
        self._gone.add(client)
        left = [request_id for request_id, owner in self._owners.items() if owner == client]
        for request_id in left:
            del self._owners[request_id]
        return left

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()


def counted(step: StepOutputs) -> StepOutputs:
    """A step for one who only counts tokens."""
    outputs = [
        SequenceOutput(output.request_id, output.token_ids, output.finish_reason) for output in step.outputs
    ]
    return StepOutputs(outputs, step.stats)
