"""PeerAuthentications by what they do: policies as YAML, a whole Pilot, a real Envoy, and clients of every kind."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.message import Message
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of, uri
from tests.fakes.peer_modes import MODES, PeerPolicy, all_yaml, mode_of
from tests.fakes.ports import free_port
from tests.fakes.proxies import AnyApp, ConfigServer, Identity, RealEnvoy, ask, by_address, dial, unmarked
from tests.fakes.yard import Yard
from tests.pilot.serving.conftest import Bench

from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.scopes import CDS, EDS, LDS
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.clusters import build_fixed_clusters

pytestmark = pytest.mark.envoy

NODE = "peer"
IDENTITY = "spiffe://cluster.local/ns/default/sa/web"
ALIAS = "old.domain"
MESH = "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\ntrustDomainAliases: [old.domain]\n"
SETTLE_SECONDS = 15.0


@dataclass
class Guarded:
    """One Envoy that is the sidecar of several workloads at once: each one's `virtualInbound` on a port of its own."""

    server: ConfigServer
    folder: Path
    authority: StrangeAuthority
    envoy: RealEnvoy
    secrets: list[Message]

    def use(self, bench: Bench, *names: str) -> dict[str, int]:
        """Serve the inbound listeners of these workloads; return where each one's captured connections arrive."""
        ports = {name: free_port() for name in names}
        messages: list[Message] = [*self.secrets, *map(unmarked, build_fixed_clusters(for_gateway=False))]
        seen: set[str] = set()
        for name in names:
            workload = bench.pilot.mesh.workloads.get(name)
            assert workload is not None
            proxy = bench.connect(name, workload.namespace)
            (listener,) = (one for one in bodies(proxy, LDS) if one.name == "virtualInbound")
            listener = by_address(listener)
            listener.name = f"inbound of {name}"
            listener.address.socket_address.port_value = ports[name]
            messages.append(listener)
            for cluster in bodies(proxy, CDS):
                if cluster.name.startswith("inbound|") and cluster.name not in seen:
                    seen.add(cluster.name)
                    messages.append(unmarked(cluster))
        self.serve(messages)
        return ports

    def serve(self, messages: Iterable[Message]) -> None:
        self.server.serve(NODE, messages)
        self.server.wait_until_taken(NODE, SETTLE_SECONDS)
        deadline = time.monotonic() + SETTLE_SECONDS
        while "total_listeners_warming: 0" not in self.envoy.admin("/stats?filter=total_listeners_warming"):
            assert time.monotonic() < deadline, self.envoy.log()
            Event().wait(0.01)
        assert self.server.rejections == []


def bodies(proxy: MeshProxy, type_url: str) -> Iterator[Any]:
    for one in proxy.slices[type_url]:
        for resource in one.all().values():
            yield Yard._message(resource.body)


@pytest.fixture(scope="module")
def guarded(folder: Path, server: ConfigServer) -> Iterator[Guarded]:
    authority = StrangeAuthority()
    key = ec.generate_private_key(ec.SECP256R1())
    # As a client it stands for nobody in particular, as a server for all the workloads at once.
    names = [uri(f"spiffe://cluster.local/ns/{namespace}/sa/app") for namespace in ("default", "plain", "other")]
    certificate = authority.certify(key, names=names)
    own = Identity("", pem_of(certificate), key_pem(key), authority.root_pem)
    server.serve(NODE, own.secrets())
    with RealEnvoy(NODE, server, folder) as envoy:
        yield Guarded(server, folder, authority, envoy, [*own.secrets()])


def client_context(
    guarded: Guarded,
    names: Iterable[x509.GeneralName] | None = None,
    *,
    authority: StrangeAuthority | None = None,
    alpn: Iterable[str] = ("istio",),
    **certify: Any,
) -> ssl.SSLContext:
    """Return how a client greets that shows a certificate with these names; None: a workload's as it should be."""
    issuer = authority or guarded.authority
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issuer.certify(key, names=[uri(IDENTITY)] if names is None else list(names), **certify)
    paths = Identity("", pem_of(certificate), key_pem(key), issuer.root_pem).write(guarded.folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=guarded.authority.root_pem.decode())
    context.load_cert_chain(paths[0], paths[1])
    context.set_alpn_protocols(list(alpn))
    return context


