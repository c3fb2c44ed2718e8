"""Registrations of running workloads: files that outlive the control plane, and the processes behind them.

A registration stands as long as its agent lives. A control plane that comes back reads the files, finds the agents
alive and withdraws nothing; an agent that dies, however it dies, is told by its pidfd. An agent elsewhere says every
few seconds that it lives (`wire.local.HEARTBEAT_SECONDS`); after `LEASE_SECONDS` of silence it is taken for gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import structlog

from lateen.errors import BadInput, Refused
from lateen.net.process import start_ticks
from lateen.pilot.registry.values import Workload
from lateen.wire.files import write_atomically
from lateen.wire.local import Registration
from lateen.wire.locality import check_locality
from lateen.wire.texts import tamed

__all__ = ["Registrations", "check_registration", "to_workload"]

log = structlog.get_logger(__name__)

LEASE_SECONDS = 30.0
MAX_LABELS = 256
MAX_TEXT = 512  # of one text of a registration; labels of Kubernetes have up to 317 characters
MAX_NAME = 63  # one DNS label, and short enough for the paths of its sockets


def check_registration(registration: Registration) -> None:
    """Raise `BadInput` for a registration that cannot be one."""
    for field in ("name", "namespace", "service_account"):
        value = getattr(registration, field)
        if not _is_label(value):
            raise BadInput(f"{field} must be a DNS label of 1 to {MAX_NAME} characters, got {value!r}")
    if registration.service and not _is_label(registration.service):
        raise BadInput(f"service must be a DNS label, got {registration.service!r}")
    if registration.kind not in ("sidecar", "gateway"):
        raise BadInput(f"kind must be 'sidecar' or 'gateway', got {registration.kind!r}")
    if len(registration.labels) > MAX_LABELS:
        raise BadInput(f"{len(registration.labels)} labels, at most {MAX_LABELS} wanted")
    shown = (registration.version, registration.ip, registration.network, registration.group)
    for text in (*shown, *registration.labels, *registration.labels.values(), *(p.name for p in registration.ports)):
        if not (text.isprintable() and len(text) <= MAX_TEXT):
            raise BadInput(f"text of at most {MAX_TEXT} characters that are printed wanted, got {text[:MAX_TEXT]!r}")
    check_locality(registration.locality)
    if registration.weight < 1:
        raise BadInput(f"weight must be at least 1, got {registration.weight}")
    for port in registration.ports:
        if not (1 <= port.number <= 65535 and 1 <= port.target <= 65535):
            raise BadInput(f"ports must be between 1 and 65535, got {port.number} and {port.target}")
    numbers = [port.number for port in registration.ports]
    if len(set(numbers)) != len(numbers):
        raise BadInput(f"ports must be unique, got {numbers}")


def to_workload(registration: Registration) -> Workload:
    """Return the registry's value for a registration."""
    return Workload(
        name=registration.name,
        kind=registration.kind,
        namespace=registration.namespace,
        service_account=registration.service_account,
        service=registration.service,
        labels=dict(registration.labels),
        ip=registration.ip,
        ports=tuple((port.name, port.number, port.target) for port in registration.ports),
        ready=registration.ready,
        capture=registration.mode == "capture",
        http_proxy_port=registration.http_proxy_port,
        locality=registration.locality,
        network=registration.network,
        weight=registration.weight,
        group=registration.group,
    )


