"""Simulated Envoys: one process, one connection and one delta ADS stream each, every response ACKed.

`python -m bench.clients local|tls STATE SERVICES CLIENTS`. Lines on standard input, each answered with one in JSON:

    connect   open all streams, with what is held already (`initial_resource_versions`); answers when the open command
              was taken, the rest is read with `seen`
    seen      responses, resources, bytes and ACKs since the last `seen`; monotonic times of the first response
              and of the last ACK handed to the transport
    close     end all streams; what is held stays held
    quit

Each subscribes as Envoy and its agent do: all clusters and listeners, the endpoints and routes that those name, and the
name table (which the agent fetches on a stream of its own). Parsing is memoised by bytes, so that the clients leave the
CPU to the control plane.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from bench.mesh import ACCOUNT, workload_names
from bench.tls import credentials
from lateen.citadel.server_identity import SERVER_NAME
from lateen.pilot.xds.references import references
from lateen.pilot.xds.server import DELTA_METHOD, SERVICE
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, NDS, RDS, short_name
from lateen.settings import Settings

CHILD = {CDS: EDS, LDS: RDS}
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection each, as processes of their own would have
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
    # Envoy opens its flow control windows wide (connection_window_size, 16 MiB and more); gRPC would start with 64 kB.
    ("grpc.http2.lookahead_bytes", 16 << 20),
    ("grpc.http2.bdp_probe", 0),
)
Held = Mapping[str, str]  # name -> version


class Totals:
    """What all clients have seen since `take`."""

    def __init__(self) -> None:
        self.take()

    def take(self) -> dict[str, Any]:
        found = {**self.__dict__} if hasattr(self, "acks") else {}
        self.acks = 0
        self.bytes = 0
        self.resources = 0
        self.first_response = 0.0
        self.last_ack = 0.0
        self.types: dict[str, int] = {}
        return found


class Client:
    """One proxy's side of the protocol."""

    def __init__(self, name: str, totals: Totals) -> None:
        self.name = name
        self.held: dict[str, Held] = {}
        self.asked: dict[str, frozenset[str]] = {}
        self._totals = totals
        self._channel: Any = None
        self._call: Any = None
        self._task: asyncio.Task[None] | None = None

    def open(self, target: str, tls: Any) -> None:
        options = (*OPTIONS, ("grpc.bench_client", self.name))  # an argument of its own: no shared connection
        if tls is None:
            self._channel = grpc.aio.insecure_channel(target, options=options)
        else:
            override = (("grpc.ssl_target_name_override", SERVER_NAME),)
            self._channel = grpc.aio.secure_channel(target, tls, options=(*options, *override))
        self._call = self._channel.stream_stream(f"/{SERVICE}/{DELTA_METHOD}")()
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def close(self) -> None:
        self._call.cancel()
        assert self._task is not None
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _run(self) -> None:
        call, totals = self._call, self._totals
        for request in self._first():
            await call.write(request.SerializeToString())
        while (data := await call.read()) is not grpc.aio.EOF:
            if not totals.first_response:
                totals.first_response = time.monotonic()
            type_url, nonce, removed, blob = split(data)
            await call.write(ack(type_url, nonce))
            totals.last_ack = time.monotonic()
            totals.acks += 1
            totals.bytes += len(data)
            short = short_name(type_url)
            totals.types[short] = totals.types.get(short, 0) + 1
            # A name that was asked for and does not exist comes without a body; it is held all the same.
            totals.resources += len(entries(type_url, blob)[0])
            self.held[type_url] = merged(Same(self.held.get(type_url, {})), type_url, blob, removed)
            if (child := CHILD.get(type_url)) is not None:
                await self._follow(type_url, child, blob, removed)

    def _first(self) -> list[Any]:
        requests = []
        for type_url in (CDS, EDS, LDS, RDS, NDS):
            asked = self.asked.get(type_url, frozenset())
            if type_url in (EDS, RDS) and not asked:
                continue
            request = DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=sorted(asked),
                initial_resource_versions=self.held.get(type_url, {}),
            )
            if not requests:
                request.node.id = f"sidecar~10.77.0.1~{self.name}.default~default.svc.cluster.local"
                request.node.user_agent_name = "envoy"
                request.node.metadata.update({"NAMESPACE": "default", "SERVICE_ACCOUNT": ACCOUNT})
            requests.append(request)
        return requests

    async def _follow(self, parent: str, child: str, blob: bytes, removed: tuple[str, ...]) -> None:
        asked = self.asked.get(child, frozenset())
        new = entries(parent, blob)[1] - asked
        gone = asked.intersection(removed) if child == EDS else frozenset()  # endpoints are named as their cluster
        if new or gone:
            self.asked[child] = (asked | new) - gone
            await self._call.write(subscribe(child, new, gone))
            if gone:
                self.held[child] = merged(Same(self.held.get(child, {})), child, b"", tuple(sorted(gone)))


