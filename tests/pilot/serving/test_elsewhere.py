"""The TLS port for agents elsewhere, with real TLS clients: who gets what there, and that nobody else gets anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from grpc import StatusCode
from tests.fakes.certs import StrangeAuthority, key_pem, p256_csr, pem_of, uri
from tests.fakes.pki import crl_of, make_link, plug

from lateen.agent.link import RemoteLink
from lateen.agent.log import Log
from lateen.citadel.audit import AuditEntry, read_audit
from lateen.errors import BadInput, Refused, Unavailable, Unsupported
from lateen.pilot.serving.certificates import CertificateOptions
from lateen.pilot.serving.control_plane import ControlPlane, ControlPlaneOptions
from lateen.pilot.serving.elsewhere import _check_address
from lateen.pilot.xds.server import DELTA_METHOD, SERVICE, SOTW_METHOD
from lateen.settings import Settings
from lateen.wire.ca import CREATE_CERTIFICATE, IDENTITY_METADATA, IstioCertificateRequest, IstioCertificateResponse
from lateen.wire.control import ControlClient
from lateen.wire.doors import CONNECTIONS_OF_ONE
from lateen.wire.join import JOIN_NAME, JoinTokenName, JoinTokenRequest, parse_bearer, pins_of
from lateen.wire.jwt_request import ISSUE, JwtAnswer, JwtRequest
from lateen.wire.local import SERVICE as CONTROL
from lateen.wire.local import Goodbye, GroupQuery, Query, Registration, WorkloadPort
from lateen.wire.svid import read_certificate

pytestmark = pytest.mark.envoy

SERVER = "pilot.lateen.local"
ME = "spiffe://cluster.local/ns/default/sa/reviews"
GROUPS = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: mine}
spec: {template: {serviceAccount: reviews}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: others}
spec: {template: {serviceAccount: ratings}}
"""


