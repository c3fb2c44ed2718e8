"""Both neighbours of the xDS server: a source that feeds it from plain dicts, and clients that behave like Envoy.

`FakeSource`, `FakeSlice`  what `lateen.pilot.xds.source` asks for; changes by `push`, NACK reports in `rejections`.
`DeltaPeer`, `SotwPeer`    a client's side of the protocol, without I/O: responses in, requests out. ACKs unless told
                           otherwise (`refuse`), and asks for endpoints of clusters and routes of listeners, as Envoy
`HubLink`                  joins a peer and a hub directly, in one thread, step by step.
`GrpcLink`                 joins a peer and a server over a grpc.aio channel.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ConfigSource
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
)
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from lateen.errors import LateenError, Refused
from lateen.pilot.xds.hub import Hub
from lateen.pilot.xds.references import references
from lateen.pilot.xds.server import DELTA_METHOD, SERVICE, SOTW_METHOD
from lateen.pilot.xds.source import Delta, Identity, NodeInfo, Proxy, Resource, Slice
from lateen.pilot.xds.source import Listener as ChangeListener
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, NAMED, RDS, short_name

__all__ = [
    "ADS",
    "NODE_ID",
    "DeltaPeer",
    "FakeProxy",
    "FakeSlice",
    "FakeSource",
    "GrpcLink",
    "HubLink",
    "Received",
    "SotwPeer",
    "make_cluster",
    "make_endpoints",
    "make_listener",
    "make_resource",
    "make_route",
]

ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version="V3")
NODE_ID = "sidecar~10.77.0.9~reviews-v3.default~default.svc.cluster.local"


# --- resources ---


def make_resource(name: str, message: Any, type_url: str = "") -> Resource:
    """Pack any message as a resource; `type_url` is for types that have no Python message here."""
    packed = AnyMessage(
        type_url=type_url or "type.googleapis.com/" + message.DESCRIPTOR.full_name,
        value=message.SerializeToString(deterministic=True),
    )
    body = packed.SerializeToString(deterministic=True)
    return Resource(name, blake2b(body, digest_size=10).hexdigest(), body)


def make_cluster(name: str, *, eds: bool = True, service_name: str = "", seconds: int = 5) -> Resource:
    """Build a cluster; `seconds`, its connect timeout, makes versions of it that differ."""
    cluster = Cluster(name=name, connect_timeout={"seconds": seconds})
    if eds:
        cluster.type = Cluster.EDS
        cluster.eds_cluster_config.eds_config.CopyFrom(ADS)
        cluster.eds_cluster_config.service_name = service_name
    return make_resource(name, cluster)


def make_endpoints(name: str, *ports: int) -> Resource:
    message = ClusterLoadAssignment(cluster_name=name)
    group = message.endpoints.add()
    for port in ports:
        address = group.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
    return make_resource(name, message)


def make_listener(name: str, *, port: int = 0, route: str = "", prefix: str = "in") -> Resource:
    """Build a listener whose HTTP connection manager asks for `route`."""
    listener = Listener(name=name)
    listener.address.socket_address.address = "127.0.0.1"
    listener.address.socket_address.port_value = port
    manager = HttpConnectionManager(stat_prefix=prefix)
    if route:
        manager.rds.CopyFrom(Rds(route_config_name=route, config_source=ADS))
    router = manager.http_filters.add(name="router")
    router.typed_config.type_url = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    network_filter = Filter(name="hcm")
    network_filter.typed_config.Pack(manager)
    listener.filter_chains.append(FilterChain(filters=[network_filter]))
    return make_resource(name, listener)


def make_route(name: str, cluster: str) -> Resource:
    """Build a route configuration that sends everything to one cluster."""
    host = VirtualHost(name="all", domains=["*"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.route.cluster = cluster
    return make_resource(name, RouteConfiguration(name=name, virtual_hosts=[host]))


# --- the source ---


class FakeSlice:
    """A slice that holds what `FakeSource.push` put into it."""

    def __init__(self, type_url: str, *resources: Resource) -> None:
        self._type_url = type_url
        self.content = {resource.name: resource for resource in resources}
        self.wanted: Counter[str] = Counter()  # name -> get() calls not yet released

    @property
    def type_url(self) -> str:
        return self._type_url

    def all(self) -> Mapping[str, Resource]:
        return self.content

    def get(self, name: str) -> Resource | None:
        self.wanted[name] += 1
        return self.content.get(name)

    def release(self, name: str) -> None:
        self.wanted[name] -= 1
        assert self.wanted[name] >= 0, f"{name} released more often than asked for"
        if not self.wanted[name]:
            del self.wanted[name]


@dataclass(eq=False)
class FakeProxy:
    name: str
    namespace: str
    scope: dict[str, tuple[Slice, ...]]
    identity: Identity
    closed: int = 0

    @property
    def slices(self) -> Mapping[str, tuple[Slice, ...]]:
        return self.scope

    def close(self) -> None:
        self.closed += 1


class FakeSource:
    """Gives every proxy the same scope, unless `scopes` has one for its node id."""

    def __init__(self, *slices: FakeSlice) -> None:
        self.scope = scope_of(*slices)
        self.scopes: dict[str, dict[str, tuple[Slice, ...]]] = {}
        self.refusal: LateenError | None = None  # raised by `connect`
        self.proxies: list[FakeProxy] = []
        self.unwelcome: list[Proxy] = []
        self.rejections: list[tuple[str, str, tuple[str, ...], str]] = []  # proxy, type, names, error
        self.recoveries: list[tuple[str, str, tuple[str, ...]]] = []
        self._listeners: list[ChangeListener] = []

    async def settled(self) -> None:
        """Nothing has to be judged."""

    def connect(self, node: NodeInfo, identity: Identity) -> Proxy:
        if self.refusal is not None:
            raise self.refusal
        name, _, namespace = node.id.split("~")[2].partition(".")
        proxy = FakeProxy(name, namespace, self.scopes.get(node.id, self.scope), identity)
        self.proxies.append(proxy)
        return proxy

    def check(self, proxy: Proxy) -> None:
        if proxy in self.unwelcome:
            raise Refused("not any more")

    def refuse(self, proxy: Proxy) -> None:
        """Have a proxy that was accepted, and maybe served, refused."""
        self.unwelcome.append(proxy)
        for listener in self._listeners:
            listener.on_refused(proxy, "not any more")

    def subscribe(self, listener: ChangeListener) -> None:
        self._listeners.append(listener)

    def rejected(self, proxy: Proxy, type_url: str, names: tuple[str, ...], error: str) -> None:
        self.rejections.append((proxy.name, short_name(type_url), names, error))

    def accepted(self, proxy: Proxy, type_url: str, names: tuple[str, ...]) -> None:
        self.recoveries.append((proxy.name, short_name(type_url), names))

    def push(self, *changes: tuple[FakeSlice, Sequence[Resource | str]]) -> None:
        """Apply one batch: resources are put into their slice, names are removed from it."""
        deltas = []
        for target, items in changes:
            changed = tuple(item for item in items if isinstance(item, Resource))
            removed = tuple(item for item in items if isinstance(item, str))
            for resource in changed:
                target.content[resource.name] = resource
            for name in removed:
                del target.content[name]
            deltas.append(Delta(target, changed, removed))
        for listener in self._listeners:
            listener.on_batch(deltas)

    def rescope(self, proxy: FakeProxy, *slices: FakeSlice) -> None:
        proxy.scope = scope_of(*slices)
        for listener in self._listeners:
            listener.on_scope(proxy)


def scope_of(*slices: FakeSlice) -> dict[str, tuple[Slice, ...]]:
    scope: dict[str, tuple[Slice, ...]] = {}
    for item in slices:
        scope[item.type_url] = (*scope.get(item.type_url, ()), item)
    return scope


# --- the client's side of the protocol ---


@dataclass(frozen=True)
class Received:
    """One response, as the client saw it."""

    type: str  # short name
    names: tuple[str, ...]  # sorted
    removed: tuple[str, ...] = ()  # sorted
    verdict: str = "ACK"

    def __str__(self) -> str:
        words = [self.type, *self.names, *(f"-{name}" for name in self.removed)]
        return " ".join(words if self.verdict == "ACK" else [*words, self.verdict])


@dataclass
class Peer:
    """What both variants have in common. `log` grows with every response."""

    node_id: str = NODE_ID
    metadata: Mapping[str, Any] = field(default_factory=dict)
    refuse: Callable[[str, str, bytes], str] = lambda _type, _name, _body: ""  # an error text says no
    follows: Mapping[str, str] = field(default_factory=lambda: {CDS: EDS, LDS: RDS})  # asks for what these refer to
    held: dict[str, dict[str, tuple[str, bytes]]] = field(default_factory=dict)  # type -> name -> version, body
    asked: dict[str, set[str]] = field(default_factory=dict)  # type -> explicit names
    log: list[Received] = field(default_factory=list)
    node_sent: bool = False

    def names(self, type_url: str) -> list[str]:
        return sorted(self.held.get(type_url, ()))

    def node(self) -> Node:
        node = Node(id=self.node_id, cluster="test", user_agent_name="envoy", user_agent_version="1.40.0")
        node.metadata.update(self.metadata)
        return node

    def said(self) -> list[str]:
        """Return the log as text, and start it anew."""
        lines = [str(entry) for entry in self.log]
        self.log.clear()
        return lines

    def _problems(self, type_url: str, bodies: Mapping[str, bytes]) -> str:
        said = {name: self.refuse(type_url, name, body) for name, body in bodies.items()}
        return "; ".join(f"{name}: {text}" for name, text in said.items() if text)

    def _wanted_children(self, parent: str) -> set[str]:
        bodies = [body for _, body in self.held.get(parent, {}).values()]
        return {child for body in bodies for child in references(parent, body)}

    def _with_node(self, request: Any) -> Any:
        if not self.node_sent:
            request.node.CopyFrom(self.node())
            self.node_sent = True
        return request


@dataclass
class DeltaPeer(Peer):
    """An Envoy over delta ADS. Good parts of a response that it refuses are not applied."""

    def first(self, *type_urls: str) -> list[Any]:
        """Return the first requests of a stream: with what it holds, if it is another stream's successor."""
        self.node_sent = False
        requests = []
        for type_url in type_urls:
            names = self.asked.setdefault(type_url, set())
            request = DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=sorted(names))
            for name, (version, _) in self.held.get(type_url, {}).items():
                request.initial_resource_versions[name] = version
            requests.append(self._with_node(request))
        return requests

    def subscribe(self, type_url: str, *names: str) -> Any:
        self.asked.setdefault(type_url, set()).update(names)
        return self._with_node(DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=names))

    def unsubscribe(self, type_url: str, *names: str) -> Any:
        self.asked[type_url].difference_update(names)
        for name in names:
            self.held.get(type_url, {}).pop(name, None)
        return DeltaDiscoveryRequest(type_url=type_url, resource_names_unsubscribe=names)

    def take(self, data: bytes) -> list[Any]:
        """Return the answer to a response, and the requests that it leads to."""
        response = DeltaDiscoveryResponse.FromString(data)
        type_url = response.type_url
        bodies = {entry.name: entry.resource.SerializeToString() for entry in response.resources}
        problems = self._problems(type_url, bodies)
        names, removed = tuple(sorted(bodies)), tuple(sorted(response.removed_resources))
        self.log.append(Received(short_name(type_url), names, removed, "NACK" if problems else "ACK"))
        answer = DeltaDiscoveryRequest(type_url=type_url, response_nonce=response.nonce)
        if problems:
            answer.error_detail.CopyFrom(Status(code=3, message=problems))
            return [answer]
        held = self.held.setdefault(type_url, {})
        for entry in response.resources:
            if type_url not in NAMED or entry.name in self.asked[type_url]:
                held[entry.name] = (entry.version, bodies[entry.name])
        for name in removed:
            held.pop(name, None)
        return [answer, *self._follow(type_url)]

    def _follow(self, type_url: str) -> list[Any]:
        child = self.follows.get(type_url)
        if child is None:
            return []
        asked = self.asked.get(child, set())
        wanted = self._wanted_children(type_url)
        requests = []
        if wanted - asked:
            requests.append(self.subscribe(child, *sorted(wanted - asked)))
        if asked - wanted:
            requests.append(self.unsubscribe(child, *sorted(asked - wanted)))
        return requests


