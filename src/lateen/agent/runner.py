"""Run one workload from joining the mesh to leaving it.

    reach the control plane -> take a place -> register (not ready) -> certificate, Envoy, names, at the same time
    -> proxy ready: start the application -> it listens: register (ready)
    -> asked to leave, or the application ended: deregister -> drain -> application -> Envoy -> place

The registration stands in the control plane's files, so nothing is lost while that is away. Children die with the agent
(PR_SET_PDEATHSIG), however it dies. docs/design/0005-agent.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lateen.agent.channel import open_local
from lateen.agent.group import apply_group
from lateen.agent.log import Log
from lateen.agent.place import Grounds, take_place
from lateen.agent.registration import Registrar, start_ticks
from lateen.agent.spec import WorkloadSpec, check_spec, effective_labels
from lateen.agent.stop import Stop
from lateen.agent.workload import Events, Stdio, Workload
from lateen.errors import LateenError, Unavailable
from lateen.settings import Settings
from lateen.wire.control import ControlClient
from lateen.wire.local import GroupQuery, Registration

__all__ = ["Stdio", "Stop", "run_workload"]


async def run_workload(
    spec: WorkloadSpec,
    settings: Settings,
    *,
    on_event: Events | None = None,
    log: Log | None = None,
    stdio: Stdio | None = None,
    stop: Stop | None = None,
) -> int:
    """Run one workload to its end and return its exit code: the application's, 128 + N when signal N ended it.

    `stop` None: SIGINT, SIGTERM and SIGHUP ask to leave, and leaving began by such a signal is no fault. Call it on the
    main thread: its end is the children's end. Raises `BadInput`, `Refused` (the name is taken, Citadel says no),
    `Unavailable` (no control plane), `Unsupported`. Cancelled: children are killed, the place is given back.
    """
    if not spec.group:
        check_spec(spec)
    began = asyncio.get_running_loop().time()
    log = (log or Log(sys.stderr)).bind(workload=spec.name)
    with contextlib.ExitStack() as stack:
        if stop is None:
            stop = Stop()
            stack.enter_context(stop.on_signals())
        channel = open_local(settings.ca_socket)
        try:
            run = _Run(spec, settings, ControlClient(channel, where=str(settings.ca_socket)), on_event or _ignore, log)
            joined = await stop.unless_asked(run.join(channel))
            if joined is None:
                return 128 + stop.signal
            try:
                return await run.serve(joined, stop, stdio or Stdio(), began)
            finally:
                joined.close()
        except BaseExceptionGroup as group:
            # The parts run side by side; what stopped the first of them is what its user has to hear of.
            raise next(_known(group), group) from None
        finally:
            await channel.close()


class _Run:
    """Joining, then serving; what both need."""

    def __init__(
        self, spec: WorkloadSpec, settings: Settings, control: ControlClient, on_event: Events, log: Log
    ) -> None:
        self.spec = spec
        self.settings = settings
        self.on_event = on_event
        self.log = log
        self._control = control
        self.registrar = Registrar(control.register, control.deregister, log=log, draw=random.random)

    async def join(self, channel: Any) -> Grounds:
        """Reach the control plane and take a place; cancelled, the place is given back."""
        await self._reach(channel)
        if self.spec.group:
            query = GroupQuery(namespace=self.spec.namespace, name=self.spec.group)
            self.spec = apply_group(self.spec, await self._control.group(query))
            check_spec(self.spec)
        grounds = await take_place(self.spec, self.settings, self.log)
        self.log.info("place taken", mode=grounds.place.mode, ip=grounds.place.ip)
        self.on_event("place taken", {"mode": grounds.place.mode, "ip": grounds.place.ip})
        return grounds

    async def serve(self, grounds: Grounds, stop: Stop, stdio: Stdio, began: float) -> int:
        registration = _registration(grounds)
        mesh = await self.registrar.first(registration, seconds=self.spec.join_timeout.total_seconds())
        folder = self.settings.workload_dir(self.spec.name)
        try:
            _make_folder(folder)  # after registration: a name that is taken has its folder in use
            workload = Workload(
                grounds,
                self.settings,
                registration=registration,
                registrar=self.registrar,
                mesh=mesh,
                on_event=self.on_event,
                log=self.log,
                stdio=stdio,
                began=began,
            )
            gc.collect()
            gc.freeze()  # what is there now stays; it need not be looked at again
            return await workload.run(stop)
        finally:
            await self.registrar.leave(name=self.spec.name, pid=os.getpid())
            shutil.rmtree(folder, ignore_errors=True)

    async def _reach(self, channel: Any) -> None:
        seconds = self.spec.join_timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds):
                await channel.channel_ready()
        except TimeoutError as error:
            where = str(self.settings.ca_socket)
            raise Unavailable(f"no control plane answers at {where}: start one with 'lateen up DIR'") from error


def _registration(grounds: Grounds) -> Registration:
    spec, place = grounds.spec, grounds.place
    return Registration(
        name=spec.name,
        kind=spec.kind,
        namespace=spec.namespace,
        service_account=spec.service_account,
        service=spec.service,
        version=spec.version,
        labels=effective_labels(spec),
        ip=place.ip,
        ports=spec.ports,
        mode=place.mode,
        http_proxy_port=place.http_proxy_port,
        pid=os.getpid(),
        start_ticks=start_ticks(os.getpid()),
        locality=spec.locality,
        network=spec.network,
        weight=spec.weight,
        group=spec.group,
    )


def _make_folder(folder: Path) -> None:
    # What an agent that was killed left behind goes first: its sockets, its logs.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


def _known(group: BaseExceptionGroup[BaseException]) -> Iterator[LateenError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _known(error)
        elif isinstance(error, LateenError):
            yield error


def _ignore(_: str, __: dict[str, object]) -> None:
    """Events are for those who ask for them."""
