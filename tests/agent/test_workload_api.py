"""The SPIFFE Workload API, asked by another library's client over a real socket, signed for by a real Citadel."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from spiffe import JwtSource, TrustDomain, WorkloadApiClient, X509Source
from spiffe._proto import workload_pb2 as pb
from spiffe.workloadapi.errors import FetchJwtSvidError, FetchX509SvidError, ValidateJwtSvidError
from tests.agent.conftest import MemoryLog, until
from tests.fakes.certs import StrangeAuthority

from lateen.agent import workload_api
from lateen.agent.identity import Identity
from lateen.agent.on_demand import OnDemand
from lateen.agent.workload_api import WorkloadApi
from lateen.citadel.authority import Authority
from lateen.citadel.jwt_authority import JwtAuthority
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.wire.jwt_request import JwtAnswer
from lateen.wire.spiffe import SpiffeId
from lateen.wire.spiffe_bundle import format_jwt_bundle
from lateen.wire.trust import TrustBundle, TrustUpdate

ME = SpiffeId("a.example", "shop", "web")
HEADER = (("workload.spiffe.io", "true"),)
OTHER = StrangeAuthority()


@dataclass
class Mesh:
    """Citadel, and the API of one workload."""

    folder: Path
    authority: Authority
    jwts: JwtAuthority
    api: WorkloadApi
    socket: str
    lifetime: timedelta = timedelta(hours=1)
    failure: LateenError | None = None
    now: float = field(default_factory=lambda: datetime.now(UTC).timestamp())
    tokens: int = 0

    async def sign(self, csr: bytes, seconds: int) -> Sequence[str]:
        if self.failure is not None:
            raise self.failure
        return [pem.decode() for pem in self.authority.issue(csr, ME, self.lifetime).pems]

    async def issue_jwt(self, audience: tuple[str, ...]) -> JwtAnswer:
        if self.failure is not None:
            raise self.failure
        self.tokens += 1
        issued = self.jwts.issue(ME, audience)
        expires = int(issued.expires.timestamp())
        return JwtAnswer(spiffe_id=str(ME), token=issued.token, issued=expires - 300, expires=expires)

    def tell(self, **federated: tuple[StrangeAuthority, str]) -> None:
        """Have the control plane tell the bundle of now, with other trust domains `<name>.example`."""
        roots: dict[str, Sequence[str]] = {"a.example": self.authority.roots}
        keys = [("a.example", format_jwt_bundle(self.jwts.public_keys).decode())]
        for name, (authority, document) in federated.items():
            roots[f"{name}.example"] = [authority.root_pem.decode()]
            keys.append((f"{name}.example", document))
        self.api.set_trust(TrustUpdate(TrustBundle.of(roots), self.authority.signing_path, tuple(keys)))


@pytest.fixture
async def mesh(tmp_path: Path, log: MemoryLog) -> AsyncIterator[Mesh]:
    made: list[Mesh] = []

    def on_demand(on_renewed: Callable[[], None]) -> OnDemand:
        return OnDemand(
            lambda: Identity(
                lambda csr, seconds: made[0].sign(csr, seconds),
                namespace="shop",
                service_account="web",
                lifetime=None,
                log=log,
            ),
            on_renewed,
        )

    api = WorkloadApi(
        on_demand,
        lambda audience: made[0].issue_jwt(audience),
        spiffe_id=str(ME),
        trust_domain="a.example",
        log=log,
        now=lambda: made[0].now,
    )
    made.append(
        Mesh(
            tmp_path,
            Authority.load_or_create(tmp_path / "ca", "a.example"),
            JwtAuthority(tmp_path / "jwt", "a.example"),
            api,
            f"unix://{tmp_path}/svid.sock",
        )
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((api.handler(),))
    server.add_insecure_port(f"unix:{tmp_path}/svid.sock")
    await server.start()
    yield made[0]
    await api.stop()
    await server.stop(1)


async def client(mesh: Mesh, call: Callable[[WorkloadApiClient], Any]) -> Any:
    """Return what a call of the other library's client returns; it blocks, so in a thread."""

    def ask() -> Any:
        with WorkloadApiClient(mesh.socket) as api:
            return call(api)

    return await asyncio.to_thread(ask)


