"""What one proxy is configured for: the Sidecar that selects it, as a value that proxies can share.

In:  a Sidecar and the namespace of the proxy it speaks for. Out: a `Scope`, part of the proxy's `View`.
Rules: docs/api/Sidecar.md (Istio's import grammar, listeners in order, exclusions). Pure: nothing is looked up here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lateen.api.hosts import host_covers, hosts_overlap
from lateen.api.protocol import Protocol, known_protocol

__all__ = ["ANY", "EVERYTHING", "Egress", "HostImport", "Scope", "scope_of"]

ANY = "*"
LOOPBACK = "127.0.0.1"
UNIX = "unix://"


@dataclass(frozen=True, slots=True, order=True)
class HostImport:
    """One entry of `egress[].hosts`: what a namespace (or any) offers under a name or a wildcard."""

    namespace: str  # a name, or ANY; never "." or "~"
    host: str  # lower case; ANY, "*.suffix" or a full name

    def covers(self, namespace: str, host: str) -> bool:
        """Tell whether every name that `host` stands for is meant, when `namespace` offers it."""
        return self.namespace in (ANY, namespace) and host_covers(self.host, host)

    def meets(self, namespace: str, host: str) -> bool:
        """Tell whether there is a name that both stand for."""
        return self.namespace in (ANY, namespace) and hosts_overlap(self.host, host)


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Egress:
    """One egress listener of a Sidecar: which services can be reached through it, and where it listens."""

    port: int = 0  # 0: every port that no other listener took; with a Unix `bind`: none
    protocol: str = ""  # as declared; "": each service's own
    bind: str = ""  # "": wherever services are dialled; an IP; "unix:///path" or "unix://@name"
    captured: bool = True  # False (captureMode NONE, Unix sockets): opens a socket that applications dial
    imports: tuple[HostImport, ...] = ()
    excludes: tuple[HostImport, ...] = ()

    @property
    def placed(self) -> bool:
        """It listens in one place of its own, not wherever its services are dialled."""
        return bool(self.bind) or (bool(self.port) and not self.captured)

    @property
    def address(self) -> str:
        """Where a placed listener is: what is written, else loopback."""
        return self.bind or LOOPBACK

    @property
    def route_name(self) -> str:
        """The name of a placed listener's route configuration: the socket's path, or `<address>_<port>`."""
        return self.bind.removeprefix(UNIX) if self.bind.startswith(UNIX) else f"{self.address}_{self.port}"

    @property
    def declared(self) -> Protocol | None:
        """The protocol that the listener names, None when it leaves that to the services."""
        return known_protocol(self.protocol) if self.protocol else None

    def takes(self, number: int) -> bool:
        """Tell whether services may be reached on port `number` through it."""
        return self.port in (0, number) or self.declared is Protocol.HTTP_PROXY

    def imports_service(self, namespace: str, hostname: str) -> bool:
        """Tell whether what `namespace` offers as `hostname` is imported. Exclusions win."""
        return any(entry.covers(namespace, hostname) for entry in self.imports) and not any(
            entry.covers(namespace, hostname) for entry in self.excludes
        )

    def imports_virtual(self, namespace: str, hosts: Sequence[str]) -> bool:
        """Tell whether a VirtualService of `namespace` for `hosts` acts: one of them meets an import.

        Wildcards meet: `*.foo.com` of a VirtualService is imported by `shop/a.foo.com` too.
        """
        return any(
            any(entry.meets(namespace, host) for entry in self.imports)
            and not any(entry.covers(namespace, host) for entry in self.excludes)
            for host in hosts
        )


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Scope:
    """All that a Sidecar says about what leaves a proxy. No egress listener: everything is imported."""

    egress: tuple[Egress, ...] = ()
    policy: str = ""  # outboundTrafficPolicy.mode; "": the mesh's
    egress_proxy: tuple[str, str, int] | tuple[()] = ()  # host, subset, port: where ALLOW_ANY sends to
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Part of the key of everything that a view is served, and asked for at each read: computed once.
        object.__setattr__(self, "_hash", hash((self.egress, self.policy, self.egress_proxy)))

    def __hash__(self) -> int:
        return self._hash

    def at(self, number: int) -> Egress | None:
        """Return the listener that captured connections to port `number` are for, whoever they were meant for."""
        ported = next((entry for entry in self.egress if entry.port == number and not entry.placed), None)
        return ported or next((entry for entry in self.egress if not entry.port and not entry.placed), None)

    def named(self, route: str) -> Egress | None:
        """Return the placed listener whose route configuration has this name."""
        return next((entry for entry in self.egress if entry.placed and entry.route_name == route), None)

    def through(self, namespace: str, hostname: str, number: int) -> Egress | None:
        """Return the first listener for captured connections that leads to this service's port."""
        leading = (entry for entry in self.egress if not entry.placed and entry.takes(number))
        return next((entry for entry in leading if entry.imports_service(namespace, hostname)), None)

    def imports_virtual(self, namespace: str, hosts: Sequence[str]) -> bool:
        """Tell whether any listener imports a VirtualService of `namespace` for `hosts`."""
        return not self.egress or any(entry.imports_virtual(namespace, hosts) for entry in self.egress)

    def ports(self, namespace: str, hostname: str) -> frozenset[int] | None:
        """Return the ports that a service is imported with; empty for none, None for all of them."""
        numbers: set[int] = set()
        for entry in self.egress:
            if not entry.imports_service(namespace, hostname):
                continue
            if not entry.port or entry.declared is Protocol.HTTP_PROXY:
                return None
            numbers.add(entry.port)
        return frozenset(numbers)


EVERYTHING = Scope()


def scope_of(sidecar: Any, namespace: str, *, capture: bool = True) -> Scope:
    """Return the scope that a Sidecar's spec gives proxies of `namespace`; `.` in it is that namespace.

    Without `capture` (explicit mode) every listener that has a port opens it.
    """
    egress = tuple(_egress(listener, namespace, capture) for listener in sidecar.egress)
    if all(_imports_all(entry) for entry in egress):
        egress = ()  # the same as no Sidecar: such proxies share one view
    policy = sidecar.outbound_traffic_policy
    proxy = policy.egress_proxy if policy is not None else None
    return Scope(
        egress=egress,
        policy=str(policy.mode) if policy is not None else "",
        egress_proxy=(proxy.host.lower(), proxy.subset or "", proxy.port.number) if proxy is not None else (),
    )


def _egress(listener: Any, namespace: str, capture: bool) -> Egress:
    imports: set[HostImport] = set()
    excludes: set[HostImport] = set()
    for written in listener.hosts:
        owner, _, host = written.partition("/")
        if owner == "~" and host == "*":
            continue  # imports nothing
        into = imports
        if owner.startswith("~"):
            into, owner = excludes, owner[1:] or ANY
        into.add(HostImport(namespace if owner == "." else owner, host.lower()))
    unix = listener.bind.startswith(UNIX)
    protocol = listener.port.protocol.upper() if listener.port is not None else ""
    own = unix or listener.capture_mode == "NONE" or not capture or known_protocol(protocol) is Protocol.HTTP_PROXY
    return Egress(
        port=listener.port.number if listener.port is not None else 0,
        protocol=protocol,
        bind=listener.bind,
        captured=not (listener.port is not None and own),
        imports=tuple(sorted(imports)),
        excludes=tuple(sorted(excludes)),
    )


def _imports_all(entry: Egress) -> bool:
    return not entry.port and not entry.placed and HostImport(ANY, ANY) in entry.imports and not entry.excludes
