"""A workload behind its real Envoy, guarded as a whole Pilot says from YAML: who gets in, by what.

No namespaces: the test dials `virtualInbound` itself and says which address it means. Behind it stand an HTTP
application, one of bytes, and one that no service names. Clients are plain or have an identity.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from threading import Event
from typing import Any, Self

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.symbol_database import Default
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    AnyApp,
    ConfigServer,
    HttpApp,
    Identity,
    RealEnvoy,
    ask,
    by_address,
    make_identity,
    unmarked,
)

from lateen.agent.bootstrap import STATS_TAGS
from lateen.api.base import Problem
from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.model.jwks import JwksSource
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.serving.scopes import CDS, ECDS, EDS, LDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.matches import JWT_FILTER
from lateen.pilot.xds.source import Identity as NodeIdentity
from lateen.pilot.xds.source import NodeInfo

__all__ = ["Gate", "Reply"]

NODE = "app"
ADDRESS = "127.0.0.1"  # of the workload: its applications listen there
SETTLE_SECONDS = 15.0
# As a workload's own Envoy has it, but for what is left out there.
STATS = {
    "use_all_default_tags": False,
    "stats_tags": [{"tag_name": name, "regex": regex} for name, regex in STATS_TAGS.items()],
}
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: app, namespace: default}
spec:
  selector: {app: app}
  ports:
  - {name: http, port: 80, targetPort: $http}
  - {name: tcp, port: 9000, targetPort: $tcp}
---
"""


