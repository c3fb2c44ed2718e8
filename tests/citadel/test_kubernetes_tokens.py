"""Projected service account tokens: over real gRPC, judged by a test server that speaks an API server's TokenReview.

It is no Kubernetes, which cannot be had here: it signs tokens as the documentation describes them (ES256, audiences,
expiry, bound to a pod) and judges them by their signature, the clock, the audience, and the pods that there are.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from grpc import StatusCode
from structlog.testing import capture_logs
from tests.citadel.test_assurance_12 import Cluster, pod, spiffe
from tests.fakes.certs import p256_csr
from tests.fakes.kube_api import KubeApi

from lateen.citadel.audit import AuditLog, read_audit
from lateen.citadel.authority import Authority
from lateen.citadel.callers import BearerJoinToken
from lateen.citadel.external.https import HttpsClient, parse_server
from lateen.citadel.impersonation import Impersonation
from lateen.citadel.join_tokens import JoinTokens
from lateen.citadel.kubernetes_tokens import HttpTokenReviewer, ServiceAccountTokens
from lateen.citadel.service import CertificateService
from lateen.wire.ca import CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse
from lateen.wire.spiffe import SpiffeId
from lateen.wire.svid import read_certificate

HEADER, UNSIGNED = b'{"alg":"ES256"}', b'{"alg":"none"}'


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class ApiServer(KubeApi):
    """Issues projected tokens and reviews them."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    pods: dict[str, str] = field(default_factory=dict)  # uid -> name, of those that there are
    lies: dict[str, Any] = field(default_factory=dict)  # put over the status of every review
    reviews: int = 0
    knows_audiences: bool = True  # before Kubernetes 1.12, none did

    def project(
        self, account: str = "default:reviews", *, pod: str = "reviews-1", seconds: int = 600, **claims: Any
    ) -> str:
        """Return a token as the kubelet mounts it into a pod."""
        namespace, name = account.split(":")
        uid = f"u-{pod}"
        self.pods.setdefault(uid, pod)
        payload = {
            "aud": ["istio-ca"],
            "exp": int(time.time()) + seconds,
            "sub": f"system:serviceaccount:{account}",
            "kubernetes.io": {
                "namespace": namespace,
                "serviceaccount": {"name": name},
                "pod": {"name": pod, "uid": uid},
                "node": {"name": "node-a"},
            },
            **claims,
        }
        signed = f"{b64(HEADER)}.{b64(json.dumps(payload).encode())}"
        der = self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(der)
        return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, dict[str, Any]]:
        if path.endswith("/tokenreviews") and token != f"Bearer {self.token}":
            return 401, {"kind": "Status", "code": 401}
        return super().answer(method, path, token, body)

    def _review(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.reviews += 1
        status: dict[str, Any]
        try:
            status = self._judge(body["spec"]["token"], body["spec"].get("audiences", []))
        except (ValueError, KeyError, InvalidSignature) as error:
            status = {"authenticated": False, "error": f"[invalid bearer token, {error!r}]"}
        return 201, {**body, "status": {**status, **self.lies}}

    def _judge(self, token: str, audiences: list[str]) -> dict[str, Any]:
        signed, _, signature = token.rpartition(".")
        raw = unb64(signature)
        der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        self.key.public_key().verify(der, signed.encode(), ec.ECDSA(hashes.SHA256()))
        claims = json.loads(unb64(signed.partition(".")[2]))
        if claims["exp"] <= time.time():
            raise ValueError("service account token has expired")
        bound = claims["kubernetes.io"]
        if self.pods.get(bound["pod"]["uid"]) != bound["pod"]["name"]:
            raise ValueError("pod has been deleted")
        shared = [audience for audience in claims["aud"] if audience in audiences]
        if self.knows_audiences and not shared:
            raise ValueError(f"token audiences {claims['aud']} is invalid for the target audiences {audiences}")
        user = {
            "username": claims["sub"],
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{bound['namespace']}"],
            "extra": {
                "authentication.kubernetes.io/pod-name": [bound["pod"]["name"]],
                "authentication.kubernetes.io/pod-uid": [bound["pod"]["uid"]],
                "authentication.kubernetes.io/node-name": [bound["node"]["name"]],
            },
        }
        return {"authenticated": True, "user": user, **({"audiences": shared} if self.knows_audiences else {})}


@dataclass
class Mesh:
    """A signing service that knows two clusters."""

    one: ApiServer
    two: ApiServer
    channel: Any
    folder: Path
    joins: JoinTokens

    async def ask(self, token: str, *, wanted: str = "", **metadata: str) -> str:
        request = IstioCertificateRequest(csr=p256_csr().decode())
        if wanted:
            request.metadata["ImpersonatedIdentity"] = wanted
        answer = await self.channel.unary_unary(CREATE_CERTIFICATE)(
            request.SerializeToString(),
            metadata=(("authorization", f"Bearer {token}"), *metadata.items()),
            timeout=20,
        )
        return str(read_certificate(IstioCertificateResponse.FromString(answer).cert_chain[0].encode()).spiffe_id)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    servers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        servers.append(ApiServer(tmp_path / name))
    one, two = servers
    reviewers = {
        name: HttpTokenReviewer(
            HttpsClient(parse_server(api.url), ca_file=api.ca_file, concurrency=4, timeout_seconds=5), api.token_file
        )
        for name, api in (("one", one), ("two", two))
    }
    audit = AuditLog(tmp_path)
    joins = JoinTokens(tmp_path / "joins.json", trust_domain="cluster.local", audit=audit)
    rule = Impersonation(
        frozenset({("istio-system", "ztunnel")}),
        Cluster(
            pod("ztunnel-a", "node-a", "ztunnel", namespace="istio-system"),
            pod("reviews-1", "node-a", "reviews"),
            pod("ratings-1", "node-b", "ratings"),
        ),
    )
    service = CertificateService(
        Authority.load_or_create(tmp_path / "ca", "cluster.local"),
        [BearerJoinToken(joins), ServiceAccountTokens(reviewers, cluster="one", trust_domain="cluster.local")],
        audit=audit,
        impersonation=rule,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((service.handler(),))
    server.add_insecure_port(f"unix:{tmp_path}/ca.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/ca.sock") as channel:
        yield Mesh(one, two, channel, tmp_path, joins)
    await server.stop(None)
    audit.close()
    one.close()
    two.close()


async def test_a_pod_gets_what_its_token_says(mesh: Mesh) -> None:
    assert await mesh.ask(mesh.one.project()) == spiffe("reviews")
    assert await mesh.ask(mesh.two.project("shop:ratings"), clusterid="two") == spiffe("ratings", namespace="shop")
    assert [(entry.event, entry.source) for entry in read_audit(mesh.folder)] == [("issued", "kubernetes")] * 2


async def test_a_join_token_is_not_shown_to_an_api_server(mesh: Mesh) -> None:
    token = mesh.joins.create(SpiffeId("cluster.local", "default", "reviews"))
    assert await mesh.ask(token.bearer) == spiffe("reviews")
    with pytest.raises(grpc.aio.AioRpcError, match="is used up"):
        await mesh.ask(token.bearer)
    assert mesh.one.reviews == mesh.two.reviews == 0


@pytest.mark.parametrize(
    "kind",
    [
        "wrong-audience", "no-audience", "expired", "deleted-pod", "another-pod-of-that-name", "other-cluster",
        "changed", "another-key", "unsigned", "no-account", "odd-namespace", "not-in-the-group",
        "server-without-audiences", "error-beside-yes",
    ],
)  # fmt: skip
async def test_assurance_11_tokens_of_pods(mesh: Mesh, kind: str) -> None:
    api, cluster = mesh.one, "one"
    token = api.project()
    match kind:
        case "wrong-audience":
            token = api.project(aud=["https://kubernetes.default.svc"])
        case "no-audience":
            token = api.project(aud=[])
        case "expired":
            token = api.project(seconds=-1)
        case "deleted-pod":
            api.pods.clear()
        case "another-pod-of-that-name":
            api.pods = {"u-new": "reviews-1"}
        case "other-cluster":
            cluster = "two"
        case "changed":
            head, body, signature = token.split(".")
            claims = json.loads(unb64(body)) | {"sub": "system:serviceaccount:istio-system:lateen"}
            token = f"{head}.{b64(json.dumps(claims).encode())}.{signature}"
        case "another-key":
            token = mesh.two.project()
        case "unsigned":
            token = f"{b64(UNSIGNED)}.{token.split('.')[1]}.AAAA"
        case "no-account":
            token = api.project(sub="system:node:node-a")
        case "odd-namespace":
            token = api.project(sub="system:serviceaccount:..:lateen")
        case "not-in-the-group":
            api.lies = {"user": {"username": "system:serviceaccount:default:reviews", "groups": ["system:masters"]}}
        case "server-without-audiences":
            api.knows_audiences = False
        case "error-beside-yes":
            api.lies = {"error": "not sure"}
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(token, clusterid=cluster)
    assert caught.value.code() is StatusCode.UNAUTHENTICATED
    assert caught.value.details() == f"service account token is not valid in cluster '{cluster}'"
    assert [entry.event for entry in read_audit(mesh.folder)] == ["refused"]
    shown = repr(logs) + "".join(path.read_text() for path in mesh.folder.glob("audit*"))
    assert token.split(".")[2] not in shown
    assert token.split(".")[1] not in shown


@pytest.mark.parametrize(
    ("token", "metadata", "message"),
    [
        pytest.param("", {}, "bearer token is no JSON web token", id="empty"),
        pytest.param("x", {}, "bearer token is no JSON web token", id="short"),
        pytest.param("aa.bb.cc" + "c" * 20_000, {}, "one bearer token wanted", id="giant"),
        pytest.param("aa.bb.cc", {"clusterid": "three"}, "no cluster of this mesh, got 'three'", id="unknown-cluster"),
        pytest.param("aa.bb.cc", {"clusterid": "../one"}, "no cluster of this mesh", id="odd-cluster"),
    ],
)
async def test_what_no_api_server_is_asked_about(
    mesh: Mesh, token: str, metadata: dict[str, str], message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(token, **metadata)
    if caught.value.code() is StatusCode.UNAUTHENTICATED:
        assert message in str(caught.value.details())
    else:  # gRPC itself takes no metadata of that size
        assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert mesh.one.reviews == mesh.two.reviews == 0


async def test_an_api_server_that_does_not_answer_lets_nobody_in(mesh: Mesh) -> None:
    token = mesh.one.project()
    mesh.one.fail_with = 500
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(token)
    assert caught.value.code() is StatusCode.UNAVAILABLE
    mesh.one.fail_with = 0
    mesh.one.token = "replaced"  # our own is no longer valid there
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(token)
    assert caught.value.code() is StatusCode.UNAVAILABLE
    mesh.one.token_file.write_text("replaced\n")
    assert await mesh.ask(token) == spiffe("reviews")
    mesh.one.close()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.ask(token)
    assert caught.value.code() is StatusCode.UNAVAILABLE
    assert await mesh.ask(mesh.two.project(), clusterid="two") == spiffe("reviews"), "the other cluster is not held up"


async def test_assurance_12_a_nodes_agent_over_the_whole_way(mesh: Mesh) -> None:
    agent = mesh.one.project("istio-system:ztunnel", pod="ztunnel-a")
    assert await mesh.ask(agent) == spiffe("ztunnel", namespace="istio-system")
    assert await mesh.ask(agent, wanted=spiffe("reviews")) == spiffe("reviews")
    assert read_audit(mesh.folder)[-1].source == "kubernetes:istio-system/ztunnel"
    for wanted in (spiffe("ratings"), spiffe("lateen", namespace="istio-system")):
        with pytest.raises(grpc.aio.AioRpcError, match="no pod of that identity on the caller's node"):
            await mesh.ask(agent, wanted=wanted)
    with pytest.raises(grpc.aio.AioRpcError, match="may not ask for other identities than its own"):
        await mesh.ask(mesh.one.project(), wanted=spiffe("ratings"))
    elsewhere = mesh.two.project("istio-system:ztunnel", pod="ztunnel-a")
    with pytest.raises(grpc.aio.AioRpcError, match="own pod is not known"):
        await mesh.ask(elsewhere, wanted=spiffe("reviews"), clusterid="two")