def echoes(port: int, to: int, context: ssl.SSLContext | None) -> bool:
    """Tell whether bytes reach the application that listens at `to`, by TLS or as they are."""
    try:
        with dial(port, to=("127.0.0.1", to)) as raw:
            sock = raw if context is None else context.wrap_socket(raw)
            with sock:
                sock.sendall(b"hello\n")
                return sock.recv(100) == b"app:hello\n"
    except OSError:
        return False


TAKES = {"DISABLE": (True, False), "PERMISSIVE": (True, True), "STRICT": (False, True)}  # plain text, mutual TLS


@pytest.mark.parametrize("of_mesh", MODES)
def test_each_port_takes_what_the_policies_of_its_scopes_say(guarded: Guarded, bench: Bench, of_mesh: str) -> None:
    """Four modes at four levels; of each workload's ports no service has the last, and a policy names even that."""
    policies = [PeerPolicy("mesh", "istio-system", of_mesh)]
    with ExitStack() as stack:
        apps = {mode: stack.enter_context(AnyApp()).port for mode in (*MODES, "", "unnamed")}
        ports = {apps[mode]: mode for mode in MODES}
        of_namespaces = MODES if of_mesh == "STRICT" else ("UNSET", "DISABLE")
        for of_namespace in of_namespaces:
            namespace = f"ns-{of_namespace.lower()}"
            policies.append(PeerPolicy("all", namespace, of_namespace))
            for mode in MODES:
                name = f"{namespace}-{mode.lower()}"
                # The port that no service names takes the opposite of what would hold without its entry.
                wanted = "DISABLE" if mode == "STRICT" else "STRICT"
                written = {**ports, apps["unnamed"]: wanted}
                policies.append(PeerPolicy(f"only-{mode.lower()}", namespace, mode, {"app": name}, written))
                named = tuple((f"tcp-{at or 'rest'}".lower(), apps[at], apps[at]) for at in (*MODES, ""))
                bench.run(
                    Workload(
                        name=name,
                        namespace=namespace,
                        service_account="app",
                        service=name,
                        labels={"app": name},
                        ip="127.0.0.1",
                        ports=named,
                        ready=True,
                    )
                )
        bench.apply(all_yaml(policies))
        names = [f"ns-{outer.lower()}-{inner.lower()}" for outer in of_namespaces for inner in MODES]
        arrive = guarded.use(bench, *names)
        mesh_client = client_context(guarded)
        wrong = []
        for name in names:
            namespace = name.rpartition("-")[0]
            for at, port in apps.items():
                mode = mode_of(policies, namespace, {"app": name}, port)
                found = (echoes(arrive[name], port, None), echoes(arrive[name], port, mesh_client))
                if found != TAKES[mode]:
                    wrong.append((name, at, mode, found))
        assert wrong == []


# ---------------------------------------------------------------- certificates


@pytest.fixture(scope="module")
def strict(guarded: Guarded) -> Iterator[tuple[int, int]]:
    """A workload that takes mutual TLS only, of a mesh with an alias; where it is reached, and its application."""
    with AnyApp() as app:
        bench = Bench()
        bench.apply(MESH + "---\n" + PeerPolicy("all", "istio-system", "STRICT").yaml())
        bench.run(workload("app", app.port))
        yield guarded.use(bench, "app")["app"], app.port


def workload(name: str, port: int, *, namespace: str = "default", **fields: Any) -> Workload:
    return Workload(
        **{
            "name": name,
            "namespace": namespace,
            "service_account": "app",
            "service": name,
            "labels": {"app": name},
            "ip": "127.0.0.1",
            "ports": (("tcp", port, port),),
            "ready": True,
            **fields,
        }
    )


