"""Rules that Mixer is asked by, in a real Envoy, with a Mixer that is a process: what is let in, what is reported, and
what becomes of requests and connections while that process is killed, stands still, and comes back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    Answer,
    AnyApp,
    ConfigServer,
    HttpApp,
    Identity,
    RealEnvoy,
    ask,
    by_address,
    dial,
    make_identity,
    unmarked,
)
from tests.pilot.translate.cases import inbound, inbound_port

from lateen.api.protocol import Protocol
from lateen.pilot.model.values import MtlsMode, ServiceRef
from lateen.pilot.model.values_called import MixerCalls
from lateen.pilot.translate.clusters import build_fixed_clusters
from lateen.pilot.translate.inbound import build_inbound_clusters, build_inbound_listeners
from lateen.pilot.translate.mixer.called import FAILURES, MIXER_DOWN

pytestmark = pytest.mark.envoy

MIXER = "spiffe://cluster.local/ns/istio-system/sa/lateen-mixer"
READS = frozenset({"source.principal", "origin.ip", "connection.id", "destination.service.host", "request.id"})
CALLS = MixerCalls(
    namespace="default",
    identity=MIXER,
    reports=("default/log",),
    tcp_reports=("default/log",),
    attributes=READS,
    request_headers=("x-verdict",),
    report_request_headers=("x-verdict",),
)
CLOSED = {"closed": ("default/no-bad",), "tcp_closed": ("default/no-bad",)}
OPEN = {"open": ("default/no-bad",), "tcp_open": ("default/no-bad",)}
WAIT_SECONDS = 15.0


@dataclass
class Stage:
    """One Envoy with a listener whose rules fail closed and one whose rules fail open, and two applications."""

    folder: Path
    envoy: RealEnvoy
    closed: int
    open: int
    http: int
    tcp: int
    web: Identity
    bad: Identity
    mixer: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.mixer = subprocess.Popen([sys.executable, "-m", "tests.fakes.mixer_child", str(self.folder)])
        self.until(lambda: self.get(self.closed).status == 200)
        self.until(lambda: self.echo(self.closed, self.bad) == b"")

    def end(self) -> None:
        if self.mixer is not None:
            self.mixer.kill()
            self.mixer.wait()
            self.mixer = None

    def get(self, port: int, who: Identity | None = None, **headers: str) -> Answer:
        wrap = mesh(self, who or self.web, "istio-http/1.1", "istio", "http/1.1")
        with wrap(dial(port, to=("127.0.0.1", self.http))) as sock:
            return ask(sock, "/", headers=headers)

    def echo(self, port: int, who: Identity | None = None) -> bytes:
        wrap = mesh(self, who or self.web, "istio")
        with wrap(dial(port, to=("127.0.0.1", self.tcp))) as sock:
            try:
                sock.sendall(b"hello")
                data: bytes = sock.recv(100)
            except OSError:
                return b""
            return data

    def until(self, holds: Any) -> None:
        deadline = WAIT_SECONDS
        while not holds():
            assert deadline > 0, self.envoy.log()
            Event().wait(0.05)
            deadline -= 0.05

    def told(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text().splitlines()]

    def stat(self, name: str) -> int:
        for line in self.envoy.admin("/stats").splitlines():
            key, _, value = line.partition(": ")
            if key == name:
                return int(value)
        return 0


def mesh(stage: Stage, identity: Identity, *alpn: str) -> Any:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificate, key, bundle = identity.write(stage.folder)
    context.check_hostname = False  # SPIFFE identities are not host names
    context.load_verify_locations(bundle)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(list(alpn))
    return context.wrap_socket


@pytest.fixture(scope="module")
def stage(authority: StrangeAuthority, server: ConfigServer, folder: Path) -> Iterator[Stage]:
    own = make_identity(authority, "app")
    mixer = make_identity(authority, "lateen-mixer", "istio-system")
    for part, data in (("cert", mixer.certificate), ("key", mixer.key), ("bundle", mixer.bundle)):
        (folder / f"mixer-{part}.pem").write_bytes(data)
    roots = Secret(
        name="CONTROLPLANECA",
        validation_context=CertificateValidationContext(trusted_ca=DataSource(inline_bytes=own.bundle)),
    )
    with ExitStack() as stack:
        http, tcp = stack.enter_context(HttpApp("app")), stack.enter_context(AnyApp())
        service = ServiceRef(hostname="app.default.svc.cluster.local", name="app", namespace="default")
        ports = sorted(
            (
                inbound_port(port=http.port, protocol=Protocol.HTTP, mtls=MtlsMode.STRICT, service=service),
                inbound_port(port=tcp.port, protocol=Protocol.TCP, mtls=MtlsMode.STRICT, service=service),
            ),
            key=lambda port: port.port,
        )
        calls = replace(CALLS, socket=str(folder / "mixer.sock"))
        numbers = free_port(), free_port()
        listeners, clusters = [], []
        for number, rules in zip(numbers, (CLOSED, OPEN), strict=True):
            inp = replace(inbound(*ports, port=number, passthrough_mtls=MtlsMode.STRICT), mixer=replace(calls, **rules))
            for listener in build_inbound_listeners(inp):
                found = by_address(listener)
                found.name = f"inbound-{number}"
                listeners.append(found)
            clusters = [*build_inbound_clusters(inp), *build_fixed_clusters(for_gateway=False)]
        server.serve("app-v1", [*own.secrets(), roots, *map(unmarked, clusters), *listeners])
        envoy = stack.enter_context(RealEnvoy("app-v1", server, folder, labels={"app": "app", "version": "v1"}))
        web, bad = make_identity(authority, "web"), make_identity(authority, "bad")
        found_stage = Stage(folder, envoy, *numbers, http.port, tcp.port, web, bad)
        stack.callback(found_stage.end)
        found_stage.start()
        yield found_stage
    assert server.rejections == []


def test_who_is_let_in(stage: Stage) -> None:
    for port in (stage.closed, stage.open):
        assert stage.get(port).status == 200
        refused = stage.get(port, stage.bad)
        assert (refused.status, refused.body) == (403, b"no")
        assert stage.get(port, **{"x-verdict": "no"}).status == 403
        assert stage.echo(port) == b"app:hello"
        assert stage.echo(port, stage.bad) == b""


def test_what_a_client_says_of_itself_is_not_believed(stage: Stage) -> None:
    forged = {
        "x-forwarded-client-cert": "By=spiffe://cluster.local/ns/default/sa/app;URI=spiffe://cluster.local/ns/a/sa/king",
        "x-forwarded-for": "203.0.113.9",
        "x-envoy-external-address": "203.0.113.9",
        "x-envoy-peer-metadata": "ChgKDkFQUF9DT05UQUlORVJT",
        "x-envoy-peer-metadata-id": "sidecar~203.0.113.9~king.a~a.svc",
        "x-lateen-peer": ";;",
        "lateen-asker": json.dumps({"namespace": "a", "rules": []}),
        "lateen-peer": "KgA=",
        "lateen-service": "king|king|a",
        "lateen-origin": "203.0.113.9",
        "lateen-connection": "77777777",
        "source.principal": "spiffe://cluster.local/ns/a/sa/king",
    }
    before = len(stage.told("askers"))
    assert stage.get(stage.closed, **forged).status == 200
    [asked] = stage.told("askers")[before:]
    bag = asked["bag"]
    assert asked["rules"] == ["default/no-bad"]
    assert bag["source"] == {
        "ip": "127.0.0.1",
        "principal": "spiffe://cluster.local/ns/default/sa/web",
        "namespace": "default",
    }
    assert bag["destination"] == {
        "principal": "spiffe://cluster.local/ns/default/sa/app",
        "workload": {"name": "app-v1"},
        "service": {"host": "app.default.svc.cluster.local"},
    }
    assert bag["connection"]["id"].isdecimal()
    assert bag["connection"]["id"] != "77777777"
    assert bag["context"] == {"reporter": {"uid": "app-v1.default"}}


def test_only_headers_that_are_read_are_sent(stage: Stage) -> None:
    before = len(stage.told("askers"))
    stage.get(stage.closed, **{"x-verdict": "yes", "x-other": "o"})
    [asked] = stage.told("askers")[before:]
    assert asked["bag"]["request"]["headers"] == {"x-verdict": "yes"}


def test_what_happened_is_reported(stage: Stage) -> None:
    stage.get(stage.open, stage.bad)
    stage.echo(stage.open)

    def reported() -> list[dict[str, Any]]:
        return stage.told("reports") if (stage.folder / "reports.jsonl").exists() else []

    def refused() -> bool:
        return any(one["bag"].get("response", {}).get("code") == 403 for one in reported())

    stage.until(refused)
    stage.until(lambda: any(one["tcp"] for one in reported()))
    entry = next(one["bag"] for one in reported() if one["bag"].get("response", {}).get("code") == 403)
    assert entry["source"]["principal"] in (stage.bad.spiffe_id, stage.web.spiffe_id)
    assert entry["destination"]["service"] == {"host": "app.default.svc.cluster.local"}
    connection = next(one["bag"] for one in reported() if one["tcp"])
    assert connection["destination"]["principal"] == "spiffe://cluster.local/ns/default/sa/app"


def test_a_connection_that_nobody_uses_stays(stage: Stage) -> None:
    """Envoy pings more often than gRPC's servers take by themselves: to them that is abuse, and ends connections."""
    stage.get(stage.closed)
    before = stage.stat("cluster.lateen-mixer.upstream_cx_destroy")
    Event().wait(12)
    assert stage.stat("cluster.lateen-mixer.upstream_cx_destroy") == before
    assert stage.stat("cluster.lateen-mixer.http2.keepalive_timeout") == 0


