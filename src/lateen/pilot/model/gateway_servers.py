"""Which servers of which Gateways one gateway proxy runs, port by port, and which lost to an older one.

In:  the Gateways that select a proxy, oldest first.
Out: `PortServers` an address and port; a `Note` for each server that is left out.
Rules: docs/api/Gateway.md "Precedence": plain HTTP servers of one port join; servers of TLS stand side by side while
their hosts differ; whatever else wants the same address and port came too late.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lateen.api.base import Level, Object, ResourceKey
from lateen.api.hosts import host_covers
from lateen.api.protocol import Protocol, known_protocol
from lateen.pilot.model.mesh import View

__all__ = ["Note", "PortServers", "Server", "hosts_overlap", "merge_servers", "narrower"]

TERMINATED: Final = frozenset({"SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL"})


@dataclass(frozen=True, slots=True)
class Note:
    """Something that people must be told of a resource, found out while a proxy was served."""

    key: ResourceKey
    path: str
    message: str
    level: Level = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server of one Gateway, with its hosts split into the namespace they accept and the name."""

    gateway: str  # "<namespace>/<name>"
    key: ResourceKey
    position: int  # in the Gateway's `servers`
    number: int  # the port as written; what VirtualServices match
    port_name: str
    protocol: Protocol
    name: str  # for statistics
    hosts: tuple[tuple[str, str], ...]  # (namespace or "*", host)
    redirect: bool
    tls: Any  # api ServerTLSSettings | None
    route: str = ""  # name of its route configuration, "" where requests are not looked at

    @property
    def namespace(self) -> str:
        return self.key.namespace

    @property
    def mode(self) -> str:
        """Return what happens to TLS; "" for a server of plain text."""
        return str(self.tls.mode) if self.protocol.is_tls and self.tls is not None else ""

    @property
    def terminates(self) -> bool:
        return self.mode in TERMINATED

    @property
    def serves_http(self) -> bool:
        return self.protocol.is_http or (self.protocol is Protocol.HTTPS and self.terminates)

    @property
    def serves_http3(self) -> bool:
        """Tell whether HTTP/3 may stand beside it: Envoy (1.40) never asks QUIC clients for a certificate."""
        return self.protocol is Protocol.HTTPS and self.mode == "SIMPLE"

    @property
    def server_names(self) -> tuple[str, ...]:
        """Return the names that select this server in a client's hello, sorted; () for any."""
        names = sorted({host for _, host in self.hosts})
        return () if "*" in names else tuple(names)

    @property
    def path(self) -> str:
        return f"spec.servers[{self.position}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortServers:
    """All servers behind one address and port, oldest first."""

    bind: str  # IP, or `unix://...`
    port: int  # that the listener binds
    also: tuple[int, ...] = ()  # and these: the numbers that Gateways say, where a Service targets another
    servers: tuple[Server, ...]


@dataclass(slots=True)
class _Port:
    """What was put behind one address and port so far."""

    kind: str  # "http" | "tls" | "tcp"
    servers: list[Server]
    hosts: dict[str, Server] = field(default_factory=dict)  # of TLS servers


def merge_servers(
    gateways: Iterable[Object], view: View, targets: Mapping[int, int]
) -> tuple[tuple[PortServers, ...], tuple[Note, ...]]:
    """Return what one proxy listens for, sorted by port and address, and who lost what to whom.

    `targets`: ports of the Services that select the proxy, and where they send to: a server binds the target of its
    number, as in Istio.
    """
    ports: dict[tuple[int, str], _Port] = {}
    notes: list[Note] = []
    for obj in gateways:
        for position, written in enumerate(obj.spec.servers):
            bound = _bound_port(written.port.number, view, targets)
            server = _server(obj, position, written, bound if view.capture else written.port.number)
            place = (bound, _bind(written.bind, view))
            kind = "http" if server.protocol.is_http else "tls" if server.protocol.is_tls else "tcp"
            port = ports.get(place)
            if port is None:
                port = ports[place] = _Port(kind, [])
            elif (lost := _conflict(port, kind, server)) is not None:
                notes.append(Note(server.key, f"{server.path}.{lost[0]}", lost[1]))
                continue
            port.servers.append(server)
            if kind == "tls":
                port.hosts.update({host: server for _, host in server.hosts})
    merged = [
        PortServers(bind=bind, port=number, also=_also(number, bind, ports, view), servers=tuple(port.servers))
        for (number, bind), port in ports.items()
    ]
    return tuple(sorted(merged, key=lambda entry: (entry.port, entry.bind))), tuple(notes)


