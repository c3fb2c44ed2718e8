"""One client's real Envoy, configured by a whole Pilot from YAML: what a user writes in, traffic out, no namespaces.

The servers are fakes on loopback, which a ServiceEntry names; the client is captured as ever, but by `by_address`: a
test says itself what address it dialled. `use` replaces all that is configured and returns when Envoy acts by it.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from string import Template
from threading import Event
from typing import Any, Self

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.symbol_database import Default
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    Answer,
    AnyApp,
    ConfigServer,
    HttpApp,
    RealEnvoy,
    ask,
    by_address,
    dial,
    make_identity,
)

from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.serving.scopes import CDS, EDS, LDS, RDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.xds.source import Identity, NodeInfo

NODE = "client"
SETTLE_SECONDS = 15.0


class Yard:
    """Use as a context manager. `apps` are HTTP applications by name, `tcp` echo applications by name."""

    def __init__(self, folder: Path, server: ConfigServer, *, http: str = "abc", tcp: str = "xyz") -> None:
        self._server = server
        self._stack = ExitStack()
        self._folder = folder
        self.apps = {name: HttpApp(name) for name in http}
        self.tcp = {name: AnyApp(name=name) for name in tcp}
        self.authority = StrangeAuthority()
        self.secrets: list[Message] = [*make_identity(self.authority, NODE).secrets()]  # what an agent would serve
        self.port = free_port()  # where captured connections arrive
        self.pilot: Pilot
        self.proxy: MeshProxy

    def __enter__(self) -> Self:
        for app in (*self.apps.values(), *self.tcp.values()):
            self._stack.enter_context(app)
        self._configure([], self.workload(NODE))
        self._server.serve(NODE, self._messages())
        self.envoy = self._stack.enter_context(RealEnvoy(NODE, self._server, self._folder, labels={"app": NODE}))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @staticmethod
    def workload(name: str, **fields: Any) -> Workload:
        """Return a running workload, for `use`."""
        return Workload(
            **{
                "name": name,
                "namespace": "default",
                "service_account": name,
                "ip": "10.77.0.9",
                "ready": True,
                **fields,
            }
        )

    def use(
        self,
        text: str,
        *,
        locality: str = "",
        labels: dict[str, str] | None = None,
        workloads: Iterable[Workload] = (),
        **values: object,
    ) -> None:
        """Configure `text` alone, for a client at `locality`. `$a` and `${a}` stand for the port of application a.

        Raises `AssertionError` for what is refused, by the checks or by Envoy.
        """
        ports = {name: app.port for name, app in (*self.apps.items(), *self.tcp.items())}
        written = Template(text).substitute({**ports, **values})
        decoded = decode_documents(written.encode(), "test.yaml")
        assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
        client = self.workload(NODE, locality=locality, labels=labels or {})
        self._configure([Change(obj.key, obj) for obj in decoded.objects], client, *workloads)
        self._push()

    def _configure(self, changes: list[Change], *workloads: Workload) -> None:
        self.pilot = Pilot(trust_domain="cluster.local", vips=VipTable())
        self.pilot.source.ready = True
        self.pilot.apply(changes, {workload.name: workload for workload in workloads})
        node = NodeInfo(id=f"sidecar~10.77.0.9~{NODE}.default~default.svc.cluster.local")
        proxy = self.pilot.source.connect(node, Identity(None))
        assert isinstance(proxy, MeshProxy)
        self.proxy = proxy

    def _push(self) -> None:
        told = self._server.rejections[:]
        messages = self._messages()
        self._server.serve(NODE, messages)
        self._server.wait_until_taken(NODE, SETTLE_SECONDS)
        deadline = time.monotonic() + SETTLE_SECONDS
        while not self._settled():
            assert time.monotonic() < deadline, self.envoy.log()
            Event().wait(0.01)
        self._server.wait_until_taken(NODE, SETTLE_SECONDS)
        assert self._server.rejections == told

    def _settled(self) -> bool:
        stats = json.loads(
            self.envoy.admin("/stats?format=json&filter=warming_clusters|total_listeners_warming|warming_state")
        )["stats"]
        return all(entry.get("value", 0) == 0 for entry in stats if "name" in entry)

    def _messages(self) -> list[Message]:
        clusters = [self._message(resource.body) for resource in self._all(CDS)]
        listeners = [self._message(resource.body) for resource in self._all(LDS)]
        found: list[Message] = [*self.secrets]
        for cluster in clusters:
            assert isinstance(cluster, Cluster)
            found.append(_loopback(cluster))
            if cluster.type == Cluster.EDS:
                found.extend(self._named(EDS, cluster.name))
        for listener in listeners:
            assert isinstance(listener, Listener)
            if listener.name == "virtualOutbound":
                captured = by_address(listener)
                captured.address.socket_address.port_value = self.port
                found.append(captured)
            elif listener.name != "virtualInbound":
                found.append(listener)
                for name in _route_names(listener):
                    found.extend(self._named(RDS, name))
        return found

    def _all(self, type_url: str) -> list[Any]:
        return [resource for one in self.proxy.slices[type_url] for resource in one.all().values()]

    def _named(self, type_url: str, name: str) -> list[Message]:
        found = (one.get(name) for one in self.proxy.slices[type_url])
        return [self._message(resource.body) for resource in found if resource is not None]

    @staticmethod
    def _message(body: bytes) -> Message:
        packed = AnyMessage.FromString(body)
        message: Message = Default().GetSymbol(packed.type_url.rpartition("/")[2])()
        assert packed.Unpack(message)
        return message

    # ---- traffic

    def get(self, host: str, path: str = "/", *, to: tuple[str, int], source: str = "127.0.0.1", **more: Any) -> Answer:
        """GET one page as a captured application that dialled `to`, over a connection of its own."""
        with dial(self.port, to=to, source=source) as sock:
            return ask(sock, path, host=host, **more)

    def share(self, host: str, count: int, *, to: tuple[str, int], **more: Any) -> Counter[str]:
        """Return which applications answered `count` requests; a failed one counts by its status."""
        found: Counter[str] = Counter()
        for _ in range(count):
            answer = self.get(host, to=to, **more)
            found[answer.json["app"] if answer.status == 200 else str(answer.status)] += 1
        return found

    def says(self, to: tuple[str, int], data: bytes = b"hello", *, source: str = "127.0.0.1") -> bytes:
        """Return what comes back of bytes that a captured application sends to `to`; b"" when it is closed."""
        with dial(self.port, to=to, source=source) as sock:
            try:
                sock.sendall(data)
                answer: bytes = sock.recv(65536)
            except ConnectionResetError:
                return b""
            return answer

    def until(self, holds: Callable[[], bool]) -> None:
        """Return as soon as `holds` is true."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, self.envoy.admin("/clusters")
            Event().wait(0.02)

    def stat(self, name: str) -> int:
        """Return one of Envoy's own counters or gauges, 0 when it counts nothing."""
        for line in self.envoy.admin("/stats").splitlines():
            key, _, value = line.partition(": ")
            if key == name:
                return int(value)
        return 0


def _loopback(cluster: Cluster) -> Cluster:
    """Return the cluster without the marks that keep its connections out of capture: they take privileges."""
    changed = Cluster()
    changed.CopyFrom(cluster)
    del changed.upstream_bind_config.socket_options[:]
    return changed


def _route_names(listener: Listener) -> list[str]:
    names = []
    for chain in (*listener.filter_chains, listener.default_filter_chain):
        for entry in chain.filters:
            manager = HttpConnectionManager()
            if entry.typed_config.Unpack(manager) and manager.HasField("rds"):
                names.append(manager.rds.route_config_name)
    return names
