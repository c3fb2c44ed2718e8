"""Agents elsewhere: one TLS port for those that join by a token and those that have a certificate of the mesh.

Which of two servers goes on with a connection is the client's choice, by the name in its TLS greeting; what it gets is
not. The one asks for no certificate and answers CSRs that come with a join token, nothing else. The other completes no
handshake without a certificate that the mesh's roots verify; it renews that certificate's own identity, serves ADS, and
lets an agent register workloads of its own identity. Nothing is told to anybody who is neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
import msgspec
import structlog

from lateen.citadel.callers import BearerJoinToken, ClientCertificate
from lateen.citadel.jwt_service import JwtService
from lateen.citadel.service import SERVER_OPTIONS, Lifetimes
from lateen.errors import BadInput, Refused, Unavailable
from lateen.pilot.registry.registrations import to_workload
from lateen.pilot.serving.client_hello import greeted_name
from lateen.pilot.xds.node import Trust
from lateen.pilot.xds.server import GRPC_OPTIONS, connection_age
from lateen.wire.control import join_handlers
from lateen.wire.doors import BACKLOG, Admitted, Door, HiddenPort, address_text
from lateen.wire.join import JOIN_NAME
from lateen.wire.local import Goodbye, GroupInfo, GroupQuery, Registered, Registration
from lateen.wire.peer import peer_spiffe_id, peer_text
from lateen.wire.spiffe import SpiffeId, parse_spiffe_id

if TYPE_CHECKING:
    from lateen.pilot.serving.certificates import Certificates
    from lateen.pilot.serving.control_plane import ControlPlane

__all__ = ["Greeting", "elsewhere_listener"]

log = structlog.get_logger(__name__)

CONNECTIONS: Final = 10_000
CONNECTIONS_OF_ONE: Final = 2_000  # of one address, behind which a whole site may be
WORKLOADS_OF_ONE: Final = 1_000  # registrations that one identity may have
READ_BYTES: Final = 16 * 1024
# CSRs and streams share a server, so its limits are those of the streams; a thousand calls a connection are few.
# Clients may ping every 20 s: over a network that is how they notice that this end has vanished.
MEMBER_OPTIONS: Final = (
    *GRPC_OPTIONS,
    ("grpc.server.max_pending_requests", 30_000),
    ("grpc.server.max_pending_requests_hard_limit", 30_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
)
# Of the server that asks for no certificate: whoever has nothing to say leaves soon.
JOIN_OPTIONS: Final = (
    *SERVER_OPTIONS,
    ("grpc.max_receive_message_length", 128 * 1024),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 10_000),
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", 10_000),
)


class Greeting:
    """Admits TLS clients, to the port of the name that they greet, or else to `other`."""

    def __init__(self, ports: Mapping[str, HiddenPort], other: HiddenPort) -> None:
        self._ports = ports
        self._other = other

    async def __call__(self, sock: socket.socket) -> Admitted:
        name = sock.getpeername()
        peer = address_text(name)
        loop = asyncio.get_running_loop()
        data = b""
        try:
            while (greeted := greeted_name(data)) is None:
                more = await loop.sock_recv(sock, READ_BYTES)
                if not more:
                    raise Unavailable("connection closed before its TLS greeting")
                data += more
        except BadInput as error:
            raise Refused(f"connection from {peer}: {error}") from error
        return Admitted(self._ports.get(greeted, self._other), peer, data, source=str(name[0]))


@contextlib.asynccontextmanager
async def elsewhere_listener(plane: ControlPlane, address: tuple[str, int]) -> AsyncIterator[Door]:
    """Serve agents elsewhere at `address` (IP, port; 0: any free one). Raises `Refused` when it cannot listen there."""
    certificates = plane.certificates
    trust_domain = certificates.options.trust_domain
    aged = connection_age(certificates.options.lifetime or Lifetimes().default)
    mutual = grpc.aio.server(options=(*MEMBER_OPTIONS, *aged))
    by_certificate = [ClientCertificate(trust_domain, revoked=certificates.roots.is_revoked)]
    mutual.add_generic_rpc_handlers(
        (
            certificates.service.handler(by_certificate),
            JwtService(certificates.jwts, by_certificate, audit=certificates.audit).handler(),
            join_handlers(lambda context: _Agent(plane, _identity_of(context, certificates), peer_text(context))),
        )
    )
    plane.ads.add_to_server(mutual, trust=Trust.MUTUAL_TLS, admit=certificates.check_client)
    joining = grpc.aio.server(options=JOIN_OPTIONS)
    joining.add_generic_rpc_handlers((certificates.service.handler([BearerJoinToken(certificates.join_tokens)]),))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(_listen(address)))
        credentials = certificates.server_identity
        ports = [
            HiddenPort(server, plane.settings.run, credentials.credentials(clients=clients))
            for server, clients in ((mutual, True), (joining, False))
        ]
        for port in ports:
            stack.callback(port.close)
        door = Door(
            listener,
            Greeting({JOIN_NAME: ports[1]}, ports[0]),
            on_refused=certificates.turned_away,
            connections=CONNECTIONS,
            connections_of_one=CONNECTIONS_OF_ONE,
        )
        await mutual.start()
        await joining.start()
        task = asyncio.create_task(door.run(), name="door for agents elsewhere")
        log.info("agents elsewhere may join", address=door.address)
        try:
            yield door
        finally:
            # Calls end in order; then what is still open is cut.
            await asyncio.gather(mutual.stop(1.0), joining.stop(1.0))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class _Agent:
    """Answers one call of an agent with a certificate: about workloads of its own identity, and no others."""

    def __init__(self, plane: ControlPlane, identity: SpiffeId, peer: str) -> None:
        self._plane = plane
        self._identity = identity
        self._peer = peer

    async def register(self, message: Registration) -> Registered:
        self._check(message.namespace, message.service_account)
        _check_address(message.ip, self._peer)
        plane = self._plane
        known = plane.registrations.get(message.name)
        if known is not None and (known.namespace, known.service_account) != self._own:
            raise Refused(f"a workload {message.name!r} of another identity runs already; choose another name")
        if known is None:
            mine = sum((one.namespace, one.service_account) == self._own for one in plane.registrations)
            if mine >= WORKLOADS_OF_ONE:
                raise Refused(f"{mine} workloads of {self._identity} are registered already")
        message = msgspec.structs.replace(message, remote=True)
        plane.registrations.put(message)
        return plane.registered(to_workload(message))

    async def deregister(self, message: Goodbye) -> Registered:
        known = self._plane.registrations.get(message.name)
        if known is not None:
            self._check(known.namespace, known.service_account)
            if known.remote:
                self._plane.registrations.remove(message.name, message.pid)
        return self._plane.registered()

    async def group(self, message: GroupQuery) -> GroupInfo:
        if message.namespace != self._identity.namespace:
            raise Refused(f"{self._identity} may not ask about namespace {message.namespace!r}")
        info = await self._plane.group(message)
        self._check(info.namespace, info.service_account)
        return info

    @property
    def _own(self) -> tuple[str, str]:
        return self._identity.namespace, self._identity.service_account

    def _check(self, namespace: str, account: str) -> None:
        if (namespace, account) != self._own:
            raise Refused(f"{self._identity} may not speak for {namespace}/{account}")


def _identity_of(context: Any, certificates: Certificates) -> SpiffeId:
    trust_domain = certificates.options.trust_domain
    certificates.check_client(context)
    text = peer_spiffe_id(context)
    if text is None:
        raise Refused("a client certificate of a workload is wanted")
    identity = parse_spiffe_id(text)
    if identity.trust_domain != trust_domain:
        raise Refused(f"client certificate is not of trust domain {trust_domain!r}")
    return identity


def _check_address(ip: str, peer: str) -> None:
    """Raise `BadInput` for an address that would send other workloads' traffic to somewhere on their own machines."""
    try:
        address = _unwrapped(ip)
        caller = _unwrapped(peer.rpartition(":")[0].strip("[]"))
    except ValueError as error:
        raise BadInput(f"ip: {error}") from error
    special = address.is_unspecified or address.is_multicast or address.is_link_local
    if special or (address.is_loopback and not caller.is_loopback):
        raise BadInput(f"ip: {ip} is no address at which others reach a workload; name one with --address")


def _unwrapped(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address; of an IPv4 one in IPv6's clothes what the kernel connects to. Raises `ValueError`."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _listen(address: tuple[str, int]) -> socket.socket:
    ip, port = address
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise Refused(f"--listen: cannot listen on {ip}:{port}: {error.strerror}") from error
    return sock
