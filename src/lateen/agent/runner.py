"""Run one workload from joining the mesh to leaving it.

    reach the control plane (from elsewhere: join it, for a certificate) -> take a place -> register (not ready)
    -> certificate, Envoy, names, at the same time
    -> proxy ready: start the application -> it listens: register (ready)
    -> asked to leave, or the application ended: deregister -> drain -> application -> Envoy -> place

The registration stands in the control plane's files, so nothing is lost while that is away. Children die with the agent
(PR_SET_PDEATHSIG), however it dies. docs/design/0005-agent.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lateen.agent.group import apply_group
from lateen.agent.identity import Identity
from lateen.agent.link import Link, LocalLink
from lateen.agent.log import Log
from lateen.agent.place import Grounds, take_place
from lateen.agent.registration import Registrar, start_ticks
from lateen.agent.spec import WorkloadSpec, check_spec, effective_labels
from lateen.agent.stop import Stop
from lateen.agent.workload import Events, Stdio, Workload
from lateen.errors import LateenError, Unavailable, Unsupported
from lateen.settings import Settings
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
    link: Link | None = None,
) -> int:
    """Run one workload to its end and return its exit code: the application's, 128 + N when signal N ended it.

    `link`: the way to the control plane, which is closed in the end; None: by the sockets of the state folder.
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
        link = link or LocalLink(settings)
        try:
            run = _Run(spec, settings, link, on_event or _ignore, log)
            joined = await stop.unless_asked(run.join())
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
            await link.close()


class _Run:
    """Joining, then serving; what both need."""

    def __init__(self, spec: WorkloadSpec, settings: Settings, link: Link, on_event: Events, log: Log) -> None:
        self.spec = spec
        self.settings = settings
        self.on_event = on_event
        self.log = log
        self._link = link
        self._identity: Identity | None = None
        self.registrar = Registrar(
            link.control.register,
            link.control.deregister,
            log=log,
            draw=random.random,
            heartbeat_seconds=link.heartbeat_seconds,
        )

    async def join(self) -> Grounds:
        """Reach the control plane and take a place; cancelled, the place is given back."""
        await self._link.reach(self.spec.join_timeout.total_seconds())
        if self._is_elsewhere:
            if self.spec.mode == "capture":
                raise Unsupported("a workload elsewhere has no place in the mesh's network: --mode explicit wanted")
            self.spec = dataclasses.replace(self.spec, mode="explicit")
            await self._first_certificate(None if self.spec.group else self.spec.service_account)
        if self.spec.group:
            query = GroupQuery(namespace=self.spec.namespace, name=self.spec.group)
            self.spec = apply_group(self.spec, await self._link.control.group(query))
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
            identity = self._identity or self._new_identity(grounds.spec.service_account, mesh.trust_domain)
            workload = Workload(
                grounds,
                self.settings,
                link=self._link,
                identity=identity,
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

    @property
    def _is_elsewhere(self) -> bool:
        return self._link.heartbeat_seconds is not None

    def _new_identity(self, account: str | None, trust_domain: str) -> Identity:
        return Identity(
            self._link.citadel(self.spec.namespace, account).sign,
            namespace=self.spec.namespace,
            service_account=account,
            lifetime=self.spec.certificate_lifetime,
            log=self.log,
            trust_domain=trust_domain,
        )

    async def _first_certificate(self, account: str | None) -> None:
        """Join: from elsewhere, nothing can be asked without a certificate."""
        known = await self._link.identity()
        trust_domain = known.trust_domain if known is not None else ""
        self._identity = identity = self._new_identity(account, trust_domain)
        identity.listen(self._link.follow)
        try:
            async with asyncio.timeout(self.spec.join_timeout.total_seconds()):
                await identity.begin()
        except TimeoutError as error:
            raise Unavailable(f"{self._link.where} cannot be joined: {identity.failure or 'no answer'}") from error


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
