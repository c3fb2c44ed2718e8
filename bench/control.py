"""Measure the control plane: one change after the other, from the user's edit to the last proxy's ACK."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import grpc.aio

from bench import mesh
from bench.processes import Child, cpu_seconds, run_child
from bench.rows import Row
from lateen.settings import Settings
from lateen.wire.control import ControlClient

__all__ = ["Size", "measure"]

QUIET_SECONDS = 0.15  # neither side has worked for so long: the change is over
QUIET_CPU_SECONDS = 0.004  # less than that in `QUIET_SECONDS` is no work, but timers
AT_LEAST_SECONDS = 0.35  # a change is not noticed at once: inotify's settling
AT_MOST_SECONDS = 30.0

ENDPOINT = "one endpoint came or went"
VIRTUAL_SERVICE = "one VirtualService changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    services: int
    clients: int
    repetitions: int
    quick: bool  # without mutual TLS and bare gRPC


@dataclass(slots=True)
class Sample:
    """What one change cost."""

    wall_seconds: float  # to the last ACK dealt with
    first_seconds: float  # to the first response at a client
    cpu_seconds: float
    clients_cpu_seconds: float
    bytes: int
    responses: int
    recomputed: int
    types: dict[str, int] = field(default_factory=dict)  # responses by type


class Rig:
    """A control plane and its clients, both running."""

    def __init__(self, settings: Settings, config: Path, size: Size, folder: Path) -> None:
        self.settings, self.config, self.size = settings, config, size
        self.folder = folder
        self.plane: Child
        self.clients: Child
        self.started: dict[str, Any] = {}
        self.weight = 10  # of the canary, in percent; another one with each change
        self._stack = AsyncExitStack()
        self._plane_stack = AsyncExitStack()

    async def run(self, module: str, *arguments: str) -> Child:
        """Start what is to be measured."""
        child = run_child(module, *arguments, errors=self.folder / "plane.log")
        return await self._plane_stack.enter_async_context(child)

    async def start_plane(self) -> None:
        self.plane = await self.run("bench.plane", str(self.settings.state), str(self.config))
        self.started = await self.plane.answer()

    async def start_clients(self, transport: str) -> None:
        arguments = (transport, str(self.settings.state), str(self.size.services), str(self.size.clients))
        self.clients = await self._stack.enter_async_context(
            run_child("bench.clients", *arguments, errors=self.folder / "clients.log")
        )
        await self.clients.answer()

    async def stop_clients(self) -> None:
        await self._stack.aclose()

    async def stop_plane(self) -> None:
        await self._plane_stack.aclose()

    async def settle(self) -> None:
        """Wait until all processes have nothing left to do: the tasting Envoy is one."""
        began = time.monotonic()
        tasting = (await self.plane.ask("stats")).get("tasting_pid", 0)
        pids = [pid for pid in (self.plane.pid, self.clients.pid, tasting) if pid]
        before = [cpu_seconds(pid) for pid in pids]
        while True:
            await asyncio.sleep(QUIET_SECONDS)
            now = [cpu_seconds(pid) for pid in pids]
            quiet = all(new - old < QUIET_CPU_SECONDS for new, old in zip(now, before, strict=True))
            passed = time.monotonic() - began
            if quiet and passed > AT_LEAST_SECONDS:
                return
            if passed > AT_MOST_SECONDS:
                raise TimeoutError(f"still busy after {passed:.0f} s; see {self.folder}")
            before = now

    async def sample(self, act: Callable[[], Awaitable[None]]) -> Sample:
        """Do something once and tell what it cost."""
        await self.clients.ask("seen")
        before = await self.plane.ask("stats")
        began, cpu, clients_cpu = time.monotonic(), cpu_seconds(self.plane.pid), cpu_seconds(self.clients.pid)
        await act()
        await self.settle()
        spent, clients_spent = cpu_seconds(self.plane.pid) - cpu, cpu_seconds(self.clients.pid) - clients_cpu
        after, seen = await self.plane.ask("stats"), await self.clients.ask("seen")
        if sum(one["nacks"] for one in after["types"].values()):
            raise AssertionError("a client rejected something")
        return Sample(
            wall_seconds=max(0.0, after["last_request"] - began),
            first_seconds=max(0.0, seen["first_response"] - began),
            cpu_seconds=spent,
            clients_cpu_seconds=clients_spent,
            bytes=_sum(after, "sent_bytes") - _sum(before, "sent_bytes"),
            responses=_sum(after, "responses") - _sum(before, "responses"),
            recomputed=sum(after["recomputed"].values()) - sum(before["recomputed"].values()),
            types=dict(seen["types"]),
        )


def _sum(stats: dict[str, Any], what: str) -> int:
    return sum(one[what] for one in stats["types"].values())


async def measure(size: Size, folder: Path, tell: Callable[[str], None]) -> list[Row]:
    """Return the rows of one mesh. Everything written is below `folder`."""
    settings = Settings(state=folder / "s")
    settings.state.mkdir(mode=0o700)
    mesh.write(folder / "config", settings, size.services)
    rig = Rig(settings, folder / "config", size, folder)
    rows: list[Row] = []
    try:
        tell(f"control plane with {size.services} services, {size.clients} clients")
        await rig.start_plane()
        rows.append(Row("start: ready to serve", "cpu_s", rig.started["start_cpu_seconds"]))
        empty = rig.started["rss_bytes"]
        await rig.start_clients("local")
        rows += _connect_rows("first connect", await rig.sample(_asker(rig, "connect")), size)
        await _warm(rig)
        rows += await _changes(rig, tell)
        stats = await rig.plane.ask("stats")
        rows += [
            Row("memory: before the first client", "MB", empty / 1e6),
            Row(f"memory: {size.clients} clients", "MB", stats["rss_bytes"] / 1e6),
            Row("nodes held in the graph", "count", stats["held"]),
        ]
        tell("restart of the control plane")
        rows += await _restart(rig)
        await rig.stop_clients()
        if not size.quick:
            tell("mutual TLS")
            await rig.start_clients("tls")
            rows += _connect_rows("mutual TLS: first connect", await rig.sample(_asker(rig, "connect")), size)
            rows += await _virtual_service(rig, "mutual TLS: one VirtualService changed", repetitions=3)
        rows.append(await _certificates(rig))
        if not size.quick:
            tell("bare gRPC")
            for name in (VIRTUAL_SERVICE, ENDPOINT):
                rows += await _floor(rig, name, {row.unit: row.value for row in rows if row.name == name})
    finally:
        await rig.stop_clients()
        await rig.stop_plane()
    return rows


async def _changes(rig: Rig, tell: Callable[[str], None]) -> list[Row]:
    tell("changes")
    rows = await _virtual_service(rig, VIRTUAL_SERVICE, repetitions=rig.size.repetitions, targets=True)
    flip = [True]

    async def endpoint() -> None:
        flip[0] = not flip[0]
        await _register(rig.settings, mesh.registration("svc-0001-v2", ready=flip[0]))

    rows += await _repeat(rig, ENDPOINT, endpoint, wall_target=0.1)
    count = [0]

    async def labels() -> None:
        count[0] += 1
        text = mesh.service(2, labels=f"touched: 'x{count[0]}'") + "---\n" + mesh.destination_rule(2)
        _put(rig.config / "svc-0002.yaml", text)

    rows += await _repeat(rig, "labels of one Service changed", labels, silent=True)

    number = rig.size.services + 7
    path = rig.config / "new.yaml"
    added, gone = [], []
    for _ in range(rig.size.repetitions // 2):

        async def add() -> None:
            _put(path, mesh.service(number) + "---\n" + mesh.destination_rule(number))

        async def remove() -> None:
            path.unlink()

        added.append(await rig.sample(add))
        gone.append(await rig.sample(remove))
    return [*rows, *_rows("one Service added", added, rig.size), *_rows("one Service removed", gone, rig.size)]


async def _virtual_service(rig: Rig, name: str, *, repetitions: int, targets: bool = False) -> list[Row]:
    async def change() -> None:
        rig.weight = rig.weight % 90 + 1
        _put(rig.config / "canary.yaml", mesh.virtual_service(0, rig.weight))

    target = 0.15 if targets else None
    return await _repeat(rig, name, change, wall_target=target, cpu_target=target, repetitions=repetitions)


async def _warm(rig: Rig) -> None:
    """Change something once: the first time costs imports and caches that no later change pays."""
    await _virtual_service(rig, "warm", repetitions=1)


async def _restart(rig: Rig) -> list[Row]:
    await rig.clients.ask("close")
    await rig.stop_plane()  # by SIGKILL
    await rig.start_plane()
    sample = await rig.sample(_asker(rig, "connect"))
    resent = sum(one["resources"] for one in (await rig.plane.ask("stats"))["types"].values())
    return [
        Row("restart: resources sent again", "count", resent, target=0),
        Row("restart: bytes sent again", "bytes", sample.bytes if resent else 0, target=0),
        Row("restart: bytes of answers without resources", "bytes", 0 if resent else sample.bytes),
        Row("restart: until the last client is in step", "wall_s", sample.wall_seconds),
        Row("restart: until the last client is in step", "cpu_s", sample.cpu_seconds),
    ]


async def _floor(rig: Rig, change_name: str, change: dict[str, float]) -> list[Row]:
    """Push the bytes of a change to as many streams without a control plane: what is above it is ours."""
    bytes_each = int(change["bytes"]) // rig.size.clients
    await rig.stop_clients()
    await rig.stop_plane()
    rig.plane = await rig.run("bench.floor", str(rig.settings.state), str(bytes_each))
    await rig.plane.answer()
    await rig.start_clients("local")
    await rig.clients.ask("connect")
    await rig.settle()
    walls, cpus = [], []
    for _ in range(rig.size.repetitions + 1):  # the first one is not counted
        cpu = cpu_seconds(rig.plane.pid)
        began = (await rig.plane.ask("push"))["time"]
        await rig.settle()
        cpus.append(cpu_seconds(rig.plane.pid) - cpu)
        walls.append((await rig.plane.ask("stats"))["last_request"] - began)
    wall, cpu = median(walls[1:]), median(cpus[1:])
    name = f"bare gRPC: {bytes_each:,} bytes to each of {rig.size.clients}"
    return [
        Row(name, "wall_s", wall, note="the same clients, a server that does nothing else"),
        Row(name, "cpu_s", cpu),
        Row(f"{change_name}, against bare gRPC", "ratio", change["cpu_s"] / cpu, note="of CPU"),
        Row(f"{change_name}, against bare gRPC", "ratio", change["wall_s"] / wall, note="of time"),
    ]


async def _certificates(rig: Rig, *, count: int = 400, at_once: int = 32) -> Row:
    """Sign over gRPC, the same request each time: making keys is the agents' work."""
    from bench.tls import make_csr
    from lateen.wire.ca import CREATE_CERTIFICATE, IDENTITY_METADATA, IstioCertificateRequest

    _, csr = make_csr()
    request = IstioCertificateRequest(csr=csr.decode()).SerializeToString()
    async with grpc.aio.insecure_channel(f"unix:{rig.settings.ca_socket}") as channel:
        call = channel.unary_unary(CREATE_CERTIFICATE)
        limit = asyncio.Semaphore(at_once)

        async def one() -> None:
            async with limit:
                await call(request, metadata=((IDENTITY_METADATA, f"default/{mesh.ACCOUNT}"),), timeout=20.0)

        await one()
        began = time.monotonic()
        await asyncio.gather(*(one() for _ in range(count)))
        return Row("certificates signed over gRPC", "per_s", count / (time.monotonic() - began))