@dataclass
class Reply:
    """What came back. `status` 0: nothing."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Gate:
    """Use as a context manager. `http`, `tcp` and `loose` are the ports of the three applications."""

    def __init__(self, folder: Path, server: ConfigServer, *, mesh_config: str = "") -> None:
        self._server = server
        self._stack = ExitStack()
        self._folder = folder
        self.authority = StrangeAuthority()
        self._own = make_identity(self.authority, NODE)
        self._known: dict[tuple[str, str, str], Identity] = {}
        self._app = HttpApp(NODE)
        self._bytes = AnyApp(name=NODE)
        self._loose = AnyApp(name="loose")
        self.port: int
        self.pilot: Pilot
        self.problems: list[Problem] = []  # of what `use` was given last, errors aside

    def __enter__(self) -> Self:
        for app in (self._app, self._bytes, self._loose):
            self._stack.enter_context(app)
        self.http, self.tcp, self.loose = self._app.port, self._bytes.port, self._loose.port
        self.port = free_port()  # only now: an application could be given it
        self._configure("")
        self._server.serve(NODE, self._messages())
        self.envoy = self._stack.enter_context(
            RealEnvoy(NODE, self._server, self._folder, labels={"app": NODE}, stats_config=STATS)
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def seen(self) -> list[dict[str, Any]]:
        """What the HTTP application was asked, from the first on."""
        return self._app.requests

    # ---- configuration

    def take_keys(self, keys: Mapping[JwksSource, str]) -> None:
        """Have the control plane know these keys of issuers, and return when Envoy has them."""
        self.pilot.take_keys(keys)
        self._server.serve(NODE, self._messages())
        self._server.wait_until_taken(NODE, SETTLE_SECONDS)

    def use(self, text: str, **values: object) -> None:
        """Replace all that is configured, and return when Envoy acts by it. `$http`, `$tcp`, `$loose` are the ports.

        Raises `AssertionError` for what the checks refuse or Envoy does.
        """
        told = self._server.rejections[:]
        self._configure(text, **values)
        self._server.serve(NODE, self._messages())
        self._server.wait_until_taken(NODE, SETTLE_SECONDS)
        deadline = time.monotonic() + SETTLE_SECONDS
        while not self._settled():
            assert time.monotonic() < deadline, self.envoy.log()
            Event().wait(0.01)
        assert self._server.rejections == told, self._server.rejections

    def _configure(self, text: str, **values: object) -> None:
        ports = {"http": self.http, "tcp": self.tcp, "loose": self.loose}
        written = Template(SERVICE + text).substitute({**ports, **values})
        decoded = decode_documents(written.encode(), "test.yaml")
        assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
        self.problems = [*decoded.problems]
        workload = Workload(
            name=NODE,
            namespace="default",
            service_account=NODE,
            labels={"app": "app", "version": "v1"},
            ip=ADDRESS,
            ready=True,
        )
        self.pilot = Pilot(trust_domain="cluster.local", vips=VipTable())
        self.pilot.source.ready = True
        self.pilot.apply([Change(obj.key, obj) for obj in decoded.objects], {NODE: workload})
        node = NodeInfo(id=f"sidecar~{ADDRESS}~{NODE}.default~default.svc.cluster.local")
        proxy = self.pilot.source.connect(node, NodeIdentity(None))
        assert isinstance(proxy, MeshProxy)
        self.proxy = proxy
        self.problems += self.pilot.problems()

    def listener(self) -> Listener:
        """Return the listener of all that arrives, as Pilot made it."""
        return next(
            message
            for resource in self._all(LDS)
            if isinstance(message := _message(resource.body), Listener) and message.name == "virtualInbound"
        )

    def _messages(self) -> list[Message]:
        inbound = by_address(self.listener())
        inbound.address.socket_address.port_value = self.port
        found: list[Message] = [*self._own.secrets(), inbound]
        found.extend(self._named(ECDS, JWT_FILTER))
        for resource in self._all(CDS):
            cluster = _message(resource.body)
            assert isinstance(cluster, Cluster)
            found.append(unmarked(cluster))
            if cluster.type == Cluster.EDS:
                found.extend(self._named(EDS, cluster.name))
        return found

    def _named(self, type_url: str, name: str) -> Iterator[Message]:
        for one in self.proxy.slices[type_url]:
            if (resource := one.get(name)) is not None:
                yield _message(resource.body)

    def _all(self, type_url: str) -> list[Any]:
        return [resource for one in self.proxy.slices[type_url] for resource in one.all().values()]

    def _settled(self) -> bool:
        stats = json.loads(
            self.envoy.admin("/stats?format=json&filter=warming_clusters|total_listeners_warming|warming_state")
        )["stats"]
        return all(entry.get("value", 0) == 0 for entry in stats if "name" in entry)

    # ---- traffic

    @contextmanager
    def connect(
        self, account: str = "", *, port: int = 0, source: str = "127.0.0.1", sni: str = ""
    ) -> Iterator[socket.socket]:
        """Give a connection to a port of the workload (0: the HTTP one).

        `account` is `[namespace/]account[@trust.domain]` of the client, "" for one without identity; `source` is its
        address, one of the loopback network's.
        """
        with socket.create_connection(("127.0.0.1", self.port), 5, source_address=(source, 0)) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else the request waits for an ACK
            raw.sendall(f"PROXY TCP4 {source} {ADDRESS} 40000 {port or self.http}\r\n".encode())
            if not account:
                yield raw
                return
            alpn = "istio-http/1.1" if port in (0, self.http) else "istio"
            with self._context(account, alpn).wrap_socket(raw, server_hostname=sni or None) as wrapped:
                yield wrapped

    def ask(
        self,
        path: str = "/",
        *,
        account: str = "",
        method: str = "GET",
        host: str = "app",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        port: int = 0,
        source: str = "127.0.0.1",
    ) -> Reply:
        """Send one HTTP/1.1 request, its head exactly as told, on a connection of its own."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers)]
        if body:
            lines.append(f"content-length: {len(body)}")
        try:
            with self.connect(account, port=port, source=source) as sock:
                sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
                with closing(http.client.HTTPResponse(sock, method=method)) as response:
                    response.begin()
                    known = {name.lower(): value for name, value in response.getheaders()}
                    return Reply(response.status, response.read(), known)
        except (OSError, http.client.HTTPException):
            return Reply(0)

    def ask_again(self, account: str) -> list[tuple[bool, int]]:
        """Ask twice, the second time on the TLS session of the first; return (taken up again, status) of each."""
        context, session, found = self._context(account, "istio-http/1.1"), None, []
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", self.port), 5) as raw:
                raw.sendall(f"PROXY TCP4 127.0.0.1 {ADDRESS} 40000 {self.http}\r\n".encode())
                with context.wrap_socket(raw, session=session) as sock:
                    status = ask(sock).status
                    found.append((bool(sock.session_reused), status))
                    session = sock.session
        return found

    def says(self, *, account: str = "", port: int = 0, source: str = "127.0.0.1", sni: str = "") -> bytes:
        """Return what comes back of bytes, from the TCP application unless `port` says otherwise; b"" of a refusal."""
        try:
            with self.connect(account, port=port or self.tcp, source=source, sni=sni) as sock:
                sock.sendall(b"hello\n")  # a whole line: protocols are told apart by it
                return sock.recv(65536).rstrip()
        except OSError:
            return b""

    def until(self, holds: Callable[[], bool]) -> None:
        """Return as soon as `holds` is true."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, self.envoy.log()
            Event().wait(0.02)

    def _context(self, account: str, *alpn: str) -> ssl.SSLContext:
        name, _, domain = account.partition("@")
        namespace, _, own = name.rpartition("/")
        key = (own, namespace or "default", domain or "cluster.local")
        if key not in self._known:
            self._known[key] = make_identity(self.authority, *key)
        certificate, private, bundle = self._known[key].write(self._folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # SPIFFE identities are not host names
        context.load_verify_locations(bundle)
        context.load_cert_chain(certificate, private)
        context.set_alpn_protocols(list(alpn))
        return context


def _message(body: bytes) -> Message:
    packed = AnyMessage.FromString(body)
    message: Message = Default().GetSymbol(packed.type_url.rpartition("/")[2])()
    assert packed.Unpack(message)
    return message