@dataclass
class Port:
    """A control plane that listens to agents elsewhere, and clients of it."""

    plane: ControlPlane
    folder: Path

    @property
    def target(self) -> str:
        return self.plane.listens_at

    @property
    def root(self) -> bytes:
        return self.plane.certificates.authority.root_pem

    def channel(self, name: str = SERVER, *, key: bytes | None = None, chain: bytes | None = None) -> Any:
        credentials = grpc.ssl_channel_credentials(self.root, key, chain)
        options = (("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1))
        return grpc.aio.secure_channel(self.target, credentials, options=options)

    async def token(self, account: str = "reviews", **fields: Any) -> str:
        request = JoinTokenRequest(namespace="default", service_account=account, **fields)
        created = await self.plane.create_join_token(request)
        assert created.listen == self.target
        assert created.roots.encode() == self.root
        return created.text.rpartition(".")[0]

    async def join(self, bearer: str, key: Any = None, *, name: str = JOIN_NAME, **metadata: str) -> bytes:
        """Show a token; return the leaf."""
        values = [("authorization", f"Bearer {bearer}")] if bearer else []
        values += [(key.replace("_", "-"), v) for key, v in metadata.items()]
        async with self.channel(name) as channel:
            return await ask(channel, key or ec.generate_private_key(ec.SECP256R1()), values)

    async def member(self, account: str = "reviews") -> tuple[bytes, bytes]:
        """Return key and certificate of somebody who has joined."""
        key = ec.generate_private_key(ec.SECP256R1())
        return key_pem(key), await self.join(await self.token(account), key)

    def events(self) -> list[AuditEntry]:
        return read_audit(self.folder)


async def ask(channel: Any, key: Any, metadata: Any = ()) -> bytes:
    request = IstioCertificateRequest(csr=p256_csr(key=key).decode())
    answer = await channel.unary_unary(CREATE_CERTIFICATE)(request.SerializeToString(), metadata=metadata, timeout=10)
    return str(IstioCertificateResponse.FromString(answer).cert_chain[0]).encode()


@pytest.fixture
async def port(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Port]:
    config, state = tmp_path / "c", tmp_path_factory.mktemp("s")
    config.mkdir()
    (config / "groups.yaml").write_text(GROUPS)
    options = ControlPlaneOptions(
        config=config, network="explicit", listen=("127.0.0.1", 0), certificates=CertificateOptions()
    )
    async with ControlPlane(Settings(state=state), options) as plane:
        stop = asyncio.Event()
        serving = asyncio.create_task(plane.serve(stop))
        yield Port(plane, state)
        stop.set()
        await serving


def code(caught: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> Any:
    return caught.value.code()


async def test_a_token_gets_one_certificate_and_that_renews_itself(port: Port) -> None:
    bearer = await port.token()
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = await port.join(bearer, key, lateen_identity="default/reviews")
    assert str(read_certificate(leaf).spiffe_id) == ME

    with pytest.raises(grpc.aio.AioRpcError, match="is used up: 1 of 1") as caught:
        await port.join(bearer)
    assert code(caught) is StatusCode.UNAUTHENTICATED

    async with port.channel(key=key_pem(key), chain=leaf) as channel:
        again = ec.generate_private_key(ec.SECP256R1())
        renewed = await ask(channel, again, ((IDENTITY_METADATA, "default/reviews"),))
        assert str(read_certificate(renewed).spiffe_id) == ME
        for wanted in ("default/ratings", "istio-system/lateen"):
            with pytest.raises(grpc.aio.AioRpcError, match="of another identity") as caught:
                await ask(channel, again, ((IDENTITY_METADATA, wanted),))
            assert code(caught) is StatusCode.UNAUTHENTICATED
        request = IstioCertificateRequest(csr=p256_csr().decode())
        request.metadata["ImpersonatedIdentity"] = "spiffe://cluster.local/ns/default/sa/ratings"
        with pytest.raises(grpc.aio.AioRpcError):  # to stand for others is for listed node accounts
            await channel.unary_unary(CREATE_CERTIFICATE)(request.SerializeToString(), timeout=10)

    known = [(entry.event, entry.source, entry.token) for entry in port.events() if not entry.of_stranger]
    name = bearer.split(".")[1]
    assert known == [
        ("token-created", "", name),
        ("issued", "join-token", name),
        ("issued", "client-certificate", ""),
        ("refused", "client-certificate", ""),
    ]
    assert len([entry for entry in port.events() if entry.of_stranger]) == 3
    assert all(entry.peer.startswith("127.0.0.1:") for entry in port.events()[1:])


async def test_two_who_show_it_at_once_get_one_certificate(port: Port) -> None:
    bearer = await port.token(uses=3)
    results = await asyncio.gather(*(port.join(bearer) for _ in range(12)), return_exceptions=True)
    assert sum(isinstance(result, bytes) for result in results) == 3
    issued = [entry for entry in port.events() if entry.event == "issued"]
    assert len(issued) == 3


@pytest.mark.parametrize("kind", ["none", "wrong", "cut", "other-scheme", "expired", "revoked", "for-another"])
async def test_assurance_11_tokens_that_let_nobody_in(port: Port, kind: str) -> None:
    bearer, message = await port.token(lifetime_seconds=1.0 if kind == "expired" else 600.0), "no such join token"
    metadata: dict[str, str] = {}
    match kind:
        case "wrong":
            bearer = bearer[:-43] + ("A" * 42 + "E")
        case "cut":
            bearer = bearer[:-1]
        case "other-scheme":
            bearer, message = "eyJhbGciOiJub25lIn0.e30.", "carries no credentials of a kind that is taken here"
        case "expired":
            while port.plane.certificates.join_tokens.listed()[0].state == "valid":  # noqa: ASYNC110  # the wall clock
                await asyncio.sleep(0.05)
            message = "was valid until"
        case "revoked":
            await port.plane.revoke_join_token(JoinTokenName(name=bearer.split(".")[1]))
        case "for-another":
            metadata, message = {"lateen_identity": "default/ratings"}, "is for another identity"
        case "none":
            bearer, message = "", "carries no credentials"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await port.join(bearer, **metadata)
    assert code(caught) is StatusCode.UNAUTHENTICATED
    assert message in caught.value.details()
    assert [entry.event for entry in port.events() if entry.event in ("issued", "refused")] == ["refused"]
    assert port.plane.certificates.authority.issued == 1, "its own certificate, and no other"


async def test_a_token_is_given_back_when_nothing_was_issued(port: Port) -> None:
    bearer = await port.token()
    async with port.channel(JOIN_NAME) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(CREATE_CERTIFICATE)(
                IstioCertificateRequest(csr="x").SerializeToString(),
                metadata=(("authorization", f"Bearer {bearer}"),),
                timeout=10,
            )
        assert code(caught) is StatusCode.INVALID_ARGUMENT
    assert str(read_certificate(await port.join(bearer)).spiffe_id) == ME


async def test_a_token_is_shown_to_the_mesh_that_it_pins_and_to_no_other(port: Port, tmp_path: Path) -> None:
    """Nothing is trusted because it answered first: not with another root pinned, nor with that root named by hand."""
    bearer = await port.token()
    parsed = parse_bearer(bearer)
    assert parsed is not None
    mine = x509.load_pem_x509_certificate(port.root)
    strange = StrangeAuthority()
    link = RemoteLink(port.target, token_file=tmp_path / "t", roots_file=tmp_path / "r", log=Log(sys.stderr))
    sign = link.citadel("default", "reviews").sign
    try:
        for pinned, roots, failure, message in (
            (strange.certificate, strange.root_pem, Unavailable, "certificate for default/reviews from"),
            (mine, strange.root_pem, BadInput, "none of 1 roots is one that"),
            (strange.certificate, port.root, BadInput, "none of 1 roots is one that"),
        ):
            (tmp_path / "t").write_text(replace(parsed, pins=pins_of([pinned])).text)
            (tmp_path / "r").write_bytes(roots)
            with pytest.raises(failure, match=message):
                await sign(p256_csr(), 0)
        assert port.plane.certificates.service.counters.csr_count == 0, "the secret was not sent"
        (tmp_path / "t").write_text(replace(parsed, pins=pins_of([mine])).text)
        (tmp_path / "r").write_bytes(strange.root_pem + port.root)
        chain = await sign(p256_csr(), 0)
        assert str(read_certificate(chain[0].encode()).spiffe_id) == ME
    finally:
        await link.close()


CONTROL_METHODS = (
    "Register", "Deregister", "Status", "ProxyStatus", "Group", "Metrics", "CreateJoinToken", "ListJoinTokens",
    "RevokeJoinToken",
)  # fmt: skip


async def test_assurance_20_who_has_no_certificate_gets_nothing_but_a_place_for_a_token(port: Port) -> None:
    """Neither configuration nor status nor certificates, on either of the two names."""
    streams = [f"/{SERVICE}/{DELTA_METHOD}", f"/{SERVICE}/{SOTW_METHOD}"]
    for name, wanted in ((JOIN_NAME, StatusCode.UNIMPLEMENTED), (SERVER, StatusCode.UNAVAILABLE)):
        async with port.channel(name) as channel:
            for method in CONTROL_METHODS:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(f"/{CONTROL}/{method}")(b"{}", timeout=5)
                assert code(caught) is wanted, (name, method)
            for method in streams:
                call = channel.stream_stream(method)(timeout=5)
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await call.write(DeltaDiscoveryRequest(type_url="x").SerializeToString())
                assert await call.code() is wanted, (name, method)
    async with port.channel(SERVER) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, ec.generate_private_key(ec.SECP256R1()))
        assert code(caught) is StatusCode.UNAVAILABLE
    assert port.plane.certificates.service.counters.csr_count == 0


async def test_certificates_that_let_nobody_in(port: Port) -> None:
    """Of another root that claims this trust domain; none at all; one that signs for itself."""
    stranger = StrangeAuthority()
    key = ec.generate_private_key(ec.SECP256R1())
    for names in ([uri(ME)], [uri("spiffe://other.example/ns/default/sa/reviews")]):
        chain = pem_of(stranger.certify(key, names=names))
        async with port.channel(key=key_pem(key), chain=chain) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(channel, key)
            assert code(caught) is StatusCode.UNAVAILABLE
            with pytest.raises(Unavailable):
                await ControlClient(channel, timeout=5).group(GroupQuery(namespace="default", name="mine"))
    assert port.plane.certificates.service.counters.csr_count == 0


async def test_a_certificate_of_the_root_in_another_trust_domain(port: Port) -> None:
    """The mesh's root may sign for others, too: its word counts for its own trust domain only."""
    signer = port.plane.certificates.authority.signer
    strange = StrangeAuthority()
    strange.key = signer.key  # type: ignore[attr-defined]  # a root whose key is in this process
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = strange.certify(
        key, names=[uri("spiffe://other.example/ns/default/sa/reviews")], issuer_name=signer.certificate.subject
    )
    async with port.channel(key=key_pem(key), chain=pem_of(leaf)) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=r"is not of trust domain 'cluster\.local'") as caught:
            await ask(channel, key)
        assert code(caught) is StatusCode.UNAUTHENTICATED
        with pytest.raises(Refused, match="is not of trust domain"):
            await ControlClient(channel, timeout=5).group(GroupQuery(namespace="default", name="mine"))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="http"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="grpc-without-tls"),
        pytest.param(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", id="not-a-client"),
        pytest.param(b"\x16\x03\x01\xff\xff" + bytes(20), id="record-too-long"),
        pytest.param(b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(50_000), id="greeting-without-end"),
        pytest.param(os.urandom(5000).replace(b"\x16", b"\x17"), id="noise"),
    ],
)
async def test_assurance_1_what_is_no_tls_is_closed(port: Port, data: bytes) -> None:
    host, number = port.target.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(number))
    writer.write(data)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    (entry,) = [entry for entry in port.events() if entry.event == "turned-away"]
    assert entry.reason.startswith("connection from 127.0.0.1:")
    assert len(await port.member()) == 2