class Same:
    """A mapping as a key of a cache, by identity; keeps it alive for as long."""

    def __init__(self, held: Held) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.held is self.held

    def __hash__(self) -> int:
        return id(self.held)


def split(data: bytes) -> tuple[str, str, tuple[str, ...], bytes]:
    """Return type, nonce, removed names and the bytes of the resources, which the server writes last."""
    at, fields, removed = 0, {4: "", 5: ""}, []
    while at < len(data):
        number = data[at] >> 3
        if number == 2:
            break
        length, start = varint(data, at + 1)
        text = data[start : start + length].decode()
        if number == 6:
            removed.append(text)
        else:
            fields[number] = text
        at = start + length
    return fields[4], fields[5], tuple(removed), data[at:]


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def ack(type_url: str, nonce: str) -> bytes:
    message: bytes = DeltaDiscoveryRequest(type_url=type_url, response_nonce=nonce).SerializeToString()
    return message


@lru_cache(maxsize=512)
def entries(type_url: str, blob: bytes) -> tuple[tuple[tuple[str, str], ...], frozenset[str]]:
    """Return the (name, version) of the resources, and the names of the children that they refer to."""
    resources = DeltaDiscoveryResponse.FromString(blob).resources
    children = {
        name
        for entry in resources
        if type_url in CHILD
        for name in references(type_url, entry.resource.SerializeToString())
    }
    return tuple((entry.name, entry.version) for entry in resources), frozenset(children)


@lru_cache(maxsize=4096)
def merged(before: Same, type_url: str, blob: bytes, removed: tuple[str, ...]) -> Held:
    gone = set(removed)
    held = {name: version for name, version in before.held.items() if name not in gone}
    held.update(entries(type_url, blob)[0])
    return held


@lru_cache(maxsize=64)
def subscribe(type_url: str, names: frozenset[str], gone: frozenset[str]) -> bytes:
    message: bytes = DeltaDiscoveryRequest(
        type_url=type_url, resource_names_subscribe=sorted(names), resource_names_unsubscribe=sorted(gone)
    ).SerializeToString()
    return message


async def main(transport: str, state: str, services: str, clients: str) -> None:
    # The clients are not what is measured: pauses of their collector, on the same cores, would be counted as ours.
    gc.disable()
    settings = Settings(state=Path(state))
    socket = settings.xds_local_socket if transport == "local" else settings.xds_socket
    tls = credentials(settings) if transport == "tls" else None
    totals = Totals()
    everyone = [Client(name, totals) for name in workload_names(int(services))[: int(clients)]]
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("{}", flush=True)
    while (command := (await reader.readline()).strip()) not in (b"quit", b""):
        answer: dict[str, Any] = {"time": time.monotonic()}
        if command == b"connect":
            for client in everyone:
                client.open(f"unix:{socket}", tls)
        elif command == b"close":
            await asyncio.gather(*(client.close() for client in everyone))
        else:
            answer |= totals.take()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
