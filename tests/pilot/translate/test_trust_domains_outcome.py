"""Who is believed by a real Envoy with the agent's trust bundle of several domains: inbound, gateways, outbound.

A root of one trust domain vouches for identities of that domain, and of no other, in either direction.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_components_pb2 import Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.message import Message
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of, uri
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    AnyApp,
    ConfigServer,
    Identity,
    RealEnvoy,
    by_address,
    dial,
    make_identity,
    unmarked,
)
from tests.pilot.translate.cases import QUIET, inbound, inbound_port

from lateen.agent.messages import encode_peers_secret, encode_roots_secret
from lateen.api.protocol import Protocol
from lateen.pilot.model.secret_names import MESH_ROOTS, OWN_ROOTS
from lateen.pilot.model.values import MtlsMode, ServerTls
from lateen.pilot.translate.clusters import build_fixed_clusters
from lateen.pilot.translate.inbound import build_inbound_clusters, build_inbound_listeners
from lateen.pilot.translate.parts import address
from lateen.pilot.translate.tcp import outbound_tcp
from lateen.pilot.translate.tls import build_mesh_upstream
from lateen.wire.trust import TrustBundle

pytestmark = pytest.mark.envoy

HERE, THERE, OLD = "here.example", "there.example", "old.example"
NODE = "trust-v1"
SERVED, REFUSED = "served", "refused"


class World(NamedTuple):
    here: StrangeAuthority
    there: StrangeAuthority
    server: ConfigServer
    envoy: RealEnvoy
    folder: Path
    own: Identity
    rest: list[Message]
    port: int  # virtualInbound
    strict: int  # a port behind mutual TLS
    pinned: int  # mutual TLS with a pin, as a gateway's server may have
    pinned_client: Identity
    out: dict[str, int]  # by what a cluster wants of its server: port of the proxy
    dialled: dict[str, int]  # the same: port of the server that it reaches


def at(name: str, port: int) -> ClusterLoadAssignment:
    endpoint = Endpoint(address=address("127.0.0.1", port))
    return ClusterLoadAssignment(
        cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=endpoint)])]
    )


def peers(*domains: tuple[str, StrangeAuthority]) -> list[Secret]:
    """Return the secrets that an agent makes of such a bundle."""
    bundle = TrustBundle.of({domain: [authority.root_pem.decode()] for domain, authority in domains})
    return [
        Secret.FromString(encode_peers_secret(OWN_ROOTS, bundle, HERE)),
        Secret.FromString(encode_roots_secret(MESH_ROOTS, bundle.pem(HERE))),
    ]


@pytest.fixture(scope="module")
def world(server: ConfigServer, folder: Path) -> Iterator[World]:
    here, there = StrangeAuthority(), StrangeAuthority()
    own = make_identity(here, "app", domain=HERE)
    pinned_client = make_identity(here, "pinned", domain=HERE)
    with ExitStack() as stack:
        strict, pinned = (stack.enter_context(AnyApp()).port for _ in range(2))
        pinned_tls = ServerTls(
            certificates=("default",),
            roots=MESH_ROOTS,
            require_client=True,
            trust_domains=(HERE, THERE),
            hash_pins=(fingerprint(pinned_client),),
        )
        inp = inbound(
            inbound_port(port=strict, protocol=Protocol.TCP, mtls=MtlsMode.STRICT),
            inbound_port(port=pinned, protocol=Protocol.TCP, mtls=MtlsMode.DISABLE, tls=pinned_tls),
            port=free_port(),
            trust_domains=(HERE, OLD, THERE),
        )
        inp = replace(inp, ports=tuple(sorted(inp.ports, key=lambda entry: entry.port)))
        wanted = {
            "own": {"sans": (), "domains": (HERE, OLD)},
            "any": {"sans": (), "domains": ()},
            "named": {"sans": (f"spiffe://{THERE}/ns/default/sa/db",), "domains": (HERE, OLD)},
        }
        out = {name: free_port() for name in wanted}
        dialled = {name: free_port() for name in wanted}
        rest: list[Message] = [*map(unmarked, [*build_inbound_clusters(inp), *build_fixed_clusters(for_gateway=False)])]
        rest += map(by_address, build_inbound_listeners(inp))
        for name, how in wanted.items():
            rest += [
                Cluster(
                    name=name,
                    type=Cluster.STATIC,
                    load_assignment=at(name, dialled[name]),
                    transport_socket=build_mesh_upstream(sni="db", alpn=("istio",), **how),
                ),
                Listener(
                    name=name,
                    address=address("127.0.0.1", out[name]),
                    filter_chains=[FilterChain(filters=[outbound_tcp(name, QUIET)])],
                ),
            ]
        secrets = [own.secrets()[0], *peers((HERE, here), (OLD, here), (THERE, there))]
        server.serve(NODE, [*secrets, *rest])
        envoy = stack.enter_context(RealEnvoy(NODE, server, folder, labels={"app": "app", "version": "v1"}))
        yield World(
            here, there, server, envoy, folder, own, rest, inp.port, strict, pinned, pinned_client, out, dialled
        )
    assert server.rejections == []


def fingerprint(identity: Identity) -> str:
    return x509.load_pem_x509_certificate(identity.certificate).fingerprint(hashes.SHA256()).hex()


def comes_in(world: World, identity: Identity, port: int = 0) -> str:
    """Tell whether a client with this identity reaches the application behind a port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(*identity.write(world.folder)[:2])
    context.set_alpn_protocols(["istio"])
    try:
        with dial(world.port, to=("127.0.0.1", port or world.strict)) as raw, context.wrap_socket(raw) as sock:
            sock.sendall(b"hello\n")
            return SERVED if sock.recv(100) == b"app:hello\n" else REFUSED
    except OSError:
        return REFUSED


