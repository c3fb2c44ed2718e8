"""Other trust domains by MeshConfig: what is believed, what is told, what survives."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of, uri
from tests.fakes.pki import make_link
from tests.pilot.serving.test_bundle_endpoint import Mesh, serving

from lateen.api.decode import decode_documents
from lateen.fetch import Fetched, Fetcher, FetchError, Guard
from lateen.fetch.guard import parse_networks
from lateen.pilot.serving.bundle_endpoint import FileCertificate, OwnCertificate
from lateen.pilot.serving.federation import KEEP_SECONDS, Federation, endpoint_context
from lateen.wire.memory_tls import server_context
from lateen.wire.spiffe_bundle import Bundle, format_bundle

OWN, OTHER = StrangeAuthority(), StrangeAuthority()
OWN_ROOT, OTHER_ROOT = OWN.root_pem.decode(), OTHER.root_pem.decode()
HEAD = "apiVersion: mesh.istio.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec:\n"
FETCHED = '  caCertificates:\n  - {spiffeBundleUrl: "https://there.example/", trustDomains: [there.example]}\n'


def config(spec: str) -> Any:
    (obj,) = decode_documents((HEAD + spec).encode(), "mesh.yaml").objects
    return obj


class Net:
    """What the endpoint answers."""

    def __init__(self) -> None:
        self.body: bytes | None = format_bundle(Bundle(roots=(OTHER_ROOT,), jwt_keys={}, sequence=5))
        self.asked = 0

    async def get(self, url: str, limits: object, *, tls: object = None) -> Fetched:
        self.asked += 1
        if self.body is None:
            raise FetchError("connect", "nobody answers")
        return Fetched(self.body, "application/json", url)


def make(net: Net, folder: Path, clock: SimpleNamespace) -> Federation:
    made: Any = Federation(
        net,  # type: ignore[arg-type]
        folder / "federation.json",
        "here.example",
        on_change=lambda: None,
        clock=lambda: clock.now,
    )
    return made  # type: ignore[no-any-return]


async def asked(net: Net, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while net.asked < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


async def test_what_was_fetched_survives_restarts_and_ends_after_three_days(tmp_path: Path) -> None:
    net, clock = Net(), SimpleNamespace(now=1000.0)
    first = make(net, tmp_path, clock)
    first.configure(config(FETCHED))
    await asked(net)
    assert first.roots([OWN_ROOT]) == {"here.example": (OWN_ROOT,), "there.example": (OTHER_ROOT,)}
    assert first.problems() == []
    await first.stop()
    net.body = None
    second = make(net, tmp_path, clock)
    second.configure(config(FETCHED))
    assert second.roots([OWN_ROOT])["there.example"] == (OTHER_ROOT,)
    await asked(net, 2)
    (problem,) = second.problems()
    assert "believed until" in problem.message
    clock.now += KEEP_SECONDS
    assert second.roots([OWN_ROOT]) == {"here.example": (OWN_ROOT,)}
    (problem,) = second.problems()
    assert "nobody of these trust domains is believed" in problem.message
    second.configure(None)
    assert second.problems() == []
    await second.stop()


async def test_an_older_bundle_does_not_replace_a_newer(tmp_path: Path) -> None:
    net, clock = Net(), SimpleNamespace(now=1000.0)
    federation = make(net, tmp_path, clock)
    net.body = format_bundle(Bundle(roots=(OTHER_ROOT,), jwt_keys={}, sequence=5, refresh_seconds=1))
    federation.configure(config(FETCHED))
    await asked(net)
    net.body = format_bundle(Bundle(roots=(OWN_ROOT,), jwt_keys={}, sequence=4))
    await asked(net, 2)
    assert federation.roots([OWN_ROOT])["there.example"] == (OTHER_ROOT,)
    assert "older" in federation.problems()[0].message
    await federation.stop()


def test_roots_as_they_are(tmp_path: Path) -> None:
    pem = "".join(f"      {line}\n" for line in OTHER_ROOT.splitlines())
    federation = make(Net(), tmp_path, SimpleNamespace(now=0.0))
    spec = (
        "  trustDomainAliases: [old.example]\n  caCertificates:\n  - trustDomains: [there.example]\n    pem: |\n" + pem
    )
    federation.configure(config(spec))
    assert federation.roots([OWN_ROOT]) == {
        "here.example": (OWN_ROOT,),
        "old.example": (OWN_ROOT,),
        "there.example": (OTHER_ROOT,),
    }
    federation.configure(config('  caCertificates: [{pem: "no"}]\n'))
    assert [problem.field for problem in federation.problems()] == ["spec.caCertificates[0].pem"]


def test_more_roots_than_a_trust_domain_may_have_are_told(tmp_path: Path) -> None:
    pems = [pem_of(make_link(f"r{n}").certificate).decode() for n in range(33)]
    parts = ("".join(pems[:20]), "".join(pems[20:]))
    entries = "".join(
        "  - trustDomains: [there.example]\n    pem: |\n" + "".join(f"      {line}\n" for line in part.splitlines())
        for part in parts
    )
    federation = make(Net(), tmp_path, SimpleNamespace(now=0.0))
    federation.configure(config("  caCertificates:\n" + entries))
    assert federation.roots([OWN_ROOT]) == {"here.example": (OWN_ROOT,)}
    (problem,) = federation.problems()
    assert (problem.level, problem.field) == ("error", "spec.caCertificates")
    assert "nobody of 'there.example' is believed: 33 roots, at most 32 wanted" in problem.message


@pytest.mark.parametrize(
    ("names", "authority", "accepted"),
    [
        (("spiffe://there.example/ep",), OTHER, True),
        (("spiffe://there.example/else",), OTHER, False),
        (("spiffe://there.example/ep", "spiffe://there.example/else"), OTHER, False),
        (("spiffe://there.example/ep",), OWN, False),
        ((), OTHER, False),
    ],
)
async def test_who_may_answer_at_an_endpoint(
    names: tuple[str, ...], authority: StrangeAuthority, accepted: bool
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.certify(key, names=[uri(name) for name in names])
    context = server_context(pem_of(certificate), key_pem(key))
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    client = endpoint_context([OTHER_ROOT], "spiffe://there.example/ep")
    try:
        if accepted:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="x")
            writer.close()
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="x")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("profile", "allowed", "told"),
    [("https_web", "127.0.0.0/8", ""), ("https_spiffe", "127.0.0.0/8", ""), ("https_spiffe", "10.0.0.0/8", "loopback")],
)
async def test_a_real_endpoint_by_each_profile(tmp_path: Path, profile: str, allowed: str, told: str) -> None:
    there = Mesh(tmp_path)
    web = profile == "https_web"
    certificate = FileCertificate(*there.pair("localhost")) if web else OwnCertificate(there.identity)
    who = "" if web else f"spiffeId: {there.identity.spiffe_id}, "
    pem = "".join(there.authority.roots).replace("\n", "\\n")
    fetcher = Fetcher(Guard(allowed=parse_networks([allowed], "--allow-fetch")))
    done = asyncio.Event()
    federation = Federation(fetcher, tmp_path / "f.json", "here.example", on_change=done.set)
    async with serving(there, certificate) as port:
        spec = f'  caCertificates:\n  - spiffeBundleUrl: "https://localhost:{port}/"\n    trustDomains: [a.example]\n'
        federation.configure(config(f'{spec}    endpoint: {{{who}pem: "{pem}"}}\n'))
        done.clear()
        await asyncio.wait_for(done.wait(), 10)
        found = federation.roots([OWN_ROOT])
        await federation.stop()
    if told:
        assert found == {"here.example": (OWN_ROOT,)}
        assert told in federation.problems()[0].message
    else:
        assert federation.problems() == []
        assert found == {"here.example": (OWN_ROOT,), "a.example": there.authority.roots}
        assert federation.jwt_keys() == {"a.example": there.jwts.public_keys}
