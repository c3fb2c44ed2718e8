"""A storm of CSRs: 20,000 at once over real gRPC, and another caller who wants a few meanwhile.

The signing service runs in a process of its own, behind the door of `ca.sock`, with its audit trail. The clients ask as
agents do: over many connections, each again when it is told to come back later.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import grpc.aio

from bench.processes import cpu_seconds, run_child
from bench.rows import Row
from bench.tls import make_csr
from lateen.wire.ca import CREATE_CERTIFICATE, IDENTITY_METADATA, IstioCertificateRequest

__all__ = ["issuance_rows"]

COUNT, CONNECTIONS = 20_000, 50  # a door lets in 64 of one process
FEW = 20
SOCKET = "ca.sock"


async def issuance_rows(folder: Path, *, quick: bool) -> list[Row]:
    """Return what a storm costs; with `quick`, one of 2,000."""
    count = COUNT // 10 if quick else COUNT
    async with run_child("bench.issuance", str(folder), errors=folder / "issuance.log") as server:
        await server.answer()  # it listens
        before = await server.ask("stats")
        cpu, began = cpu_seconds(server.pid), time.monotonic()
        storm = await _storm(folder / SOCKET, count)
        wall, cpu = time.monotonic() - began, cpu_seconds(server.pid) - cpu
        after = await server.ask("stats")
    name = f"{count:,} CSRs at once"
    issued = after["issued"] - before["issued"]
    return [
        Row(name, "wall_s", wall, note=f"over {CONNECTIONS} connections; {storm['again']} were told to ask again"),
        Row(name, "per_s", count / wall),
        Row(name, "cpu_s", cpu, note="of the server"),
        Row(name, "lost", count + FEW - issued, target=0, note=f"audit lines: {after['audited'] - before['audited']}"),
        Row(name, "MB", (after["peak"] - before["peak"]) / 2**20, target=200, note=f"most waiting: {after['waiting']}"),
        Row(
            name,
            "first_s",
            max(storm["few"]),
            target=wall,
            note=f"slowest of {FEW} by another caller; median {median(storm['few']):.2f}",
        ),
    ]


async def _storm(path: Path, count: int) -> dict[str, Any]:
    _, csr = make_csr()
    request = IstioCertificateRequest(csr=csr.decode()).SerializeToString()
    again, few = 0, []

    async def ask(channel: Any, account: str) -> None:
        nonlocal again
        wait = 0.05
        while True:
            try:
                await channel.unary_unary(CREATE_CERTIFICATE)(
                    request, metadata=((IDENTITY_METADATA, f"default/{account}"),), timeout=300.0
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    raise
                again += 1
                await asyncio.sleep(wait)
                wait = min(wait * 2, 5.0)
            else:
                return

    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(_channel(path)) for _ in range(CONNECTIONS)]
        storm = [
            asyncio.create_task(ask(channel, f"app-{number}"))
            for number, channel in enumerate(channels)
            for _ in range(count // CONNECTIONS)
        ]
        other = await stack.enter_async_context(_channel(path))
        await asyncio.wait(storm, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(FEW):
            began = time.monotonic()
            await ask(other, "other")
            few.append(time.monotonic() - began)
        await asyncio.gather(*storm)
    return {"again": again, "few": few}


def _channel(path: Path) -> Any:
    return grpc.aio.insecure_channel(f"unix:{path}", options=(("grpc.use_local_subchannel_pool", 1),))


async def _serve(folder: Path) -> None:
    import structlog

    from lateen.citadel.audit import AuditLog, read_audit
    from lateen.citadel.authenticate import LocalTrust
    from lateen.citadel.authority import Authority
    from lateen.citadel.service import SERVER_OPTIONS, CertificateService
    from lateen.wire.doors import CONNECTIONS_OF_ONE, local_door

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    audit = AuditLog(folder)
    service = CertificateService(
        Authority.load_or_create(folder / "ca", "cluster.local"), [LocalTrust("cluster.local")], audit=audit
    )
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((service.handler(),))
    async with local_door(server, folder / SOCKET, lambda _: None, connections_of_one=CONNECTIONS_OF_ONE):
        await server.start()
        print("{}", flush=True)
        loop = asyncio.get_running_loop()
        while (line := await loop.run_in_executor(None, sys.stdin.readline)) and line.strip() != "quit":
            found = {
                "issued": service.counters.success_cert_issuance_count,
                "audited": sum(entry.event == "issued" for entry in read_audit(folder)),
                "waiting": service.turns.most_waiting,
                "peak": _peak(),
            }
            print(json.dumps(found), flush=True)
        await server.stop(None)
    audit.close()


def _peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no VmHWM")


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