# ---------------------------------------------------------------- X.509


async def test_an_svid_with_key_and_bundle(mesh: Mesh) -> None:
    mesh.tell()
    context = await client(mesh, lambda api: api.fetch_x509_context())
    svid = context.default_svid
    assert str(svid.spiffe_id) == str(ME)
    leaf = svid.leaf
    assert leaf.public_key() == svid.private_key.public_key()
    (root,) = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("a.example")).x509_authorities
    leaf.verify_directly_issued_by(root)


async def test_before_the_control_plane_has_told_a_bundle_the_svids_own_roots_do(mesh: Mesh) -> None:
    context = await client(mesh, lambda api: api.fetch_x509_context())
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("a.example"))
    assert pems(bundle.x509_authorities) == set(mesh.authority.roots)


def pems(certificates: Any) -> set[str]:
    return {each.public_bytes(serialization.Encoding.PEM).decode() for each in certificates}


async def test_the_source_follows_rotation_of_leaf_and_of_roots(mesh: Mesh) -> None:
    mesh.lifetime = timedelta(seconds=4)  # so it is renewed after two
    mesh.tell()
    source = await asyncio.to_thread(X509Source, None, mesh.socket, 10)
    try:
        first = source.get_x509_context().default_svid

        def renewed() -> bool:
            return bool(source.get_x509_context().default_svid.leaf.serial_number != first.leaf.serial_number)

        await until(renewed, seconds=10)
        second = source.get_x509_context().default_svid
        assert second.private_key.private_numbers() != first.private_key.private_numbers()  # type: ignore[union-attr]
        b = TrustDomain("b.example")
        assert source.get_bundle_for_trust_domain(b) is None
        mesh.tell(b=(OTHER, '{"keys":[]}'))
        await until(lambda: source.get_bundle_for_trust_domain(b) is not None)
        bundle = source.get_bundle_for_trust_domain(b)
        assert bundle is not None
        assert pems(bundle.x509_authorities) == {OTHER.root_pem.decode()}
        mesh.tell()
        await until(lambda: source.get_bundle_for_trust_domain(b) is None)
    finally:
        await asyncio.to_thread(source.close)


async def test_bundles_stream_what_changes_and_nothing_twice(mesh: Mesh) -> None:
    mesh.tell()
    async with grpc.aio.insecure_channel(f"unix:{mesh.folder}/svid.sock") as channel:
        call = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509Bundles")(b"", metadata=HEADER)
        first = pb.X509BundlesResponse.FromString(await call.read())
        assert set(first.bundles) == {"spiffe://a.example"}
        mesh.tell()  # the same
        mesh.tell(b=(OTHER, '{"keys":[]}'))
        second = pb.X509BundlesResponse.FromString(await call.read())
        assert set(second.bundles) == {"spiffe://a.example", "spiffe://b.example"}
        root = x509.load_der_x509_certificate(second.bundles["spiffe://b.example"])
        assert root == OTHER.certificate
        call.cancel()


async def test_the_svid_is_asked_for_only_when_the_application_asks(mesh: Mesh) -> None:
    mesh.tell()
    assert mesh.authority.issued == 0
    await client(mesh, lambda api: api.fetch_x509_svid())
    await client(mesh, lambda api: api.fetch_x509_svid())
    assert mesh.authority.issued == 1


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (Refused("no registration"), "PERMISSION_DENIED"),
        (BadInput("a key of no kind"), "PERMISSION_DENIED"),
    ],
)
async def test_a_workload_without_identity_is_told_and_may_ask_again(
    mesh: Mesh, failure: LateenError, code: str
) -> None:
    mesh.failure = failure
    with pytest.raises(FetchX509SvidError, match=code):
        await client(mesh, lambda api: api.fetch_x509_svid())
    mesh.failure = None
    assert str((await client(mesh, lambda api: api.fetch_x509_svid())).spiffe_id) == str(ME)