def test_a_workload_of_the_mesh_is_let_in(guarded: Guarded, strict: tuple[int, int]) -> None:
    assert echoes(*strict, client_context(guarded))


@pytest.mark.parametrize("domain", [ALIAS, "cluster.local"])
def test_the_trust_domain_and_its_aliases_are_let_in(guarded: Guarded, strict: tuple[int, int], domain: str) -> None:
    assert echoes(*strict, client_context(guarded, [uri(f"spiffe://{domain}/ns/a/sa/b")]))


def of_the_past(guarded: Guarded) -> dict[str, Any]:
    now = guarded.authority.now
    return {"not_before": now - timedelta(hours=2), "not_after": now - timedelta(hours=1)}


def of_the_future(guarded: Guarded) -> dict[str, Any]:
    now = guarded.authority.now
    return {"not_before": now + timedelta(hours=1), "not_after": now + timedelta(hours=2)}


@pytest.mark.parametrize(
    ("names", "how"),
    [
        pytest.param(None, lambda g: {"authority": StrangeAuthority()}, id="of another authority"),
        pytest.param(
            None,
            lambda g: {"authority": StrangeAuthority(), "issuer_name": g.authority.certificate.subject},
            id="of another authority of the same name",
        ),
        pytest.param(None, of_the_past, id="expired"),
        pytest.param(None, of_the_future, id="not yet valid"),
        pytest.param(None, lambda g: {"usages": [ExtendedKeyUsageOID.SERVER_AUTH]}, id="of a server alone"),
        pytest.param([], lambda g: {}, id="without a name"),
        pytest.param([x509.DNSName("web.default.svc.cluster.local")], lambda g: {}, id="with a host's name"),
        pytest.param([uri("https://cluster.local/ns/default/sa/web")], lambda g: {}, id="with another URI"),
        pytest.param([x509.DNSName(IDENTITY)], lambda g: {}, id="with a SPIFFE ID as a host's name"),
        pytest.param([uri("spiffe://elsewhere/ns/default/sa/web")], lambda g: {}, id="of another trust domain"),
        pytest.param([uri("spiffe://cluster.local.evil/ns/a/sa/b")], lambda g: {}, id="of a longer trust domain"),
        pytest.param([uri("spiffe://CLUSTER.LOCAL/ns/a/sa/b")], lambda g: {}, id="of a trust domain in capitals"),
        pytest.param([uri("spiffe://cluster.loca\0l/ns/a/sa/b")], lambda g: {}, id="with a zero byte in it"),
    ],
)
def test_wrong_certificates_are_turned_away(
    guarded: Guarded,
    strict: tuple[int, int],
    names: list[x509.GeneralName] | None,
    how: Callable[[Guarded], dict[str, Any]],
) -> None:
    assert not echoes(*strict, client_context(guarded, names, **how(guarded)))


def test_a_certificate_that_signed_itself_is_turned_away(guarded: Guarded, strict: tuple[int, int]) -> None:
    alone = StrangeAuthority()
    key, chain = alone.key, alone.certify(alone.key, names=[uri(IDENTITY)])  # its own key signs it
    paths = Identity("", pem_of(chain), key_pem(key), alone.root_pem).write(guarded.folder)
    context = client_context(guarded)
    context.load_cert_chain(paths[0], paths[1])
    assert not echoes(*strict, context)


def test_a_client_without_a_certificate_is_turned_away(guarded: Guarded, strict: tuple[int, int]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=guarded.authority.root_pem.decode())
    context.set_alpn_protocols(["istio"])
    assert not echoes(*strict, context)


def test_of_several_names_one_of_the_mesh_is_enough(guarded: Guarded, strict: tuple[int, int]) -> None:
    """Envoy's rule, not X.509-SVID's, which wants one: so that the authority must never sign two (assurance 10)."""
    foreign = uri("spiffe://elsewhere/ns/default/sa/web")
    assert echoes(*strict, client_context(guarded, [foreign, uri(IDENTITY)]))
    assert not echoes(*strict, client_context(guarded, [foreign, uri("spiffe://elsewhere/ns/a/sa/b")]))