class Registrations:
    """The registrations that stand. `on_change` is told each name with its registration, or None when it is gone."""

    def __init__(self, folder: Path, on_change: Callable[[str, Registration | None], None]) -> None:
        self._folder = folder
        self._on_change = on_change
        self._standing: dict[str, Registration] = {}
        self._watched: dict[str, int] = {}  # name -> pidfd of its agent
        self._leases: dict[str, asyncio.TimerHandle] = {}  # name -> until when an agent elsewhere is believed to live

    def __iter__(self) -> Iterator[Registration]:
        return iter([self._standing[name] for name in sorted(self._standing)])

    def get(self, name: str) -> Registration | None:
        return self._standing.get(name)

    def load(self) -> None:
        """Take over what an earlier control plane left; registrations of dead agents are removed."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                registration = msgspec.json.decode(path.read_bytes(), type=Registration)
                check_registration(registration)
            except (msgspec.MsgspecError, BadInput) as error:
                log.warning("registration removed: not readable", file=str(path), error=str(error))
                path.unlink(missing_ok=True)
                continue
            if registration.remote:
                self._extend(registration)  # it could not be heard of meanwhile
            elif start_ticks(registration.pid) != registration.start_ticks or not self._watch(registration):
                log.info("registration removed: its agent is gone", workload=registration.name, pid=registration.pid)
                path.unlink(missing_ok=True)
                continue
            self._standing[registration.name] = registration
            self._on_change(registration.name, registration)

    def put(self, registration: Registration) -> None:
        """Create or replace a registration. Raises `BadInput`; `Refused` when a living agent has the name."""
        check_registration(registration)
        registration = msgspec.structs.replace(
            registration,
            waits_for=tamed(registration.waits_for, MAX_TEXT),
            bootstrap={tamed(patch, MAX_TEXT): tamed(why) for patch, why in registration.bootstrap.items()},
        )
        known = self._standing.get(registration.name)
        same_agent = known is not None and (known.pid, known.start_ticks) == (
            registration.pid,
            registration.start_ticks,
        )
        same_agent = same_agent and known is not None and known.remote == registration.remote
        if known is not None and not same_agent and (known.remote or start_ticks(known.pid) == known.start_ticks):
            where = f"elsewhere, or did less than {LEASE_SECONDS:g} s ago" if known.remote else f"agent pid {known.pid}"
            raise Refused(f"a workload {registration.name!r} runs already, {where}; choose another name")
        if registration.remote:
            self._extend(registration)
        else:
            self._take(registration, same_agent)
        if known == registration:
            return
        self._standing[registration.name] = registration
        write_atomically(self._path(registration.name), msgspec.json.encode(registration))
        self._on_change(registration.name, registration)

    def remove(self, name: str, pid: int) -> None:
        """Forget the registration of agent `pid`; one that another agent took over stays."""
        known = self._standing.get(name)
        if known is None or known.pid != pid:
            return
        del self._standing[name]
        self._unwatch(name)
        self._path(name).unlink(missing_ok=True)
        self._on_change(name, None)

    def close(self) -> None:
        """Stop watching; the files stay for the next control plane."""
        for name in [*self._watched, *self._leases]:
            self._unwatch(name)

    def _take(self, registration: Registration, same_agent: bool) -> None:
        """Follow the process of an agent on this machine. Raises `BadInput` when there is none."""
        if start_ticks(registration.pid) != registration.start_ticks:
            raise BadInput(f"no process {registration.pid} that started at tick {registration.start_ticks}")
        if not same_agent:
            self._unwatch(registration.name)
            if not self._watch(registration):
                raise BadInput(f"process {registration.pid} is gone")

    def _extend(self, registration: Registration) -> None:
        """Believe for a while that an agent elsewhere lives."""
        name, pid = registration.name, registration.pid

        def silent() -> None:
            log.info("workload's agent was not heard of", workload=name, seconds=LEASE_SECONDS)
            self.remove(name, pid)

        self._unwatch(name)
        self._leases[name] = asyncio.get_running_loop().call_later(LEASE_SECONDS, silent)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _watch(self, registration: Registration) -> bool:
        try:
            descriptor = os.pidfd_open(registration.pid)
        except ProcessLookupError:
            return False
        name, pid = registration.name, registration.pid

        def ended() -> None:
            log.info("workload's agent ended", workload=name, pid=pid)
            self.remove(name, pid)

        self._watched[name] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, ended)
        return True

    def _unwatch(self, name: str) -> None:
        lease = self._leases.pop(name, None)
        if lease is not None:
            lease.cancel()
        descriptor = self._watched.pop(name, None)
        if descriptor is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)


def _is_label(text: str) -> bool:
    return (
        0 < len(text) <= MAX_NAME
        and text.isascii()
        and text.replace("-", "").isalnum()
        and text[0] != "-"
        and text[-1] != "-"
    )