@dataclass
class SotwPeer(Peer):
    """A state-of-the-world client: every request holds all names."""

    versions: dict[str, str] = field(default_factory=dict)
    nonces: dict[str, str] = field(default_factory=dict)

    def first(self, *type_urls: str) -> list[Any]:
        self.node_sent = False
        self.nonces = {}
        return [self._request(type_url) for type_url in type_urls]

    def subscribe(self, type_url: str, *names: str) -> Any:
        """Ask for exactly these from now on."""
        self.asked[type_url] = set(names)
        return self._request(type_url)

    def take(self, data: bytes) -> list[Any]:
        response = DiscoveryResponse.FromString(data)
        type_url = response.type_url
        bodies = {}
        for packed in response.resources:
            message = _MESSAGES[type_url].FromString(packed.value)
            bodies[message.cluster_name if type_url == EDS else message.name] = packed.SerializeToString()
        problems = self._problems(type_url, bodies)
        self.log.append(Received(short_name(type_url), tuple(sorted(bodies)), (), "NACK" if problems else "ACK"))
        self.nonces[type_url] = response.nonce
        if problems:
            answer = self._request(type_url)
            answer.error_detail.CopyFrom(Status(code=3, message=problems))
            return [answer]
        self.versions[type_url] = response.version_info
        held = self.held.setdefault(type_url, {})
        if type_url not in NAMED:
            held.clear()
        held.update({name: (response.version_info, body) for name, body in bodies.items()})
        requests = [self._request(type_url)]
        child = self.follows.get(type_url)
        if child is not None and self._wanted_children(type_url) != self.asked.get(child, set()):
            requests.append(self.subscribe(child, *self._wanted_children(type_url)))
        return requests

    def _request(self, type_url: str) -> Any:
        return self._with_node(
            DiscoveryRequest(
                type_url=type_url,
                resource_names=sorted(self.asked.get(type_url, ())),
                version_info=self.versions.get(type_url, ""),
                response_nonce=self.nonces.get(type_url, ""),
            )
        )