async def test_the_handshake_alone_tells_who_the_server_is_and_no_more(port: Port) -> None:
    """A client without a certificate sees a certificate for the server's names, and then the end."""
    context = ssl.create_default_context(cadata=port.root.decode())
    context.set_alpn_protocols(["h2"])
    host, number = port.target.rsplit(":", 1)

    def talk(name: str) -> tuple[list[str], bytes]:
        with (
            socket.create_connection((host, int(number)), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname=name) as tls,
        ):
            names = [value for _, value in tls.getpeercert()["subjectAltName"]]  # type: ignore[index,misc]
            try:
                tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
                return names, tls.recv(1000)
            except (ssl.SSLError, ConnectionError):
                return names, b""

    names, answer = await asyncio.to_thread(talk, SERVER)
    assert set(names) == {"spiffe://cluster.local/ns/istio-system/sa/lateen", SERVER, JOIN_NAME}
    assert answer == b""
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(talk, "www.example.com")


def registration(name: str = "reviews-v1", **fields: Any) -> Registration:
    values: dict[str, Any] = {
        "name": name,
        "service_account": "reviews",
        "service": "reviews",
        "ip": "10.99.0.2",
        "mode": "explicit",
        "ports": (WorkloadPort(name="http", number=9080, target=19080),),
        "ready": True,
        "pid": 4711,
        "start_ticks": 99,
    }
    return Registration(**{**values, **fields})


