"""What the transport alone costs: a bare grpc.aio server that sends one response to all streams and counts the answers.

`python -m bench.floor STATE BYTES`. Listens where the control plane would, so the same clients can be used. Lines on
standard input: "push" sends a response of that size to every stream, "stats" tells when the last answer came, "quit".
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from lateen.pilot.translate.pack import resource_of_bytes
from lateen.pilot.xds.frames import delta_prefix, delta_response
from lateen.pilot.xds.server import DELTA_METHOD, GRPC_OPTIONS, SERVICE
from lateen.pilot.xds.type_urls import RDS
from lateen.settings import Settings


class Floor:
    """All streams, and when the last of them answered."""

    def __init__(self) -> None:
        self.streams: dict[Any, asyncio.Queue[bytes]] = {}
        self.last_request = 0.0

    async def serve(self, _requests: Any, context: Any) -> None:
        queue = self.streams[context] = asyncio.Queue()
        reader = asyncio.create_task(self._read(context))
        try:
            while True:
                await context.write(await queue.get())
        finally:
            reader.cancel()
            del self.streams[context]

    async def _read(self, context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            self.last_request = time.monotonic()


async def main(state: str, size: str) -> None:
    floor = Floor()
    resource = resource_of_bytes("9080", "envoy.config.route.v3.RouteConfiguration", b"\n" + bytes(int(size)))
    parts = (delta_prefix(resource.name, resource.version, len(resource.body)), resource.body)
    data = delta_response(type_url=RDS, nonce="1", version="", parts=parts, removed=())
    server = grpc.aio.server(options=list(GRPC_OPTIONS))
    handler = grpc.stream_stream_rpc_method_handler(floor.serve)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {DELTA_METHOD: handler}),))
    path = Settings(state=Path(state)).xds_local_socket
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("{}", flush=True)
    while (command := (await reader.readline()).strip()) in (b"push", b"stats"):
        answer = {"time": time.monotonic()}
        if command == b"push":
            for queue in floor.streams.values():
                queue.put_nowait(data)
        else:
            answer |= {"last_request": floor.last_request, "streams": len(floor.streams)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