_MESSAGES: Mapping[str, Any] = {CDS: Cluster, EDS: ClusterLoadAssignment, LDS: Listener, RDS: RouteConfiguration}


# --- joining them ---


class HubLink:
    """One stream without a transport. `hold` names types whose responses wait for `pump` after it was taken back."""

    def __init__(self, hub: Hub, source: FakeSource, peer: DeltaPeer | SotwPeer) -> None:
        self.hub = hub
        self.peer = peer
        self.hold: set[str] = set()
        self.failure = ""
        self._inbox: deque[bytes] = deque()
        proxy = source.connect(NodeInfo(id=peer.node_id), Identity(None))
        self.proxy = proxy
        self.stream = hub.open(
            proxy=proxy, node=NodeInfo(id=peer.node_id), sotw=isinstance(peer, SotwPeer), outlet=self
        )

    def send(self, data: bytes) -> None:
        self._inbox.append(data)

    def fail(self, reason: str) -> None:
        self.failure = reason

    def refuse(self, reason: str) -> None:
        self._inbox.clear()
        self.failure = reason

    def start(self, *type_urls: str) -> HubLink:
        """Send first requests and let both sides talk until they are quiet."""
        self.request(*self.peer.first(*type_urls))
        self.pump()
        return self

    def request(self, *requests: Any) -> None:
        for request in requests:
            self.hub.receive(self.stream, request)

    def pump(self) -> list[str]:
        """Let the client answer until there is nothing left that is not held. Return what it got, as text."""
        held: deque[bytes] = deque()
        while self._inbox:
            data = self._inbox.popleft()
            message: Any = DiscoveryResponse if self.stream.sotw else DeltaDiscoveryResponse
            if message.FromString(data).type_url in self.hold:
                held.append(data)
            else:
                self.request(*self.peer.take(data))
        self._inbox = held
        return self.peer.said()

    def deliver(self) -> bool:
        """Let the client take one response, in order. Return whether there was one."""
        if not self._inbox:
            return False
        self.request(*self.peer.take(self._inbox.popleft()))
        return True

    def waiting(self) -> list[str]:
        """Return the types of responses that were sent and not yet answered."""
        message: Any = DiscoveryResponse if self.stream.sotw else DeltaDiscoveryResponse
        return [short_name(message.FromString(data).type_url) for data in self._inbox]

    def close(self) -> None:
        self.hub.close(self.stream)