async def test_an_agent_registers_its_own_identity_and_no_other(port: Port) -> None:
    key, chain = await port.member()
    async with port.channel(key=key, chain=chain) as channel:
        control = ControlClient(channel, timeout=5)
        assert (await control.register(registration())).trust_domain == "cluster.local"
        known = port.plane.registrations.get("reviews-v1")
        assert known is not None
        assert known.remote
        for other in (
            registration("x", service_account="ratings"),
            registration("x", namespace="istio-system"),
            registration("x", namespace="istio-system", service_account="lateen"),
        ):
            with pytest.raises(Refused, match="may not speak for"):
                await control.register(other)
        for ip in ("127.0.0.1x", "0.0.0.0", "224.0.0.1", "169.254.169.254", "::", "fe80::1", "::ffff:169.254.169.254"):
            with pytest.raises(BadInput, match="ip: "):
                await control.register(registration("x", ip=ip))
        assert [one.name for one in port.plane.registrations] == ["reviews-v1"]
        status = (await port.plane.status(Query())).workloads
        assert [(one.name, one.remote, one.identity) for one in status] == [("reviews-v1", True, ME)]
        assert (await control.group(GroupQuery(namespace="default", name="mine"))).service_account == "reviews"
        for query in (GroupQuery(namespace="default", name="others"), GroupQuery(namespace="other", name="mine")):
            with pytest.raises(Refused, match="may not"):
                await control.group(query)
        for method in (control.status, control.proxy_status, control.metrics):
            with pytest.raises(Unsupported):
                await method(Query())


