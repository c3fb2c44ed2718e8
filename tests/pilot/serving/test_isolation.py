"""Whose configuration and whose secrets: over real streams, by every name, and whoever was there before.

Assurance 13 and 14, docs/security/assurance.md.
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fakes.certs import StrangeAuthority
from tests.fakes.tls_clients import Pair, make_pair, secret_yaml
from tests.fakes.xds import DeltaPeer, Peer, SotwPeer
from tests.pilot.serving.conftest import Bench
from tests.pilot.xds.conftest import serving
from tests.pilot.xds.tls import Authority, Svid, make_authority, make_svid
from tests.strategies.mend import accepted
from tests.strategies.mesh import BASE, workloads
from tests.strategies.resources import KINDS, resource

from lateen.api.base import Object
from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.xds.references import references
from lateen.pilot.xds.server import DELTA_METHOD, SERVICE, SOTW_METHOD, AdsServer
from lateen.pilot.xds.source import Identity, NodeInfo
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, NDS, RDS, SDS

EXAMPLES = int(os.environ.get("LATEEN_PROPERTY_EXAMPLES", "12"))
NAMESPACES = ("bank", "till")
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: %s}
spec:
  selector: {of: %s}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ["*"]
    tls: {mode: MUTUAL, credentialName: %s}
"""
# How a proxy of `till` might ask for the Secret `vault` of `bank`, which `bank` calls `vault` alone.
TRICKS = (
    "kubernetes://bank/vault",
    "kubernetes://vault",
    "kubernetes-gateway://bank/vault",
    "kubernetes://bank/vault-cacert",
    "kubernetes://vault-cacert",
    "kubernetes://vault-cacert-cacert",
    "KUBERNETES://bank/vault",
    "kubernetes://Bank/vault",
    "kubernetes://BANK/VAULT",
    "kubernetes://bank%2Fvault",
    "kubernetes://bank%2fvault",
    "kubernetes:%2F%2Fbank/vault",
    "kubernetes://till/../bank/vault",
    "kubernetes://./bank/vault",
    "kubernetes://bank//vault",
    "kubernetes:///bank/vault",
    "kubernetes:///vault",
    "kubernetes://bank/vault/",
    "kubernetes://bank/./vault",
    "kubernetes://*/vault",
    "kubernetes://bank/*",
    "kubernetes://*",
    "kubernetes://bank/vault\0",
    "kubernetes://bank/vault\0-cacert",
    "kubernetes://vault\0till",
    "kubernetes://till\0/../bank/vault",
    "kubernetes://bank/vault ",
    " kubernetes://bank/vault",
    "kubernetes://bank\\vault",
    "kubernetes://till/edge/../../bank/vault",
    "kubernetes://till@bank/vault",
    "kubernetes://bank/vault#till",
    "kubernetes://bank/vault?namespace=till",
    "kubernetes://\uff42ank/vault",
    "configmap://bank/vault",
    "builtin://bank/vault",
    "file-cert:vault~vault",
    "bank/vault",
    "vault",
    "*",
    "",
)


