"""Follow the mesh's name table: one delta ADS stream to the control plane, with the workload's own certificate.

Rules: the xDS protocol, v3; the table is one resource. While the control plane is away the last table stays in force,
and a stream that comes back says which version it holds, so that nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import grpc.aio

from lateen.agent.backoff import Backoff
from lateen.agent.bootstrap import PILOT_NAME
from lateen.agent.channel import open_secure
from lateen.agent.identity import Identity, Svid
from lateen.agent.log import Log
from lateen.agent.messages import (
    NAME_TABLE_TYPE_URL,
    decode_delta_response,
    decode_name_table,
    encode_delta_request,
)
from lateen.agent.names import Entry
from lateen.agent.spec import Node
from lateen.errors import BadInput

__all__ = ["METHOD", "NameTableClient"]

METHOD: Final = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 3.0
CONNECT_SECONDS: Final = 5.0  # Istio's agent waits as long


class NameTableClient:
    """Keeps the name table. `on_table` is told each new one, `on_connect` each time that a stream stands."""

    def __init__(
        self,
        *,
        socket: Path,
        node: Node,
        identity: Identity,
        on_table: Callable[[dict[str, Entry]], None],
        on_connect: Callable[[], None],
        log: Log,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        server_name: str = PILOT_NAME,
    ) -> None:
        self._socket = socket
        self._node = node
        self._identity = identity
        self._on_table = on_table
        self._on_connect = on_connect
        self._log = log
        self._sleep = sleep
        self._server_name = server_name
        self._held: dict[str, str] = {}  # name -> version
        self._stood = False
        self._backoff = Backoff(first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS, draw=random.random)

    async def run(self) -> None:
        """Hold a stream, and again when it ends, until cancelled."""
        told = False
        while True:
            reason = await self._stream(await self._identity.wait())
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
            self._socket, roots=svid.roots, key=svid.key, chain=svid.chain, server_name=self._server_name
        )
        try:
            async with asyncio.timeout(CONNECT_SECONDS):  # then with the certificate of that time
                await channel.channel_ready()
            call = channel.stream_stream(METHOD)()
            await call.write(encode_delta_request(NAME_TABLE_TYPE_URL, node=self._node, versions=self._held))
            # Not the first response tells that it stands: what is held already is not sent again.
            self._on_connect()
            while (data := await call.read()) is not grpc.aio.EOF:
                self._stood = True
                await call.write(self._on_response(data))
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
            await channel.close()

    def _on_response(self, data: bytes) -> bytes:
        """Take one response and return the ACK, or the NACK, for it. Raises `BadInput` for what is no response."""
        response = decode_delta_response(data)
        try:
            tables = [(resource, decode_name_table(resource.body)) for resource in response.resources]
        except BadInput as error:
            self._log.error("name table refused", reason=str(error))
            return encode_delta_request(NAME_TABLE_TYPE_URL, nonce=response.nonce, error=f"no name table: {error}")
        for resource, table in tables:
            self._held = {resource.name: resource.version}
            self._on_table(table)
        return encode_delta_request(NAME_TABLE_TYPE_URL, nonce=response.nonce)
