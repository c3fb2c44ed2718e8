"""What the control plane tells an agent: names and trust, over one delta ADS stream with the workload's certificate.

Rules: the xDS protocol, v3; the name table is one resource, the trust bundle another. While the control plane is away
the last ones stay in force, and a stream that comes back says which versions it holds, so that nothing is sent twice.

A bundle is acknowledged once it is in use, which is for the workload's own Envoy to say (`agent/trust.py`): the control
plane signs by a new root only when every proxy trusts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

import grpc.aio

from lateen.agent.backoff import Backoff
from lateen.agent.bootstrap import PILOT_NAME
from lateen.agent.channel import open_secure
from lateen.agent.identity import Identity, Svid
from lateen.agent.log import Log
from lateen.agent.messages import (
    NAME_TABLE_TYPE_URL,
    TRUST_TYPE_URL,
    DeltaResponse,
    decode_delta_response,
    decode_name_table,
    decode_trust,
    encode_delta_request,
)
from lateen.agent.names import Entry
from lateen.agent.spec import Node
from lateen.errors import BadInput
from lateen.wire.trust import TrustUpdate

__all__ = ["METHOD", "MeshClient", "Trusting"]

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 3.0
CONNECT_SECONDS: Final = 5.0  # Istio's agent waits as long


class Trusting(Protocol):
    """What takes bundles into use."""

    outdated: bool  # what is in use is not what the last stream has vouched for

    async def take(self, update: TrustUpdate) -> str:
        """Return "" once a bundle is in use, or why it cannot be. Raises `BadInput`."""

    def roots(self, svid: Svid) -> bytes:
        """Return what the control plane's certificate is checked by, in PEM."""

    def stood(self) -> None: ...

    def lost(self) -> None: ...


class MeshClient:
    """Keeps name table and trust bundle.

    `on_table` is told each new table, `on_connect` each time that a stream stands. `trust` takes bundles into use, and
    says what the control plane's certificate is checked by.
    """

    def __init__(
        self,
        *,
        socket: Path | str,
        node: Node,
        identity: Identity,
        on_table: Callable[[dict[str, Entry]], None],
        trust: Trusting,
        on_connect: Callable[[], None],
        log: Log,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        server_name: str = PILOT_NAME,
    ) -> None:
        self._socket = socket
        self._node = node
        self._identity = identity
        self._on_table = on_table
        self._trust = trust
        self._on_connect = on_connect
        self._log = log
        self._sleep = sleep
        self._server_name = server_name
        # By type: name -> version, of what is in use.
        self._held: dict[str, dict[str, str]] = {NAME_TABLE_TYPE_URL: {}, TRUST_TYPE_URL: {}}
        self._stood = False
        self._backoff = Backoff(first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS, draw=random.random)

    async def run(self) -> None:
        """Hold a stream, and again when it ends, until cancelled."""
        told = False
        while True:
            reason = await self._stream(await self._identity.wait())
            self._trust.lost()
            if self._stood or not told:  # once an absence, not once an attempt
                self._log.warning("control plane away", socket=str(self._socket), reason=reason)
                told = True
            if self._stood:
                self._backoff.reset()
            await self._sleep(self._backoff.wait())

    async def _stream(self, svid: Svid) -> str:
        """Serve one stream to its end and return why it ended."""
        self._stood = False
        channel = open_secure(
            self._socket, roots=self._trust.roots(svid), key=svid.key, chain=svid.chain, server_name=self._server_name
        )
        trusting: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):  # then with the certificate of that time
                await channel.channel_ready()
            call = channel.stream_stream(METHOD)()
            writing = asyncio.Lock()
            if self._trust.outdated:
                self._held[TRUST_TYPE_URL] = {}
            for type_url, held in self._held.items():
                await call.write(encode_delta_request(type_url, node=self._node, versions=held))
            # Not the first response tells that it stands: what is held already is not sent again.
            self._trust.stood()
            self._on_connect()
            while (data := await call.read()) is not grpc.aio.EOF:
                self._stood = True
                response = decode_delta_response(data)
                if response.type_url == TRUST_TYPE_URL:
                    # Names go on meanwhile. No second bundle comes before this one is answered.
                    trusting = asyncio.create_task(self._take_trust(call, writing, response), name="trust bundle")
                else:
                    async with writing:
                        await call.write(self._on_names(response))
            return str(await call.details() or (await call.code()).name)
        except grpc.aio.AioRpcError as error:
            return str(error.details() or error.code().name)
        except BadInput as error:
            return f"no discovery response: {error}"
        except TimeoutError:
            return f"no connection within {CONNECT_SECONDS:.0f} s"
        except asyncio.InvalidStateError:  # a write to a stream that has just ended
            return "the stream ended"
        finally:
            if trusting is not None:
                trusting.cancel()
                await asyncio.gather(trusting, return_exceptions=True)
            await channel.close()

    async def _take_trust(self, call: Any, writing: asyncio.Lock, response: DeltaResponse) -> None:
        """Take a bundle into use and answer then. A stream that ends meanwhile is noticed by its reader."""
        try:
            updates = [(resource, decode_trust(resource.body)) for resource in response.resources]
            reason = ""
            for resource, update in updates:
                reason = reason or await self._trust.take(update)
                if not reason:
                    self._held[TRUST_TYPE_URL] = {resource.name: resource.version}
        except BadInput as error:
            reason = f"no trust bundle: {error}"
        if reason:
            self._log.error("trust bundle refused", reason=reason)
        answer = encode_delta_request(TRUST_TYPE_URL, nonce=response.nonce, error=reason)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with writing:
                await call.write(answer)

    def _on_names(self, response: DeltaResponse) -> bytes:
        """Take one name table and return the ACK, or the NACK, for it."""
        try:
            tables = [(resource, decode_name_table(resource.body)) for resource in response.resources]
        except BadInput as error:
            self._log.error("name table refused", reason=str(error))
            return encode_delta_request(NAME_TABLE_TYPE_URL, nonce=response.nonce, error=f"no name table: {error}")
        for resource, table in tables:
            self._held[NAME_TABLE_TYPE_URL] = {resource.name: resource.version}
            self._on_table(table)
        return encode_delta_request(NAME_TABLE_TYPE_URL, nonce=response.nonce)