async def test_nobody_to_sign_is_another_thing_than_nothing_to_get(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lateen.agent.on_demand.FIRST_SECONDS", 0.1)
    mesh.failure = Unavailable("away")
    with pytest.raises(FetchX509SvidError, match="UNAVAILABLE"):
        await client(mesh, lambda api: api.fetch_x509_svid())


# ---------------------------------------------------------------- JWT


async def test_a_token_is_fetched_and_judged(mesh: Mesh) -> None:
    mesh.tell()
    mine = await client(mesh, lambda api: api.fetch_jwt_svid(audience={"db"}))
    assert str(mine.spiffe_id) == str(ME)
    read = await client(mesh, lambda api: api.validate_jwt_svid(mine.token, "db"))
    assert str(read.spiffe_id) == str(ME)
    with pytest.raises(ValidateJwtSvidError, match="another audience"):
        await client(mesh, lambda api: api.validate_jwt_svid(mine.token, "cache"))


async def test_the_claims_come_back_as_they_are(mesh: Mesh) -> None:
    mesh.tell()
    token = mesh.jwts.issue(ME, ["db"]).token
    async with grpc.aio.insecure_channel(f"unix:{mesh.folder}/svid.sock") as channel:
        request = pb.ValidateJWTSVIDRequest(audience="db", svid=token).SerializeToString()
        answer = await channel.unary_unary("/SpiffeWorkloadAPI/ValidateJWTSVID")(request, metadata=HEADER)
    read = pb.ValidateJWTSVIDResponse.FromString(answer)
    assert read.spiffe_id == read.claims["sub"] == str(ME)
    assert list(read.claims["aud"]) == ["db"]
    assert read.claims["exp"] - read.claims["iat"] == 300


async def test_a_source_of_tokens_has_bundles_that_follow(mesh: Mesh, tmp_path: Path) -> None:
    mesh.tell()
    other = JwtAuthority(tmp_path / "other", "b.example")
    source = await asyncio.to_thread(JwtSource, None, mesh.socket, 10)
    try:
        svid = await asyncio.to_thread(source.fetch_svid, {"db"})
        bundle = source.get_bundle_for_trust_domain(TrustDomain("a.example"))
        assert bundle is not None
        assert set(bundle.jwt_authorities) == set(mesh.jwts.public_keys)
        assert str(svid.spiffe_id) == str(ME)
        mesh.tell(b=(OTHER, format_jwt_bundle(other.public_keys).decode()))
        await until(lambda: source.get_bundle_for_trust_domain(TrustDomain("b.example")) is not None)
    finally:
        await asyncio.to_thread(source.close)
    foreign = other.issue(SpiffeId("b.example", "shop", "web"), ["db"]).token
    read = await client(mesh, lambda api: api.validate_jwt_svid(foreign, "db"))
    assert str(read.spiffe_id) == "spiffe://b.example/ns/shop/sa/web"
    mesh.tell()  # no longer federated
    with pytest.raises(ValidateJwtSvidError, match="no bundle"):
        await client(mesh, lambda api: api.validate_jwt_svid(foreign, "db"))


async def test_a_token_is_given_again_until_half_of_its_life(mesh: Mesh) -> None:
    mesh.tell()
    one = await client(mesh, lambda api: api.fetch_jwt_svid(audience={"db"}))
    two = await client(mesh, lambda api: api.fetch_jwt_svid(audience={"db"}))
    assert one.token == two.token
    other = await client(mesh, lambda api: api.fetch_jwt_svid(audience={"cache"}))
    assert other.token != one.token
    assert mesh.tokens == 2
    mesh.now += 151
    await client(mesh, lambda api: api.fetch_jwt_svid(audience={"db"}))
    assert mesh.tokens == 3


async def test_tokens_that_are_kept_are_bounded(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload_api, "MAX_TOKENS", 3)
    mesh.tell()
    for name in ("a", "b", "c", "d", "a"):
        await client(mesh, lambda api, name=name: api.fetch_jwt_svid(audience={name}))
    assert mesh.tokens == 5  # the first was forgotten for the fourth
    assert len(mesh.api._tokens) == 3


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.JWTSVIDRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.JWTSVIDRequest(audience=["x" * 600]), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.JWTSVIDRequest(audience=["db"], spiffe_id=str(ME)), None),
        (
            pb.JWTSVIDRequest(audience=["db"], spiffe_id="spiffe://a.example/ns/shop/sa/other"),
            grpc.StatusCode.PERMISSION_DENIED,
        ),
        (b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_a_token_is_given_for(mesh: Mesh, request_: Any, code: Any) -> None:
    mesh.tell()
    data = request_ if isinstance(request_, bytes) else request_.SerializeToString()
    async with grpc.aio.insecure_channel(f"unix:{mesh.folder}/svid.sock") as channel:
        call = channel.unary_unary("/SpiffeWorkloadAPI/FetchJWTSVID")(data, metadata=HEADER)
        if code is None:
            assert pb.JWTSVIDResponse.FromString(await call).svids[0].spiffe_id == str(ME)
            return
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is code


async def test_a_workload_without_identity_gets_no_token(mesh: Mesh) -> None:
    mesh.failure = Refused("no registration")
    with pytest.raises(FetchJwtSvidError, match="PERMISSION_DENIED"):
        await client(mesh, lambda api: api.fetch_jwt_svid(audience={"db"}))


# ---------------------------------------------------------------- all calls


@pytest.mark.parametrize(
    ("method", "streaming"),
    [
        ("FetchX509SVID", True),
        ("FetchX509Bundles", True),
        ("FetchJWTSVID", False),
        ("FetchJWTBundles", True),
        ("ValidateJWTSVID", False),
    ],
)
@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "false"),), (("workload.spiffe.io", "True"),)])
async def test_without_its_header_no_call_is_answered(mesh: Mesh, method: str, streaming: bool, metadata: Any) -> None:
    mesh.tell()
    async with grpc.aio.insecure_channel(f"unix:{mesh.folder}/svid.sock") as channel:
        make = channel.unary_stream if streaming else channel.unary_unary
        call = make(f"/SpiffeWorkloadAPI/{method}")(b"", metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError, match="security header missing") as caught:
            await (call.read() if streaming else call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_streams_are_bounded(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload_api, "MAX_STREAMS", 2)
    mesh.tell()
    async with grpc.aio.insecure_channel(f"unix:{mesh.folder}/svid.sock") as channel:
        method = channel.unary_stream("/SpiffeWorkloadAPI/FetchJWTBundles")
        calls = [method(b"", metadata=HEADER) for _ in range(2)]
        for call in calls:
            assert await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(b"", metadata=HEADER).read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        calls.pop().cancel()
        await until(lambda: len(mesh.api._wakers) == 1)
        assert await method(b"", metadata=HEADER).read()


async def test_stopping_ends_every_stream_and_the_renewal(mesh: Mesh) -> None:
    mesh.tell()
    async with grpc.aio.insecure_channel(f"unix:{mesh.folder}/svid.sock") as channel:
        call = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")(b"", metadata=HEADER)
        assert await call.read()
        await mesh.api.stop()
        assert await asyncio.wait_for(call.read(), 5) is grpc.aio.EOF
    assert not mesh.api._wakers
    assert "application's identity" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_no_secret_shows(mesh: Mesh, log: MemoryLog) -> None:
    mesh.tell()
    svid = await client(mesh, lambda api: api.fetch_x509_svid())
    token = await client(mesh, lambda api: api.fetch_jwt_svid(audience={"db"}))
    await client(mesh, lambda api: api.validate_jwt_svid(token.token, "db"))
    with pytest.raises(ValidateJwtSvidError) as caught:
        await client(mesh, lambda api: api.validate_jwt_svid(token.token, "cache"))
    secret = f"{svid.private_key.private_numbers().private_value:x}"
    shown = log.buffer.getvalue() + repr(mesh.api.__dict__) + str(caught.value)
    assert token.token not in shown
    assert secret not in shown
    assert threading.active_count() < 50