def goes_out(world: World, wanted: str, identity: Identity) -> str:
    """Tell whether the proxy's own client takes a server with this identity, where its cluster wants `wanted`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*identity.write(world.folder)[:2])
    with socket.create_server(("127.0.0.1", world.dialled[wanted])) as listener:
        listener.settimeout(10)
        with dial(world.out[wanted]) as client:
            client.sendall(b"hello\n")
            raw, _ = listener.accept()
            try:
                with context.wrap_socket(raw, server_side=True) as sock:
                    sock.settimeout(5)
                    return SERVED if sock.recv(100) == b"hello\n" else REFUSED
            except OSError:
                return REFUSED
            finally:
                raw.close()


def identity(world: World, domain: str, root: str, account: str = "web") -> Identity:
    authority = {"here": world.here, "there": world.there, "nobody": StrangeAuthority()}[root]
    return make_identity(authority, account, domain=domain)


WHO = [
    pytest.param(HERE, "here", SERVED, id="own"),
    pytest.param(OLD, "here", SERVED, id="own-by-its-old-name"),
    pytest.param(THERE, "there", SERVED, id="federated"),
    pytest.param(HERE, "there", REFUSED, id="own-signed-by-the-other-root"),
    pytest.param(OLD, "there", REFUSED, id="alias-signed-by-the-other-root"),
    pytest.param(THERE, "here", REFUSED, id="federated-signed-by-the-own-root"),
    pytest.param("third.example", "there", REFUSED, id="third-domain-signed-by-the-other-root"),
    pytest.param("third.example", "here", REFUSED, id="third-domain-signed-by-the-own-root"),
    pytest.param(HERE, "nobody", REFUSED, id="own-signed-by-nobody"),
    pytest.param(THERE, "nobody", REFUSED, id="federated-signed-by-nobody"),
]


@pytest.mark.parametrize(("domain", "root", "expected"), WHO)
def test_who_may_come_in(world: World, domain: str, root: str, expected: str) -> None:
    assert comes_in(world, identity(world, domain, root)) == expected


@pytest.mark.parametrize(("domain", "root", "expected"), WHO)
def test_whom_a_cluster_takes_that_wants_any(world: World, domain: str, root: str, expected: str) -> None:
    assert goes_out(world, "any", identity(world, domain, root)) == expected


@pytest.mark.parametrize(
    ("wanted", "domain", "root", "account", "expected"),
    [
        ("own", HERE, "here", "db", SERVED),
        ("own", OLD, "here", "db", SERVED),
        ("own", THERE, "there", "db", REFUSED),  # believed, but not asked for
        ("named", THERE, "there", "db", SERVED),
        ("named", THERE, "there", "web", REFUSED),
        ("named", THERE, "here", "db", REFUSED),
        ("named", HERE, "here", "db", REFUSED),
    ],
)
def test_whom_a_cluster_takes_that_wants_some(
    world: World, wanted: str, domain: str, root: str, account: str, expected: str
) -> None:
    assert goes_out(world, wanted, identity(world, domain, root, account)) == expected


@pytest.mark.parametrize(
    "names",
    [
        pytest.param((uri(f"spiffe://{HERE}/ns/a/sa/b"), uri(f"spiffe://{THERE}/ns/a/sa/b")), id="two"),
        pytest.param((uri(f"spiffe://{THERE}/ns/a/sa/b"), uri(f"spiffe://{HERE}/ns/a/sa/b")), id="two-other-order"),
        pytest.param((uri(f"spiffe://{THERE}/ns/a/sa/b"), uri(f"spiffe://{OLD}/ns/a/sa/b")), id="two-alias"),
        pytest.param((uri(f"spiffe://{THERE}/ns/a/sa/b"), uri("spiffe://third.example/ns/a/sa/b")), id="two-third"),
        pytest.param((uri(f"spiffe://{HERE}/ns/a/sa/b\0.{THERE}/"),), id="zero-byte"),
        pytest.param((uri(f"spiffe://{THERE}@{HERE}/ns/a/sa/b"),), id="user-info"),
        pytest.param((uri(f"spiffe://{HERE}:443@{THERE}/ns/a/sa/b"),), id="user-info-and-port"),
        pytest.param((uri(f"spiffe://x.{THERE}/ns/a/sa/b"),), id="below-it"),
        pytest.param((uri(f"https://{HERE}/ns/a/sa/b"),), id="another-scheme"),
        pytest.param((uri(f"spiffe://{HERE}"),), id="no-path"),
        pytest.param(
            (uri(f"spiffe://{THERE}/ns/a/sa/b"), x509.DNSName(f"spiffe://{HERE}/ns/a/sa/b")), id="as-a-dns-name"
        ),
        pytest.param((), id="no-name"),
    ],
)
def test_no_trick_with_names_makes_the_other_roots_word_count_for_more(
    world: World, names: tuple[x509.GeneralName, ...]
) -> None:
    """Whoever holds the other root signs what they like."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = world.there.certify(key, names=names)
    strange = Identity("", pem_of(certificate), key_pem(key), b"")
    assert comes_in(world, strange) == REFUSED
    assert goes_out(world, "named", strange) == REFUSED
    assert goes_out(world, "own", strange) == REFUSED
    assert goes_out(world, "any", strange) == REFUSED


