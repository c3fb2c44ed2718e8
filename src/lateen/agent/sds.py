"""Serve secrets to the workload's own Envoy: SDS, state of the world and delta, on a Unix socket.

Rules: the xDS protocol, v3. A stream is sent what it subscribes to as soon as that exists, and again when it changes;
running connections keep the certificate they began with, so a rotation drops none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from lateen.agent.log import Log
from lateen.agent.messages import (
    SECRET_TYPE_URL,
    DeltaResource,
    decode_delta_request,
    decode_sotw_request,
    encode_delta_response,
    encode_sotw_response,
)
from lateen.agent.secret_store import SecretStore
from lateen.errors import BadInput

__all__ = ["SERVICE", "DeltaSubscription", "SdsServer", "SotwSubscription", "Subscription"]

SERVICE: Final = "envoy.service.secret.v3.SecretDiscoveryService"
MAX_REQUEST_BYTES: Final = 256 << 10
MAX_NAMES: Final = 1000
STOP_SECONDS: Final = 1.0


class Subscription(ABC):
    """One stream: what it asked for, what it holds. Without I/O: requests in, responses out."""

    def __init__(self) -> None:
        self._sent: dict[str, str] = {}  # name -> version
        self._nonce = 0
        self._in_flight: dict[str, str] = {}  # of the last response, until it is answered: name -> version
        self._answers: dict[str, tuple[str, str]] = {}  # name -> (version, "" or why Envoy refuses it)

    def answer(self, name: str, version: str) -> str | None:
        """Return what Envoy says of one version of a secret: "" once it uses it, or why not.

        None while it has not said. A secret that the stream does not ask for is nothing to wait for: "".
        """
        if not self._wants(name):
            return ""
        told, reason = self._answers.get(name, ("", ""))
        return reason if told == version else None

    @abstractmethod
    def _wants(self, name: str) -> bool:
        """Whether the stream is subscribed to a secret."""

    def _note_sent(self, told: dict[str, str]) -> str:
        """Return the nonce of a response that tells these versions."""
        self._nonce += 1
        self._in_flight = told
        return str(self._nonce)

    def _note_answer(self, nonce: str, error: str) -> None:
        if nonce and nonce == str(self._nonce):
            self._answers.update({name: (version, error) for name, version in self._in_flight.items()})
            self._in_flight = {}

    @abstractmethod
    def on_request(self, data: bytes) -> str:
        """Take one request. Return Envoy's words when it refuses a response, else "". Raises `BadInput`."""

    @abstractmethod
    def responses(self, store: SecretStore) -> Iterator[bytes]:
        """Yield what is to be sent now."""

    def _due(self, names: list[str], store: SecretStore) -> list[DeltaResource]:
        """Return each secret that the stream does not hold as it is now."""
        found = [(name, store.get(name)) for name in names]
        return [
            DeltaResource(name, held.version, held.body)
            for name, held in found
            if held is not None and self._sent.get(name) != held.version
        ]


class SotwSubscription(Subscription):
    """`StreamSecrets`: each request names everything that is wanted; Envoy has one stream a secret."""

    def __init__(self) -> None:
        super().__init__()
        self._names: list[str] = []

    def on_request(self, data: bytes) -> str:
        request = decode_sotw_request(data)
        if request.nonce and request.nonce != str(self._nonce):
            return ""  # an answer to what is out of date already
        self._note_answer(request.nonce, request.error)
        self._names = list(dict.fromkeys(request.names))[:MAX_NAMES]
        self._sent = {name: version for name, version in self._sent.items() if name in self._names}
        return request.error

    def responses(self, store: SecretStore) -> Iterator[bytes]:
        if not self._due(self._names, store):
            return
        held = [(name, found) for name in self._names if (found := store.get(name)) is not None]
        self._sent = {name: found.version for name, found in held}
        yield encode_sotw_response(
            version=",".join(found.version for _, found in held),
            type_url=SECRET_TYPE_URL,
            nonce=self._note_sent(dict(self._sent)),
            bodies=[found.body for _, found in held],
        )

    def _wants(self, name: str) -> bool:
        return name in self._names


class DeltaSubscription(Subscription):
    """`DeltaSecrets`: names come and go; what a client says it holds already is not sent."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, None] = {}

    def on_request(self, data: bytes) -> str:
        request = decode_delta_request(data)
        self._note_answer(request.nonce, request.error)
        for name in request.subscribe:
            if len(self._names) < MAX_NAMES:
                self._names[name] = None
            self._sent.pop(name, None)  # asked for again: answered again
        for name in request.unsubscribe:
            self._names.pop(name, None)
            self._sent.pop(name, None)
        if not self._nonce:
            held = {name: version for name, version in request.versions if name in self._names}
            self._sent.update(held)
            self._answers.update({name: (version, "") for name, version in held.items()})
        return request.error

    def responses(self, store: SecretStore) -> Iterator[bytes]:
        due = self._due(list(self._names), store)
        if not due:
            return
        told = {each.name: each.version for each in due}
        self._sent.update(told)
        yield encode_delta_response(type_url=SECRET_TYPE_URL, nonce=self._note_sent(told), resources=due)

    def _wants(self, name: str) -> bool:
        return name in self._names


class SdsServer:
    """The gRPC server around the subscriptions. `start` it before Envoy, `stop` it after."""

    def __init__(self, store: SecretStore, path: Path, log: Log) -> None:
        self._store = store
        self._path = path
        self._log = log
        self._server: Any = None
        self._closing = False

    async def start(self) -> None:
        """Listen. Raises `OSError` when the socket cannot be made."""
        self._path.unlink(missing_ok=True)
        server = grpc.aio.server(options=(("grpc.max_receive_message_length", MAX_REQUEST_BYTES),))
        # Messages stay bytes up to the subscription, which tells a broken one from a broken server.
        handlers = {
            "StreamSecrets": grpc.stream_stream_rpc_method_handler(self._stream),
            "DeltaSecrets": grpc.stream_stream_rpc_method_handler(self._delta),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise OSError(f"socket {str(self._path)!r}: {error}") from error
        await server.start()
        os.chmod(self._path, 0o600)  # it gives away the private key
        self._server = server

    async def stop(self) -> None:
        """End every stream, then the server."""
        self._closing = True
        self._store.wake()
        if self._server is not None:
            await self._server.stop(STOP_SECONDS)
        self._path.unlink(missing_ok=True)

    async def _stream(self, _: Any, context: Any) -> None:
        await self._serve(SotwSubscription(), context)

    async def _delta(self, _: Any, context: Any) -> None:
        await self._serve(DeltaSubscription(), context)

    async def _serve(self, subscription: Subscription, context: Any) -> None:
        with self._store.listening() as changed, self._store.used_by(subscription):
            reader = asyncio.create_task(self._read(subscription, context, changed), name="sds requests")
            try:
                while True:
                    await changed.wait()
                    changed.clear()
                    if self._closing or reader.done():
                        break
                    for response in subscription.responses(self._store):
                        await context.write(response)
            finally:
                reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    failure = await reader
                    if failure:
                        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, failure)

    async def _read(self, subscription: Subscription, context: Any, changed: asyncio.Event) -> str:
        """Take requests until the client has no more; return what was wrong with the last one, if anything."""
        try:
            while (data := await context.read()) is not grpc.aio.EOF:
                try:
                    refusal = subscription.on_request(data)
                except BadInput as error:
                    return f"no discovery request: {error}"
                if refusal:
                    self._log.error("secret refused by Envoy", reason=refusal)
                self._store.heard()
                changed.set()
            return ""
        finally:
            changed.set()