def refuses(stage: Stage) -> bool:
    answer = stage.get(stage.closed)
    if answer.status == 503:
        assert answer.body.decode() == MIXER_DOWN
    return answer.status == 503 and stage.echo(stage.closed) == b""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stands still"])
def test_without_mixer_closed_refuses_and_open_passes_at_once(stage: Stage, number: signal.Signals) -> None:
    assert stage.mixer is not None
    timeouts = stage.stat("cluster.lateen-mixer.upstream_rq_timeout")
    ejections = stage.stat("cluster.lateen-mixer.outlier_detection.ejections_enforced_total")
    stage.mixer.send_signal(number)
    for _ in range(30):
        assert refuses(stage)
        assert stage.get(stage.open).status == 200
        assert stage.get(stage.open, stage.bad).status == 200
        assert stage.echo(stage.open) == b"app:hello"
    # Not one after the other into a timeout: after the first few, nothing is tried for a second.
    waited = stage.stat("cluster.lateen-mixer.upstream_rq_timeout") - timeouts
    assert waited <= 5 * FAILURES, waited
    assert stage.stat("cluster.lateen-mixer.outlier_detection.ejections_enforced_total") > ejections
    stage.end()
    stage.start()
    stage.until(lambda: stage.get(stage.open, stage.bad).status == 403)
    assert stage.get(stage.closed).status == 200
    assert stage.echo(stage.closed) == b"app:hello"