def test_pins_hold_although_several_domains_are_believed(world: World) -> None:
    assert comes_in(world, world.pinned_client, world.pinned) == SERVED
    assert comes_in(world, identity(world, HERE, "here"), world.pinned) == REFUSED
    assert comes_in(world, identity(world, THERE, "there"), world.pinned) == REFUSED


def test_domains_come_and_go_while_it_runs(world: World) -> None:
    there, here = identity(world, THERE, "there"), identity(world, HERE, "here")
    renewed = StrangeAuthority()
    own = world.own.secrets()
    try:
        world.server.serve(NODE, [*own, *world.rest])  # as before any federation: one root, Envoy's own check
        world.server.wait_until_taken(NODE, 10)
        assert (comes_in(world, here), comes_in(world, there)) == (SERVED, REFUSED)
        world.server.serve(NODE, [own[0], *peers((HERE, world.here), (THERE, world.there)), *world.rest])
        world.server.wait_until_taken(NODE, 10)
        assert (comes_in(world, here), comes_in(world, there)) == (SERVED, SERVED)
        world.server.serve(NODE, [own[0], *peers((HERE, world.here), (THERE, renewed)), *world.rest])
        world.server.wait_until_taken(NODE, 10)
        assert (comes_in(world, here), comes_in(world, there)) == (SERVED, REFUSED)
        assert comes_in(world, make_identity(renewed, "web", domain=THERE)) == SERVED
    finally:
        secrets = [own[0], *peers((HERE, world.here), (OLD, world.here), (THERE, world.there))]
        world.server.serve(NODE, [*secrets, *world.rest])
        world.server.wait_until_taken(NODE, 10)
    assert comes_in(world, there) == SERVED