# ---------------------------------------------------------------- versions of TLS


@pytest.mark.parametrize(
    ("written", "takes"),
    [
        pytest.param("{}", {"TLSv1_2", "TLSv1_3"}, id="by itself"),
        pytest.param("{minProtocolVersion: TLSV1_2}", {"TLSv1_2", "TLSv1_3"}, id="1.2"),
        pytest.param("{minProtocolVersion: TLSV1_3}", {"TLSv1_3"}, id="1.3"),
        pytest.param("{cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]}", {"TLSv1_3"}, id="another cipher than ours"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_the_mesh_says_which_tls_its_servers_take(
    guarded: Guarded, bench: Bench, written: str, takes: set[str]
) -> None:
    with AnyApp() as app:
        bench.apply(
            f"apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmeshMTLS: {written}\n---\n"
            + PeerPolicy("all", "istio-system", "STRICT").yaml()
        )
        assert [problem.message for problem in bench.pilot.problems() if "meshMTLS" in problem.field] == []
        bench.run(workload("app", app.port))
        arrives = guarded.use(bench, "app")["app"]
        found = set()
        for version in ("TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"):
            context = client_context(guarded)
            context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384:AES256-SHA:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
            if echoes(arrives, app.port, context):
                found.add(version)
        assert found == takes


# ---------------------------------------------------------------- clients follow


@pytest.mark.parametrize(
    ("policies", "by_tls"),
    [
        pytest.param([], True, id="nothing is said"),
        pytest.param([PeerPolicy("m", "istio-system", "STRICT")], True, id="strict mesh"),
        pytest.param([PeerPolicy("m", "istio-system", "DISABLE")], False, id="plain mesh"),
        pytest.param([PeerPolicy("n", "plain", "DISABLE")], False, id="plain namespace"),
        pytest.param([PeerPolicy("n", "other", "DISABLE")], True, id="another namespace is plain"),
        pytest.param([PeerPolicy("w", "plain", "DISABLE", {"app": "target"})], False, id="plain workload"),
        pytest.param([PeerPolicy("w", "plain", "DISABLE", {"app": "else"})], True, id="another workload is plain"),
        pytest.param([PeerPolicy("w", "plain", None, {"app": "target"}, {0: "DISABLE"})], False, id="plain port"),
        pytest.param(
            [PeerPolicy("n", "plain", "DISABLE"), PeerPolicy("w", "plain", "STRICT", {"app": "target"})],
            True,
            id="strict workload of a plain namespace",
        ),
        pytest.param(
            [PeerPolicy("m", "istio-system", "DISABLE"), PeerPolicy("n", "plain", "STRICT")],
            True,
            id="strict namespace of a plain mesh",
        ),
        pytest.param(
            [PeerPolicy("w", "plain", "DISABLE", {"app": "target"}, {0: "STRICT"})],
            True,
            id="strict port of a plain workload",
        ),
    ],
)
def test_clients_speak_what_the_endpoint_takes(
    guarded: Guarded, bench: Bench, policies: list[PeerPolicy], by_tls: bool
) -> None:
    """One Envoy is both ends: the client's listener, and the server's own, as without capture."""
    address = "127.0.0.9"
    with AnyApp() as app:
        listens = free_port(address)
        written = [
            PeerPolicy(
                p.name, p.namespace, p.mode, p.selector, dict.fromkeys([listens] if p.ports else [], p.ports.get(0, ""))
            )
            for p in policies
        ]
        bench.run(
            workload("client", 1, service="", ports=()),
            workload(
                "target", listens, namespace="plain", ip=address, capture=False, ports=(("tcp", listens, app.port),)
            ),
        )
        if written:
            bench.apply(all_yaml(written))
        client, target = bench.connect("client"), bench.connect("target", "plain")
        vip = bench.pilot.mesh.vips.get("target.plain.svc.cluster.local")
        arrives = free_port()
        listeners: list[Listener] = []
        clusters = {one.name: unmarked(one) for one in bodies(client, CDS)}
        inbound = {one.name: unmarked(one) for one in bodies(target, CDS) if one.name.startswith("inbound|")}
        for listener in bodies(client, LDS):
            if listener.name == "virtualOutbound":
                listener = by_address(listener)
                listener.address.socket_address.port_value = arrives
            if listener.name != "virtualInbound":
                listeners.append(listener)
        own = [one for one in bodies(target, LDS) if one.address.socket_address.address == address]
        endpoints = [
            Yard._message(found.body)
            for name, cluster in clusters.items()
            if cluster.type == Cluster.EDS
            for one in client.slices[EDS]
            if (found := one.get(name)) is not None
        ]
        guarded.serve([*guarded.secrets, *clusters.values(), *inbound.values(), *endpoints, *listeners, *own])
        with dial(arrives, to=(str(vip), listens)) as sock:
            sock.sendall(b"hello\n")
            assert sock.recv(100) == b"app:hello\n"
        handshakes = guarded.envoy.admin(f"/stats?filter=^listener.{address}_{listens}.ssl.handshake$")
        assert (handshakes.strip().endswith(": 1")) == by_tls, handshakes


def test_original_destinations_follow_too(bench: Bench) -> None:
    """A headless service has no endpoints that could say it one by one: mutual TLS only where each of them takes it."""
    bench.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: db, namespace: plain}\n"
        "spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}\n"
    )
    bench.run(
        *(
            workload(
                f"db-{n}", 5432, namespace="plain", labels={"app": "db", "n": str(n)}, service="", ip=f"10.77.0.{n}"
            )
            for n in (1, 2)
        ),
        workload("client", 1, service="", ports=()),
    )

    def by_tls() -> bool:
        proxy = bench.connect("client")
        (cluster,) = (one for one in bodies(proxy, CDS) if one.name == "outbound|5432||db.plain.svc.cluster.local")
        return bool(cluster.HasField("transport_socket"))

    assert by_tls()
    bench.apply(PeerPolicy("w", "plain", None, {"n": "2"}, {5432: "DISABLE"}).yaml())
    assert not by_tls()
    bench.apply(PeerPolicy("w", "plain", None, {"n": "2"}, {5432: "STRICT"}).yaml())
    bench.apply(PeerPolicy("n", "plain", "DISABLE").yaml())
    assert not by_tls()
    bench.apply(PeerPolicy("n", "plain", "PERMISSIVE").yaml())
    assert by_tls()


def test_gateways_do_not_ask(guarded: Guarded, bench: Bench) -> None:
    """What a gateway's port takes its Gateway says, and no PeerAuthentication, in whatever scope."""
    port = free_port()
    bench.run(
        Workload(
            name="edge",
            kind="gateway",
            namespace="default",
            service_account="edge",
            labels={"istio": "edge"},
            ip="127.0.0.1",
            ports=(),
            ready=True,
        )
    )
    bench.apply(
        f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec: {{selector: {{istio: edge}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ["*"]}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edge}}
spec: {{hosts: ["*"], gateways: [edge], http: [{{directResponse: {{status: 204}}}}]}}
---
{
            all_yaml(
                [
                    PeerPolicy("mesh", "istio-system", "STRICT"),
                    PeerPolicy("all", "default", "STRICT"),
                    PeerPolicy("edge", "default", "STRICT", {"istio": "edge"}, {port: "STRICT"}),
                ]
            )
        }"""
    )
    proxy = bench.connect("edge", kind="router")
    messages = [one for kind in (CDS, LDS) for one in bodies(proxy, kind)]
    route = next(
        found
        for one in proxy.slices["type.googleapis.com/envoy.config.route.v3.RouteConfiguration"]
        if (found := one.get(f"http.{port}")) is not None
    )
    guarded.serve([*guarded.secrets, *messages, Yard._message(route.body)])
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            assert ask(sock).status == 204
    except http.client.HTTPException as error:  # pragma: no cover - says more than a refused connection
        raise AssertionError(guarded.envoy.log()) from error
