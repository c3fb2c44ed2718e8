"""The other end of the tasting Envoy's ADS stream: ask it about probes, hear what it says.

Rules: the incremental xDS protocol, "ACK and NACK".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

import grpc
import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from lateen.errors import Unavailable
from lateen.pilot.taste.probe import Probe
from lateen.pilot.xds.frames import delta_prefix, delta_response
from lateen.pilot.xds.type_urls import CDS, LDS

__all__ = ["TasteStream"]

_SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_METHOD: Final = "DeltaAggregatedResources"


class TasteStream:
    """Serves one Envoy at a time; the newest stream is the one that is asked."""

    def __init__(self) -> None:
        self._context: Any = None
        self._opened = asyncio.Event()
        self._asked: dict[tuple[str, str], asyncio.Future[str]] = {}  # (type URL, nonce) -> answer
        self._serial = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what `server.add_generic_rpc_handlers` wants."""
        method = grpc.stream_stream_rpc_method_handler(self._serve)
        return grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: method})

    async def opened(self) -> None:
        """Return when an Envoy has asked for clusters and for listeners, so that it can be asked."""
        await self._opened.wait()

    def lost(self) -> None:
        """Note that the Envoy is gone: whoever waits for its answer is told so."""
        self._context = None
        self._opened.clear()
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            if not answer.done():
                answer.set_exception(Unavailable("the tasting envoy ended"))
                answer.exception()  # it may be that nobody waits any more

    async def ask(self, type_url: str, probes: Sequence[Probe]) -> str:
        """Return Envoy's words against a response with these probes; "" when it took them all.

        They are taken back in the same breath. Raises `Unavailable` when Envoy ends instead of answering.
        """
        # A cluster waits for endpoints and secrets that nobody sends, and Envoy acknowledges clusters only when none of
        # them waits any more: the second response, which takes them back, brings the answer to the first.
        answer = await self._send(type_url, probes, ())
        taken_back = await self._send(type_url, (), [probe.name for probe in probes])
        words = await answer
        await taken_back
        return words

    async def _send(self, type_url: str, probes: Iterable[Probe], removed: Iterable[str]) -> asyncio.Future[str]:
        if self._context is None:
            raise Unavailable("no tasting envoy is connected")
        self._serial += 1
        nonce = str(self._serial)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked[type_url, nonce] = answer
        parts: list[bytes] = []
        for probe in probes:
            parts += (delta_prefix(probe.name, nonce, len(probe.body)), probe.body)
        data = delta_response(type_url=type_url, nonce=nonce, version="", parts=parts, removed=removed)
        try:
            await self._context.write(data)
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.BaseError) as error:
            raise Unavailable("the tasting envoy ended") from error
        return answer

    async def _serve(self, _requests: Any, context: Any) -> None:
        self.lost()
        self._context = context
        seen: set[str] = set()
        try:
            while (data := await context.read()) is not grpc.aio.EOF:
                request = DeltaDiscoveryRequest.FromString(data)
                type_url = request.type_url
                if type_url in (CDS, LDS) and type_url not in seen:
                    seen.add(type_url)
                    # Listeners are asked for once the first clusters, here none, have come.
                    await context.write(
                        delta_response(type_url=type_url, nonce="first", version="", parts=[], removed=())
                    )
                    if LDS in seen:
                        self._opened.set()
                self._answered(request)
        finally:
            if self._context is context:
                self.lost()

    def _answered(self, request: Any) -> None:
        answer = self._asked.pop((request.type_url, request.response_nonce), None)
        if answer is None or answer.done():
            return
        said = request.error_detail.message or "refused without a reason" if request.HasField("error_detail") else ""
        answer.set_result(said)
