"""Secrets over SDS: what a stream is sent and when, by both variants, and files that rules name."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

from lateen.agent.identity import Svid
from lateen.agent.sds import SERVICE, DeltaSubscription, SdsServer, SotwSubscription
from lateen.agent.secret_store import SecretStore
from lateen.wire.spiffe import SpiffeId

SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


def make_svid(number: int = 1, roots: bytes = b"ROOTS") -> Svid:
    return Svid(
        spiffe_id=SpiffeId("cluster.local", "default", "reviews"),
        serial=str(number),
        not_before=datetime(2026, 1, 1, tzinfo=UTC),
        not_after=datetime(2026, 1, 2, tzinfo=UTC),
        chain=b"CHAIN%d" % number,
        roots=roots,
        key=b"KEY%d" % number,
    )


def sotw(*names: str, nonce: str = "", error: str = "") -> bytes:
    request = DiscoveryRequest(resource_names=names, type_url=SECRET, response_nonce=nonce)
    request.node.id = "sidecar~1.2.3.4~a.b~c"
    if error:
        request.error_detail.message = error
    return bytes(request.SerializeToString())


def delta(*names: str, gone: tuple[str, ...] = (), **fields: Any) -> bytes:
    return bytes(
        DeltaDiscoveryRequest(
            resource_names_subscribe=names, resource_names_unsubscribe=gone, type_url=SECRET, **fields
        ).SerializeToString()
    )


def secrets_in(responses: list[bytes]) -> list[Secret]:
    found = []
    for data in responses:
        response = DiscoveryResponse.FromString(data)
        assert response.type_url == SECRET
        for resource in response.resources:
            secret = Secret()
            assert resource.Unpack(secret)
            found.append(secret)
    return found


def test_sotw_is_sent_what_it_asks_for_once_it_exists(log: Any) -> None:
    store = SecretStore(log)
    stream = SotwSubscription()
    assert stream.on_request(sotw("default")) == ""
    assert list(stream.responses(store)) == []
    store.set_svid(make_svid())
    sent = list(stream.responses(store))
    (secret,) = secrets_in(sent)
    assert secret.name == "default"
    assert secret.tls_certificate.certificate_chain.inline_bytes == b"CHAIN1"
    assert secret.tls_certificate.private_key.inline_bytes == b"KEY1"
    nonce = DiscoveryResponse.FromString(sent[0]).nonce
    assert stream.on_request(sotw("default", nonce=nonce)) == ""
    assert list(stream.responses(store)) == []


def test_sotw_rotation_sends_only_what_changed(log: Any) -> None:
    store = SecretStore(log)
    store.set_svid(make_svid())
    streams = {name: SotwSubscription() for name in ("default", "ROOTCA")}
    for name, stream in streams.items():
        stream.on_request(sotw(name))
        assert [secret.name for secret in secrets_in(list(stream.responses(store)))] == [name]
    store.set_svid(make_svid(2))
    assert [s.tls_certificate.private_key.inline_bytes for s in secrets_in([*streams["default"].responses(store)])] == [
        b"KEY2"
    ]
    assert list(streams["ROOTCA"].responses(store)) == []
    store.set_svid(make_svid(2, roots=b"NEW"))
    (roots,) = secrets_in(list(streams["ROOTCA"].responses(store)))
    assert roots.validation_context.trusted_ca.inline_bytes == b"NEW"


def test_sotw_refusal_is_told_and_not_sent_again(log: Any) -> None:
    store = SecretStore(log)
    store.set_svid(make_svid())
    stream = SotwSubscription()
    stream.on_request(sotw("default"))
    (sent,) = stream.responses(store)
    nonce = DiscoveryResponse.FromString(sent).nonce
    assert stream.on_request(sotw("default", nonce=nonce, error="bad key")) == "bad key"
    assert list(stream.responses(store)) == []
    store.set_svid(make_svid(2))
    assert len(list(stream.responses(store))) == 1


def test_sotw_stale_nonce_changes_nothing(log: Any) -> None:
    store = SecretStore(log)
    store.set_svid(make_svid())
    stream = SotwSubscription()
    stream.on_request(sotw("default"))
    assert len(list(stream.responses(store))) == 1
    stream.on_request(sotw("ROOTCA", nonce="99"))
    assert list(stream.responses(store)) == []


def test_delta_subscribes_unsubscribes_and_resumes(log: Any) -> None:
    store = SecretStore(log)
    store.set_svid(make_svid())
    stream = DeltaSubscription()
    stream.on_request(delta("default", "ROOTCA", "nonsense"))
    (sent,) = stream.responses(store)
    response = DeltaDiscoveryResponse.FromString(sent)
    held = {resource.name: resource.version for resource in response.resources}
    assert set(held) == {"default", "ROOTCA"}
    stream.on_request(delta(gone=("ROOTCA",), response_nonce=response.nonce))
    store.set_svid(make_svid(2, roots=b"NEW"))
    (sent,) = stream.responses(store)
    assert [resource.name for resource in DeltaDiscoveryResponse.FromString(sent).resources] == ["default"]

    resumed = DeltaSubscription()
    resumed.on_request(delta("default", "ROOTCA", initial_resource_versions=held))
    (sent,) = resumed.responses(store)
    assert [resource.name for resource in DeltaDiscoveryResponse.FromString(sent).resources] == ["default", "ROOTCA"]
    store.set_svid(make_svid(1))
    again = DeltaSubscription()
    again.on_request(delta("default", initial_resource_versions=held))
    assert list(again.responses(store)) == []


def test_files_that_rules_name(log: Any, tmp_path: Path) -> None:
    chain, key, roots = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "roots.pem"
    for path in (chain, key, roots):
        path.write_text(f"-----BEGIN {path.stem}-----\n")
    store = SecretStore(log)
    stream = SotwSubscription()
    stream.on_request(sotw(f"file-cert:{chain}~{key}", f"file-root:{roots}", "file-root:system"))
    names = [secret.name for secret in secrets_in(list(stream.responses(store)))]
    assert names[:2] == [f"file-cert:{chain}~{key}", f"file-root:{roots}"]


@pytest.mark.parametrize("name", ["file-cert:/one", "file-root:", "file-root:/nowhere", "file-root:a\0b", "file-x"])
def test_files_that_cannot_be_read_are_told_once(log: Any, name: str) -> None:
    store = SecretStore(log)
    assert store.get(name) is None
    assert store.get(name) is None
    assert len(log.said("secret not read")) == 1


def test_no_other_file_is_given_away(log: Any, tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0\n")
    assert SecretStore(log).get(f"file-root:{path}") is None


async def test_a_changed_file_is_sent_again(log: Any, tmp_path: Path, until: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lateen.agent.secret_store.LOOK_SECONDS", 0.01)
    path = tmp_path / "roots.pem"
    path.write_text("-----BEGIN ONE-----\n")
    store = SecretStore(log)
    first = store.get(f"file-root:{path}")
    task = asyncio.create_task(store.run())
    path.write_text("-----BEGIN ANOTHER-----\n")
    await until(lambda: store.get(f"file-root:{path}") != first)
    second = store.get(f"file-root:{path}")
    path.write_text("half written")
    await until(lambda: log.said("secret not read"))
    assert store.get(f"file-root:{path}") == second
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Client:
    """One SDS stream over the socket."""

    def __init__(self, path: Path, method: str = "StreamSecrets") -> None:
        self.channel = grpc.aio.insecure_channel(f"unix:{path}")
        self.call = self.channel.stream_stream(f"/{SERVICE}/{method}")()

    async def read(self) -> Any:
        return await asyncio.wait_for(self.call.read(), 5)


async def test_over_grpc(log: Any, tmp_path: Path) -> None:
    store = SecretStore(log)
    server = SdsServer(store, tmp_path / "sds.sock", log)
    await server.start()
    assert (tmp_path / "sds.sock").stat().st_mode & 0o777 == 0o600
    one, other = Client(tmp_path / "sds.sock"), Client(tmp_path / "sds.sock", "DeltaSecrets")
    await one.call.write(sotw("default"))
    await other.call.write(delta("ROOTCA"))
    store.set_svid(make_svid())
    assert [secret.name for secret in secrets_in([await one.read()])] == ["default"]
    assert [r.name for r in DeltaDiscoveryResponse.FromString(await other.read()).resources] == ["ROOTCA"]
    store.set_svid(make_svid(2))
    assert secrets_in([await one.read()])[0].tls_certificate.certificate_chain.inline_bytes == b"CHAIN2"

    garbage = Client(tmp_path / "sds.sock")
    await garbage.call.write(b"\xff\xff\xff garbage")
    with pytest.raises(grpc.aio.AioRpcError, match="no discovery request"):
        await garbage.read()
    store.set_svid(make_svid(3))  # others go on
    assert secrets_in([await one.read()])[0].tls_certificate.certificate_chain.inline_bytes == b"CHAIN3"

    await server.stop()  # ends the streams in order
    assert await one.read() is grpc.aio.EOF
    assert not (tmp_path / "sds.sock").exists()
    for client in (one, other, garbage):
        await client.channel.close()