class Bank:
    """A Pilot behind mutual TLS: a gateway, a Gateway and a Secret in each of two namespaces."""

    def __init__(self, folder: Path, pairs: dict[str, Pair]) -> None:
        self.bench = Bench()
        self.address = f"unix:{folder}/bank.sock"
        self.authority: Authority = make_authority()
        self.server = make_svid(self.authority, "spiffe://cluster.local/ns/istio-system/sa/lateen", dns="lateen")
        names = {"bank": "vault", "till": "drawer"}
        for namespace in NAMESPACES:
            self.bench.run(
                Workload(name=f"edge-{namespace}", kind="gateway", namespace=namespace, service_account="edge",
                         labels={"of": namespace}, ip="10.77.0.9", ports=(), ready=True)
            )  # fmt: skip
            self.bench.apply(GATEWAY % (namespace, namespace, names[namespace]))
            pair = pairs[namespace]
            self.bench.apply(secret_yaml(names[namespace], pair, roots=pair.chain, namespace=namespace))
        self.ads = AdsServer(self.bench.pilot.source)

    def svid(self, namespace: str, account: str = "edge") -> Svid:
        return make_svid(self.authority, f"spiffe://cluster.local/ns/{namespace}/sa/{account}")

    async def given(
        self, peer: Peer, svid: Svid | None, names: Iterable[str], *, type_url: str = SDS
    ) -> tuple[bytes, str]:
        """Return all bytes that a stream is answered before it is given its listeners, and how it was refused, or "".

        Requests are answered in their order: what was to come of `names` has come by then.
        """
        credentials = grpc.ssl_channel_credentials(self.authority.certificate, *(svid.pair if svid else (None, None)))
        options = [("grpc.ssl_target_name_override", "lateen"), ("grpc.use_local_subchannel_pool", 1)]
        method = SOTW_METHOD if isinstance(peer, SotwPeer) else DELTA_METHOD
        found = b""
        async with grpc.aio.secure_channel(self.address, credentials, options=options) as channel:
            call = channel.stream_stream(f"/{SERVICE}/{method}")()
            try:
                assert isinstance(peer, DeltaPeer | SotwPeer)
                await call.write(peer.subscribe(type_url, *names).SerializeToString())
                (listeners,) = peer.first(LDS)
                await call.write(listeners.SerializeToString())
                while (data := await call.read()) is not grpc.aio.EOF:
                    found += data
                    if LDS.encode() in data:
                        return found, ""
            except grpc.aio.AioRpcError:
                pass
            finally:
                if not call.done():
                    call.cancel()
            return found, (await call.code()).name


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    authority = StrangeAuthority()
    return {namespace: make_pair(authority, f"{namespace}.test") for namespace in NAMESPACES}


@pytest.fixture
async def bank(folder: Path, pairs: dict[str, Pair]) -> AsyncIterator[Bank]:
    bank = Bank(folder, pairs)
    credentials = grpc.ssl_server_credentials([bank.server.pair], bank.authority.certificate, require_client_auth=True)
    async with serving(bank.ads, bank.address, credentials):
        yield bank


def peer_of(kind: type[DeltaPeer | SotwPeer], namespace: str, name: str = "", **metadata: str) -> DeltaPeer | SotwPeer:
    node = f"router~10.77.0.9~{name or f'edge-{namespace}'}.{namespace}~{namespace}.svc.cluster.local"
    return kind(node_id=node, metadata=metadata)


def holds(data: bytes, pair: Pair) -> bool:
    """Tell whether anything of a certificate or its key is in `data`, in whatever wrapping."""
    # The secret part of the key, the signature of the certificate: all else may be the same in others of their kind.
    key, chain = pair.private_key, pair.chain
    texts = [*key.splitlines()[2:-1], *chain.splitlines()[-3:-1], base64.b64encode(key)[160:220]]
    texts.append(base64.b64decode(b"".join(key.splitlines()[1:-1]))[40:64])
    texts.append(base64.b64decode(b"".join(chain.splitlines()[1:-1]))[-24:])
    return any(text in data for text in texts)


@pytest.mark.parametrize("kind", [DeltaPeer, SotwPeer])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
async def test_no_name_brings_a_proxy_what_belongs_to_another_namespace(
    bank: Bank, pairs: dict[str, Pair], kind: type[DeltaPeer | SotwPeer], warm: bool
) -> None:
    if warm:
        mine, refused = await bank.given(peer_of(kind, "bank"), bank.svid("bank"), ["kubernetes://vault"])
        assert (holds(mine, pairs["bank"]), refused) == (True, "")
    for name in TRICKS:
        stolen, refused = await bank.given(peer_of(kind, "till"), bank.svid("till"), [name])
        assert (name, holds(stolen, pairs["bank"]), refused) == (name, False, "")
    # All at once, beside its own, and once more when its own has come.
    both, refused = await bank.given(peer_of(kind, "till"), bank.svid("till"), [*TRICKS, "kubernetes://drawer"])
    assert (holds(both, pairs["bank"]), holds(both, pairs["till"]), refused) == (False, True, "")