class GrpcLink:
    """One stream over gRPC. `run` answers until the stream ends; `until` waits for what the peer has come to."""

    def __init__(self, channel: grpc.aio.Channel, peer: DeltaPeer | SotwPeer) -> None:
        self.peer = peer
        method = SOTW_METHOD if isinstance(peer, SotwPeer) else DELTA_METHOD
        self.call = channel.stream_stream(f"/{SERVICE}/{method}")()
        self._progress = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def start(self, *type_urls: str) -> GrpcLink:
        for request in self.peer.first(*type_urls):
            await self.send(request)
        self._task = asyncio.create_task(self._run(), name="fake xds client")
        return self

    async def send(self, request: Any) -> None:
        await self.call.write(request.SerializeToString())

    async def until(self, reached: Callable[[], bool], *, seconds: float = 10.0) -> None:
        """Wait until the peer has `reached` something. Raises `TimeoutError`, or what ended the stream."""
        assert self._task is not None
        async with asyncio.timeout(seconds), self._progress:
            while not reached():
                if self._task.done():
                    self._task.result()
                    raise EOFError("the server ended the stream")
                await self._progress.wait()

    async def close(self) -> None:
        self.call.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while (data := await self.call.read()) is not grpc.aio.EOF:
                for request in self.peer.take(data):
                    await self.send(request)
                async with self._progress:
                    self._progress.notify_all()
        except grpc.aio.AioRpcError as fault:
            raise ConnectionError(f"{fault.code().name}: {fault.details()}") from fault
        finally:
            async with self._progress:
                self._progress.notify_all()