def _also(number: int, bind: str, ports: Mapping[tuple[int, str], _Port], view: View) -> tuple[int, ...]:
    # Whoever comes from the host comes to the number that the Gateway says, and knows of no Service.
    if not view.capture or bind.startswith("unix:"):
        return ()
    said = {server.number for server in ports[number, bind].servers}
    return tuple(sorted(port for port in said if port != number and (port, bind) not in ports))


def _conflict(port: _Port, kind: str, server: Server) -> tuple[str, str] | None:
    """Return the field and the reason why `server` cannot stand behind `port` as well."""
    first = port.servers[0]
    if kind != port.kind or kind == "tcp":
        message = (
            f"{server.protocol.value} cannot be served on port {server.number}: "
            f"{_named(first)} serves {first.protocol.value} there, and was first; this server is left out"
        )
        return "port.protocol", message
    if kind == "tls":
        for i, (_, host) in enumerate(server.hosts):
            if (owner := port.hosts.get(host)) is not None:
                return f"hosts[{i}]", f"{host} is served by {_named(owner)} already; this server is left out"
    return None


def _named(server: Server) -> str:
    return f"{server.path} of {server.key}"


def _server(obj: Object, position: int, written: Any, resolved: int) -> Server:
    hosts = []
    for text in written.hosts:
        owner, slash, host = text.rpartition("/")
        hosts.append(((obj.key.namespace if owner == "." else owner) if slash else "*", host.lower()))
    protocol = known_protocol(written.port.protocol) or Protocol.TCP
    gateway = f"{obj.key.namespace}/{obj.key.name}"
    suffix = f".{written.bind}" if written.bind else ""
    route = ""
    if protocol.is_http:
        route = f"http.{resolved}{suffix}"  # one for all servers of an address and port
    elif protocol is Protocol.HTTPS and written.tls is not None and written.tls.mode in TERMINATED:
        route = f"https.{written.port.number}.{written.port.name}.{obj.key.name}.{obj.key.namespace}{suffix}"
    return Server(
        gateway=gateway,
        key=obj.key,
        position=position,
        number=written.port.number,
        port_name=written.port.name,
        protocol=protocol,
        name=written.name,
        hosts=tuple(hosts),
        redirect=bool(written.tls is not None and written.tls.https_redirect),
        tls=written.tls,
        route=route,
    )


def _bound_port(number: int, view: View, targets: Mapping[int, int]) -> int:
    return targets.get(number, number) if view.capture else dict(view.gateway_ports).get(number, number)


def _bind(written: str, view: View) -> str:
    if view.capture or written.startswith("unix:"):
        return written or "0.0.0.0"  # noqa: S104  # inside a network of its own
    # In the network of the machine nothing listens beyond loopback, whatever a resource says.
    return written if written.startswith("127.") or written == "::1" else "127.0.0.1"


# ---------------------------------------------------------------- hosts


def narrower(left: str, right: str) -> str | None:
    """Return the more specific of two hosts where one covers the other; None where neither does."""
    if left == right or host_covers(left, right):
        return right
    return left if host_covers(right, left) else None


def hosts_overlap(server: Server, namespace: str, hosts: Iterable[str]) -> Iterator[str]:
    """Yield what a server and the `hosts` of a VirtualService of `namespace` have in common."""
    for host in hosts:
        for owner, served in server.hosts:
            if owner in ("*", namespace) and (shared := narrower(served, host)) is not None:
                yield shared