@pytest.mark.parametrize("kind", [DeltaPeer, SotwPeer])
async def test_a_change_brings_nobody_what_belongs_to_another_namespace(
    bank: Bank, pairs: dict[str, Pair], kind: type[DeltaPeer | SotwPeer]
) -> None:
    """Who asked in vain is told of changes to what it may have only."""
    peer = peer_of(kind, "till")
    options = [("grpc.ssl_target_name_override", "lateen"), ("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(bank.authority.certificate, *bank.svid("till").pair)
    async with grpc.aio.secure_channel(bank.address, credentials, options=options) as channel:
        call = channel.stream_stream(f"/{SERVICE}/{SOTW_METHOD if kind is SotwPeer else DELTA_METHOD}")()
        await call.write(peer.subscribe(SDS, *TRICKS, "kubernetes://drawer").SerializeToString())
        data = await call.read()
        assert holds(data, pairs["till"])
        for request in peer.take(data) if kind is DeltaPeer else []:
            await call.write(request.SerializeToString())
        fresh = {namespace: make_pair(StrangeAuthority(), f"{namespace}.new") for namespace in NAMESPACES}
        bank.bench.apply(secret_yaml("vault", fresh["bank"], roots=fresh["bank"].chain, namespace="bank"))
        bank.bench.apply(secret_yaml("drawer", fresh["till"], namespace="till"))
        (listeners,) = kind(node_id=peer.node_id).first(LDS)
        await call.write(listeners.SerializeToString())
        while LDS.encode() not in (data := await call.read()):
            assert not holds(data, fresh["bank"])
        call.cancel()


@pytest.mark.parametrize(
    ("namespace", "account", "claims"),
    [
        pytest.param("till", "edge", {}, id="another namespace"),
        pytest.param("bank", "teller", {}, id="another account"),
        pytest.param("till", "edge", {"NAMESPACE": "bank"}, id="another namespace, and says so"),
        pytest.param("bank", "teller", {"SERVICE_ACCOUNT": "edge"}, id="another account, and says so"),
        pytest.param("bank", "teller", {"SERVICE_ACCOUNT": "teller"}, id="another account than the workload's"),
        pytest.param("Bank", "edge", {}, id="a namespace in capitals"),
        pytest.param("bank\0till", "edge", {}, id="a zero byte behind the namespace"),
        pytest.param("bank", "edge\0", {}, id="a zero byte behind the account"),
        pytest.param("bank/sa/edge/ns/till", "edge", {}, id="more parts"),
        pytest.param("bank%2f", "edge", {}, id="an encoded slash"),
    ],
)
async def test_a_certificate_speaks_for_no_node_but_its_own(
    bank: Bank, pairs: dict[str, Pair], namespace: str, account: str, claims: dict[str, str]
) -> None:
    """Whatever the node claims: its stream ends with a refusal, and nothing was on it."""
    for kind in (DeltaPeer, SotwPeer):
        peer = peer_of(kind, "bank", **claims)
        found, refused = await bank.given(peer, bank.svid(namespace, account), ["kubernetes://vault"])
        assert (found, refused in ("PERMISSION_DENIED", "UNAUTHENTICATED")) == (b"", True), refused
    # Nor does it matter who its node says it is beside a name that nobody runs.
    peer = peer_of(DeltaPeer, "bank", "nobody", **claims)
    found, refused = await bank.given(peer, bank.svid(namespace, account), ["kubernetes://vault"])
    assert not holds(found, pairs["bank"])


async def test_without_a_certificate_there_is_no_stream(bank: Bank) -> None:
    for kind in (DeltaPeer, SotwPeer):
        assert await bank.given(peer_of(kind, "bank"), None, ["kubernetes://vault"]) == (b"", "UNAVAILABLE")


async def test_two_streams_under_one_name_are_each_its_own(bank: Bank, pairs: dict[str, Pair]) -> None:
    """A second one that proves itself does not take anything from the first, and one that does not gets nothing."""
    mine = [await bank.given(peer_of(kind, "bank"), bank.svid("bank"), ["kubernetes://vault"]) for kind in KIND_PAIR]
    assert [holds(found, pairs["bank"]) for found, _ in mine] == [True, True]
    node = NodeInfo(id="router~10.77.0.9~edge-bank.bank~bank.svc.cluster.local")
    unproven = bank.bench.pilot.source.connect(node, Identity(None))
    proven = bank.bench.pilot.source.connect(node, Identity("spiffe://cluster.local/ns/bank/sa/edge"))
    assert (SDS in unproven.slices, SDS in proven.slices) == (False, True)


KIND_PAIR = (DeltaPeer, SotwPeer)


# ---------------------------------------------------------------- alone and among others


def everything(proxy: MeshProxy) -> dict[tuple[str, str], bytes]:
    """Return all that a proxy can be given: what it is served, what that names, and secrets under any name."""
    found: dict[tuple[str, str], bytes] = {}
    for type_url in (CDS, LDS, NDS):
        for part in proxy.slices.get(type_url, ()):
            found.update({(type_url, name): one.body for name, one in part.all().items()})
    named = [
        (child, name)
        for parent, child in ((CDS, EDS), (LDS, RDS))
        for (type_url, _), body in sorted(found.items())
        if type_url == parent
        for name in references(parent, body)
    ]
    named += [(SDS, name) for name in (*TRICKS, *SECRETS)]
    for type_url, name in dict.fromkeys(named):
        for part in proxy.slices.get(type_url, ()):
            if (one := part.get(name)) is not None:
                found[type_url, name] = one.body
            part.release(name)
    return found


SECRETS = tuple(f"kubernetes://{name}{end}" for name in ("vault", "drawer") for end in ("", "-cacert"))


class Stage:
    """One mesh with proxies of three namespaces, each with its identity proven."""

    def __init__(self, objects: list[Object], extra: list[Object], vips: VipTable) -> None:
        self.pilot = Pilot(trust_domain="cluster.local", vips=vips)
        self.pilot.source.ready = True
        self.workloads = {workload.name: workload for workload in workloads()}
        changes = [Change(obj.key, obj) for obj in (*decode_documents(BASE.encode(), "b").objects, *extra, *objects)]
        self.pilot.apply(changes, self.workloads)

    def connect(self, name: str) -> MeshProxy:
        workload = self.workloads[name]
        word = "router" if workload.kind == "gateway" else "sidecar"
        node = NodeInfo(id=f"{word}~{workload.ip}~{name}.{workload.namespace}~x")
        identity = Identity(f"spiffe://cluster.local/ns/{workload.namespace}/sa/{workload.service_account}")
        proxy = self.pilot.source.connect(node, identity)
        assert isinstance(proxy, MeshProxy)
        return proxy


@pytest.fixture(scope="module")
def secrets_and_users(pairs: dict[str, Pair]) -> list[Object]:
    """Secrets of two namespaces under the same names, and what makes a gateway and some sidecars use them."""
    texts = [
        secret_yaml(name, pairs["bank" if namespace == "default" else "till"], roots=pairs["bank"].chain,
                    namespace=namespace)
        for namespace in ("default", "other", "istio-system")
        for name in ("vault", "drawer")
    ]  # fmt: skip
    texts.append((GATEWAY % ("istio-system", "-", "vault")).replace("of: -", "istio: gateway"))
    texts += [
        f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: with-{name}, namespace: {namespace}}}
spec:
  host: {name}.test
  workloadSelector: {{matchLabels: {{app: {app}}}}}
  trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: {name}}}}}