async def _repeat(
    rig: Rig,
    name: str,
    act: Callable[[], Awaitable[None]],
    *,
    wall_target: float | None = None,
    cpu_target: float | None = None,
    repetitions: int | None = None,
    silent: bool = False,
) -> list[Row]:
    samples = [await rig.sample(act) for _ in range(repetitions or rig.size.repetitions)]
    return _rows(name, samples, rig.size, wall_target=wall_target, cpu_target=cpu_target, silent=silent)


def _rows(
    name: str,
    samples: list[Sample],
    size: Size,
    *,
    wall_target: float | None = None,
    cpu_target: float | None = None,
    silent: bool = False,
) -> list[Row]:
    def mid(of: Callable[[Sample], float]) -> float:
        return median(of(sample) for sample in samples)

    if any(bool(sample.responses) is silent for sample in samples):
        raise AssertionError(f"{name}: sent {[sample.types for sample in samples]}")
    sent = ", ".join(f"{count} {name}" for name, count in sorted(samples[-1].types.items()))
    rows = [
        Row(name, "bytes", mid(lambda s: s.bytes), note=sent or "nothing sent", target=0 if silent else None),
        Row(name, "recomputed", mid(lambda s: s.recomputed)),
        Row(name, "cpu_s", mid(lambda s: s.cpu_seconds), target=cpu_target),
    ]
    if silent:
        return rows
    return [
        Row(
            name,
            "wall_s",
            mid(lambda s: s.wall_seconds),
            target=wall_target,
            note=f"edit to last ACK; best {min(s.wall_seconds for s in samples):.3f}; "
            f"clients' own CPU {mid(lambda s: s.clients_cpu_seconds):.3f}",
        ),
        Row(name, "first_s", mid(lambda s: s.first_seconds), note="edit to first response"),
        *rows,
        Row(name, "us_per_stream", mid(lambda s: s.cpu_seconds) / size.clients * 1e6),
    ]


def _connect_rows(name: str, sample: Sample, size: Size) -> list[Row]:
    return [
        Row(name, "wall_s", sample.wall_seconds, note=f"all {size.clients} clients at once"),
        Row(name, "cpu_s", sample.cpu_seconds),
        Row(name, "bytes", sample.bytes),
    ]


def _asker(rig: Rig, command: str) -> Callable[[], Awaitable[None]]:
    async def ask() -> None:
        await rig.clients.ask(command)

    return ask


async def _register(settings: Settings, message: Any) -> None:
    async with grpc.aio.insecure_channel(f"unix:{settings.ca_socket}") as channel:
        await ControlClient(channel).register(message)


def _put(path: Path, text: str) -> None:
    """Replace a file as editors do: whole, by renaming."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(text)
    os.replace(aside, path)