@pytest.mark.parametrize("ip", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"])
def test_nobody_from_afar_leads_others_to_their_own_machines(ip: str) -> None:
    with pytest.raises(BadInput, match="is no address at which others reach a workload"):
        _check_address(ip, "10.0.0.9:4711")
    _check_address("::ffff:10.0.0.9", "[::ffff:10.0.0.9]:4711")
    _check_address("127.0.0.1", "[::ffff:127.0.0.1]:4711")


async def test_who_asks_stands_in_the_trail(port: Port) -> None:
    """Of a process on this machine as the kernel names it, of one elsewhere by its address."""
    async with grpc.aio.insecure_channel(f"unix:{port.plane.settings.ca_socket}") as channel:
        await ask(channel, ec.generate_private_key(ec.SECP256R1()), ((IDENTITY_METADATA, "default/reviews"),))
    await port.member()
    peers = [(entry.source, entry.peer) for entry in port.events() if entry.event == "issued"]
    assert peers[0] == ("local-trust", f"uid={os.geteuid()},pid={os.getpid()}")
    assert peers[1][0] == "join-token"
    assert peers[1][1].startswith("127.0.0.1:")


async def test_a_trail_that_cannot_be_written_is_told_and_ends_nothing(port: Port) -> None:
    """As on a full disk: certificates go on being issued, and the gap is a warning of status and trail."""
    audit = port.plane.certificates.audit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", _full)
        assert len(await port.member()) == 2
        (warning,) = (await port.plane.status(Query())).warnings
        assert "audit lines cannot be written: the last 2 are lost, 2 since the start" in warning.message
        assert warning.file == str(audit.path)
        assert "lateen_audit_lines_lost_total 2\n" in (await port.plane.metrics(Query())).text
    await port.member()
    assert (await port.plane.status(Query())).warnings == ()
    assert [(entry.event, entry.lost_before) for entry in port.events()] == [("token-created", 2), ("issued", 0)]


def _full(_: int, __: bytes) -> int:
    raise OSError(errno.ENOSPC, "no space left on device")


async def test_tokens_for_applications_are_of_its_own_identity(port: Port) -> None:
    key, chain = await port.member()
    request = msgspec.json.encode(JwtRequest(audience=("shop",)))
    async with port.channel(key=key, chain=chain) as channel:
        answer = await channel.unary_unary(ISSUE)(request, timeout=5)
        assert msgspec.json.decode(answer, type=JwtAnswer).spiffe_id == ME
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(ISSUE)(request, metadata=((IDENTITY_METADATA, "default/ratings"),), timeout=5)
        assert code(caught) is StatusCode.UNAUTHENTICATED
    for name in (JOIN_NAME, SERVER):
        async with port.channel(name) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(ISSUE)(request, timeout=5)
    assert port.plane.certificates.jwt_service.issued_count == 0, "that of the local socket has issued none"


async def test_nobody_takes_over_anothers_name(port: Port) -> None:
    first, second = await port.member(), await port.member("ratings")
    async with port.channel(key=first[0], chain=first[1]) as one, port.channel(key=second[0], chain=second[1]) as two:
        mine, theirs = ControlClient(one, timeout=5), ControlClient(two, timeout=5)
        await mine.register(registration("app"))
        with pytest.raises(Refused, match="of another identity runs already"):
            await theirs.register(registration("app", service_account="ratings"))
        with pytest.raises(Refused, match="may not speak for"):
            await theirs.deregister(Goodbye(name="app", pid=4711))
        with pytest.raises(Refused, match="runs already, elsewhere"):
            await mine.register(registration("app", pid=5000))
        with pytest.raises(Refused, match="runs already, elsewhere"):
            await port.plane.register(registration("app", pid=os.getpid()))
        await mine.deregister(Goodbye(name="app", pid=4711))
        assert list(port.plane.registrations) == []


async def test_who_is_silent_is_taken_for_gone(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lateen.pilot.registry.registrations.LEASE_SECONDS", 0.3)
    key, chain = await port.member()
    async with port.channel(key=key, chain=chain) as channel:
        control = ControlClient(channel, timeout=5)
        for _ in range(4):  # as long as it is heard of it stays, though nothing about it changes
            await control.register(registration())
            await asyncio.sleep(0.15)
            assert port.plane.registrations.get("reviews-v1") is not None
        async with asyncio.timeout(10):
            while port.plane.registrations.get("reviews-v1") is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await control.register(registration(pid=5000))  # another agent may have the name now


async def test_a_flood_of_connections_leaves_nothing(port: Port) -> None:
    """Half-open and silent ones, and those that greet and go; then somebody joins as if nothing had been."""
    host, number = port.target.rsplit(":", 1)
    socks = []
    for index in range(300):
        sock = socket.create_connection((host, int(number)))
        if index % 3:
            sock.sendall(b"\x16\x03\x01\x00\xff\x01\x00\x00\xfb\x03\x03"[: 1 + index % 11])
        socks.append(sock)
    assert len(await port.member()) == 2
    for sock in socks:
        sock.close()
    assert len(await port.member()) == 2


async def test_the_local_socket_says_who_is_where(port: Port) -> None:
    """Of a message on the local socket that claims to come from elsewhere, the process is looked for all the same."""
    with pytest.raises(BadInput, match="no process 4711 that started at tick 99"):
        await port.plane.register(registration(remote=True))


async def test_one_process_may_have_many_streams_and_few_that_ask_for_certificates(port: Port) -> None:
    """Programs without an agent share `xds-local.sock`, and each channel of theirs may be a connection."""
    count = CONNECTIONS_OF_ONE + 20

    async def served(path: Path) -> int:
        async with contextlib.AsyncExitStack() as stack:
            open_ = 0
            for _ in range(count):
                reader, writer = await asyncio.open_unix_connection(str(path))
                stack.callback(writer.close)
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
                with contextlib.suppress(ConnectionError):
                    open_ += bool(await asyncio.wait_for(reader.read(9), 10))  # its settings
            return open_

    assert await served(port.plane.settings.xds_local_socket) == count
    assert await served(port.plane.settings.ca_socket) == CONNECTIONS_OF_ONE


async def test_a_revoked_certificate_is_not_renewed_and_opens_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config, plugged = tmp_path / "c", tmp_path / "plugged"
    config.mkdir()
    (config / "groups.yaml").write_text(GROUPS)
    root = make_link("root")
    signer = make_link("signer", root)
    plug(plugged, [signer], [root], crl=crl_of(root) + crl_of(signer))
    state = tmp_path_factory.mktemp("s")
    options = ControlPlaneOptions(
        config=config, network="explicit", listen=("127.0.0.1", 0), certificates=CertificateOptions(plugged=plugged)
    )
    async with ControlPlane(Settings(state=state), options) as plane:
        stop = asyncio.Event()
        serving = asyncio.create_task(plane.serve(stop))
        port = Port(plane, state)
        query = GroupQuery(namespace="default", name="mine")
        revoked, other = await port.member(), await port.member()
        chains = [chain + pem_of(signer.certificate) for _, chain in (revoked, other)]
        serial = x509.load_pem_x509_certificate(revoked[1]).serial_number
        async with port.channel(key=revoked[0], chain=chains[0]) as channel:
            await ask(channel, ec.generate_private_key(ec.SECP256R1()))
            plug(plugged, [signer], [root], crl=crl_of(root) + crl_of(signer, revoked=[serial]))
            plane.certificates.roots.look_at_plugged()
            with pytest.raises(grpc.aio.AioRpcError, match="client certificate is revoked") as caught:
                await ask(channel, ec.generate_private_key(ec.SECP256R1()))
            assert code(caught) is StatusCode.UNAUTHENTICATED
            with pytest.raises(Refused, match="client certificate is revoked"):
                await ControlClient(channel, timeout=5).group(query)
            stream = channel.stream_stream(f"/{SERVICE}/{DELTA_METHOD}")()
            with pytest.raises(grpc.aio.AioRpcError, match="client certificate is revoked") as caught:
                await stream.read()
            assert code(caught) is StatusCode.UNAUTHENTICATED
        async with port.channel(key=other[0], chain=chains[1]) as channel:
            await ask(channel, ec.generate_private_key(ec.SECP256R1()))
            assert (await ControlClient(channel, timeout=5).group(query)).service_account == "reviews"
        stop.set()
        await serving
    assert f"client certificate {serial:x} is revoked" in [entry.reason for entry in read_audit(state)]