"""
        for name, namespace, app in (("vault", "default", "web"), ("drawer", "other", "api"))
    ]
    decoded = decode_documents("\n---\n".join(texts).encode(), "users.yaml")
    assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
    return list(decoded.objects)


def drawn_objects() -> st.SearchStrategy[list[Object]]:
    one: st.SearchStrategy[Any] = resource(KINDS).map(accepted).filter(lambda obj: obj is not None)
    return st.lists(one, max_size=5, unique_by=lambda obj: obj.key)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(objects=drawn_objects(), order=st.randoms(use_true_random=False))
def test_what_a_proxy_is_served_does_not_depend_on_who_was_served_before(
    secrets_and_users: list[Object], objects: list[Object], order: random.Random
) -> None:
    """Byte for byte, a proxy alone in a new mesh gets what it gets where all others were served, stay, or have left."""
    crowd = Stage(objects, secrets_and_users, VipTable())
    names = sorted(crowd.workloads)
    order.shuffle(names)
    for name in names:  # each one warms what there is, and some go again
        proxy = crowd.connect(name)
        everything(proxy)
        if order.random() < 0.4:
            proxy.close()
    for name in names:
        alone = Stage(objects, secrets_and_users, VipTable(crowd.pilot.vips.table()))
        wanted, found = everything(alone.connect(name)), everything(crowd.connect(name))
        assert found.keys() == wanted.keys()
        assert [key for key in wanted if wanted[key] != found[key]] == []
    served = {name: {key[1] for key in everything(crowd.connect(name)) if key[0] == SDS} for name in names}
    if not any(obj.key.kind == "Gateway" for obj in objects):  # one that is drawn may have the port of the one with it
        assert served["gateway"] >= {"kubernetes://vault"}
    assert {name for name, given in served.items() if given} <= {"gateway", "web-v1", "web-v2", "api-v1"}
