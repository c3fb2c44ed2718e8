"""Vault's PKI engine against a real OpenBao over TLS: signing, who we are there, and what goes wrong."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.kube_api import KubeApi
from tests.fakes.openbao import OpenBao
from tests.fakes.ports import free_port

from lateen.citadel.external.check import parse_chain, parse_roots
from lateen.citadel.external.config import AuthorityConfig
from lateen.citadel.external.guard import Guard
from lateen.citadel.external.interface import Order
from lateen.citadel.external.intermediate import IntermediateKeeper
from lateen.citadel.external.issuer import ExternalIssuer, own_csr
from lateen.citadel.external.vault import Vault
from lateen.errors import LateenError, Refused, Unavailable
from lateen.wire.spiffe import SpiffeId

ME = SpiffeId("cluster.local", "default", "reviews")
HOUR = timedelta(hours=1)
KEY = ec.generate_private_key(ec.SECP256R1())
CSR = own_csr(KEY, ME)
RULES = {"+/sign/mesh": ["update"], "+/root/sign-intermediate": ["update"], "auth/token/*": ["read", "update"]}


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Setup:
    """One PKI mount of its own for a test, a configuration that leads there, and the class made from it."""

    bao: OpenBao
    folder: Path
    configured: Callable[[str], AuthorityConfig]
    mount: str = field(default_factory=lambda: f"pki-{secrets.token_hex(4)}")
    clock: Clock = field(default_factory=Clock)
    root: bytes = b""

    def token_file(self, token: str, name: str = "token") -> Path:
        path = self.folder / name
        path.write_text(token + "\n")
        path.chmod(0o600)
        return path

    def config(self, auth: str, extra: str = "", mode: str = "leaf") -> AuthorityConfig:
        return self.configured(f"""
kind: vault
mode: {mode}
parameters:
  address: {self.bao.url}
  caFile: {self.bao.ca_file}
  mount: {self.mount}
  role: mesh
  auth: {auth}
  {extra}
""")

    def vault(self, auth: str = "", extra: str = "") -> Vault:
        config = self.config(auth or f"{{token: {{file: {self.token_file(self.bao.root_token)}}}}}", extra)
        return Vault(config.parameters, config.context, self.clock)  # type: ignore[arg-type]

    def issuer(self, vault: Vault) -> ExternalIssuer:
        guard = Guard(vault, name="vault", timeout=timedelta(seconds=8), concurrency=4)
        return ExternalIssuer(guard, "cluster.local", parse_roots(self.root, datetime.now(UTC)))


@pytest.fixture
def setup(bao: OpenBao, tmp_path: Path, configured: Callable[[str], AuthorityConfig]) -> Setup:
    made = Setup(bao, tmp_path, configured)
    made.root = bao.make_pki(made.mount)
    bao.policy("mesh", RULES)
    return made


def leaf_of(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def uris(leaf: x509.Certificate) -> list[str]:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


# ---------------------------------------------------------------- signing


@pytest.mark.parametrize(
    ("use_csr_sans", "csr"),
    [
        pytest.param(False, own_csr(KEY, ME), id="names from the call"),
        pytest.param(True, own_csr(KEY, ME), id="names from the CSR"),
        pytest.param(False, own_csr(KEY), id="a CSR without names"),
    ],
)
async def test_a_workloads_certificate(setup: Setup, use_csr_sans: bool, csr: bytes) -> None:
    setup.bao.set_role(setup.mount, {"use_csr_sans": use_csr_sans})
    issued = await setup.issuer(setup.vault()).issue(csr, ME, HOUR)
    leaf = leaf_of(issued.leaf)
    assert uris(leaf) == [str(ME)]
    assert leaf.public_key() == KEY.public_key()
    leaf.verify_directly_issued_by(leaf_of(setup.root))
    assert issued.chain == ()
    assert parse_chain(issued.root) == parse_chain(setup.root)
    assert timedelta(minutes=59) < issued.not_after - datetime.now(UTC) < timedelta(minutes=61)


async def test_a_role_that_takes_names_from_a_csr_without_any_is_caught(setup: Setup) -> None:
    setup.bao.set_role(setup.mount, {"use_csr_sans": True})
    with pytest.raises(Unavailable, match="must not be used: it has no subjectAltName"):
        await setup.issuer(setup.vault()).issue(own_csr(KEY), ME, HOUR)


async def test_the_control_planes_own_certificate(setup: Setup) -> None:
    names = ("pilot.lateen.local",)
    issued = await setup.issuer(setup.vault()).issue(own_csr(KEY, ME, names), ME, HOUR, names)
    found = leaf_of(issued.leaf).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["pilot.lateen.local"]


async def test_many_at_once(setup: Setup) -> None:
    issuer = setup.issuer(setup.vault())
    issued = await asyncio.gather(*(issuer.issue(CSR, ME, HOUR) for _ in range(40)))
    assert len({one.serial for one in issued}) == 40
    assert issuer.issued == 40


async def test_an_intermediate_and_what_it_signs(setup: Setup, tmp_path: Path) -> None:
    guard = Guard(setup.vault(), name="vault", timeout=timedelta(seconds=8), concurrency=4)
    roots = parse_roots(setup.root, datetime.now(UTC))
    keeper = IntermediateKeeper(guard, roots, tmp_path, lifetime=timedelta(days=30))
    got = await keeper.obtain()
    constraints = got.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert got.certificate.subject.rfc4514_string() == "CN=Lateen cluster.local,O=cluster.local"
    got.certificate.verify_directly_issued_by(roots[0])
    with pytest.raises(x509.ExtensionNotFound):
        got.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    life = got.certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < life <= timedelta(days=30)


async def test_an_issuer_below_an_offline_root(setup: Setup) -> None:
    """The Vault has an intermediate; its chain leads to a root that another mount keeps."""
    bao, inner = setup.bao, f"{setup.mount}-int"
    bao.call("POST", f"sys/mounts/{inner}", {"type": "pki", "config": {"max_lease_ttl": "8760h"}})
    made = bao.call("POST", f"{inner}/intermediate/generate/internal", {"common_name": "below", "key_type": "ec"})
    body = {"csr": made["data"]["csr"], "common_name": "below", "ttl": "4000h", "format": "pem"}
    signed = bao.call("POST", f"{setup.mount}/root/sign-intermediate", body)["data"]["certificate"]
    bao.call("POST", f"{inner}/intermediate/set-signed", {"certificate": signed + "\n" + setup.root.decode()})
    bao.set_role(inner, {})
    setup.mount = inner
    for extra in ("", "issuer: default"):
        vault = setup.vault(extra=extra)
        roots = await vault.roots()
        assert roots is not None
        assert parse_chain(roots) == parse_chain(setup.root)
        issued = await setup.issuer(vault).issue(CSR, ME, HOUR)
        assert [leaf_of(pem).subject.rfc4514_string() for pem in issued.chain] == ["CN=below"]
        pem = await vault.sign(Order(profile="intermediate", csr=own_csr(KEY), lifetime=timedelta(days=1)))
        assert len(parse_chain(pem)) == 3


async def test_a_namespace(bao: OpenBao, setup: Setup) -> None:
    name = f"team-{secrets.token_hex(4)}"
    bao.call("POST", f"sys/namespaces/{name}", {})
    setup.mount = "inside"
    setup.root = bao.make_pki("inside", namespace=name)
    issued = await setup.issuer(setup.vault(extra=f"namespace: {name}")).issue(CSR, ME, HOUR)
    leaf_of(issued.leaf).verify_directly_issued_by(leaf_of(setup.root))
    with pytest.raises(Refused, match="inside/sign/mesh: status 404"):
        await setup.vault().sign(order())


def order(csr: bytes = CSR) -> Order:
    return Order(profile="leaf", csr=csr, lifetime=HOUR, spiffe_id=ME)


# ---------------------------------------------------------------- who we are there


async def test_a_tokens_lease_is_renewed_before_it_ends(setup: Setup) -> None:
    token = setup.bao.token("mesh", ttl="60s", renewable=True)
    vault = setup.vault(f"{{token: {{file: {setup.token_file(token)}}}}}")
    await vault.sign(order())
    session = vault._session
    assert (session.logins, session.renewals) == (1, 0)
    assert 38 <= session.due_in() <= 40
    setup.clock.now = 39
    await vault.sign(order())
    assert session.renewals == 0
    setup.clock.now = 41
    await vault.sign(order())
    assert (session.logins, session.renewals) == (1, 1)
    assert session.due_in() == 40.0
    ttl = setup.bao.call("GET", "auth/token/lookup-self", token=token)["data"]["ttl"]
    assert ttl >= 59


async def test_a_token_that_is_replaced_in_its_file_is_used(setup: Setup) -> None:
    first, second = setup.bao.token("mesh"), setup.bao.token("mesh")
    path = setup.token_file(first)
    vault = setup.vault(f"{{token: {{file: {path}}}}}")
    await vault.sign(order())
    setup.bao.call("POST", "auth/token/revoke", {"token": first})
    with pytest.raises(Refused, match="status 403"):
        await vault.sign(order())
    path.write_text(second)
    await vault.sign(order())


async def test_app_role(setup: Setup) -> None:
    bao, path = setup.bao, f"approle-{secrets.token_hex(4)}"
    bao.call("POST", f"sys/auth/{path}", {"type": "approle"})
    settings = {"token_policies": "mesh", "token_ttl": "60s", "token_max_ttl": "90s"}
    bao.call("POST", f"auth/{path}/role/lateen", settings)
    role_id = bao.call("GET", f"auth/{path}/role/lateen/role-id")["data"]["role_id"]

    def new_secret() -> str:
        made: str = bao.call("POST", f"auth/{path}/role/lateen/secret-id", {})["data"]["secret_id"]
        return made

    secret_file = setup.token_file(new_secret(), "secret-id")
    role_file = setup.token_file(role_id, "role-id")
    vault = setup.vault(f"{{appRole: {{path: {path}, roleIdFile: {role_file}, secretIdFile: {secret_file}}}}}")
    await vault.sign(order())
    session = vault._session
    setup.clock.now = 41
    await vault.sign(order())
    assert (session.logins, session.renewals) == (1, 1)

    # The token is revoked behind our back: one more login, and the order is signed all the same.
    held = await session.token()
    setup.clock.now = 50
    bao.call("POST", "auth/token/revoke", {"token": held})
    await vault.sign(order())
    assert session.logins == 2

    # The secret ID is destroyed and replaced in its file: nothing is restarted.
    bao.call("POST", f"auth/{path}/role/lateen/secret-id/destroy", {"secret_id": secret_file.read_text().strip()})
    bao.call("POST", "auth/token/revoke", {"token": await session.token()})
    setup.clock.now = 60
    with pytest.raises(Refused) as caught:
        await vault.sign(order())
    assert f"auth/{path}/login: status 400: invalid" in str(caught.value)
    assert secret_file.read_text().strip() not in str(caught.value)
    setup.token_file(new_secret(), "secret-id")
    await vault.sign(order())


async def test_a_token_at_the_end_of_its_longest_life_is_replaced_in_time(setup: Setup) -> None:
    bao, path = setup.bao, f"approle-{secrets.token_hex(4)}"
    bao.call("POST", f"sys/auth/{path}", {"type": "approle"})
    # Renewing cannot make it live longer: the lease that comes back ends when the old one did.
    settings = {"token_policies": "mesh", "token_ttl": "60s", "token_max_ttl": "60s"}
    bao.call("POST", f"auth/{path}/role/lateen", settings)
    role_id = bao.call("GET", f"auth/{path}/role/lateen/role-id")["data"]["role_id"]
    secret = bao.call("POST", f"auth/{path}/role/lateen/secret-id", {})["data"]["secret_id"]
    files = f"roleIdFile: {setup.token_file(role_id, 'role-id')}, secretIdFile: {setup.token_file(secret, 'secret-id')}"
    vault = setup.vault(f"{{appRole: {{path: {path}, {files}}}}}")
    first = await vault._session.token()
    setup.clock.now = 41  # of our clock; the server's says that hardly a second has gone by
    second = await vault._session.token()
    assert vault._session.renewals == 1
    assert (first == second) == (vault._session.logins == 1)
    await vault.sign(order())


async def test_kubernetes_auth(setup: Setup, kube: KubeApi) -> None:
    """OpenBao asks the cluster whose token it is; the cluster is the test's."""
    bao, path = setup.bao, f"kube-{secrets.token_hex(4)}"
    bao.call("POST", f"sys/auth/{path}", {"type": "kubernetes"})
    config = {
        "kubernetes_host": kube.url,
        "kubernetes_ca_cert": kube.ca_file.read_text(),
        "token_reviewer_jwt": kube.token,
        "disable_local_ca_jwt": True,
    }
    bao.call("POST", f"auth/{path}/config", config)
    role = {"bound_service_account_names": "lateen", "bound_service_account_namespaces": "istio-system"}
    bao.call("POST", f"auth/{path}/role/lateen", {**role, "token_policies": "mesh", "token_ttl": "60s"})
    jwt = _jwt("istio-system", "lateen")
    kube.accounts[jwt] = "istio-system:lateen"
    token_file = setup.token_file(jwt, "jwt")
    vault = setup.vault(f"{{kubernetes: {{path: {path}, role: lateen, tokenFile: {token_file}}}}}")
    await vault.sign(order())
    assert vault.describe()["auth"] == "kubernetes"

    other = _jwt("default", "intruder")
    kube.accounts[other] = "default:intruder"
    token_file.write_text(other)
    stranger = setup.vault(f"{{kubernetes: {{path: {path}, role: lateen, tokenFile: {token_file}}}}}")
    with pytest.raises(Refused) as caught:
        await stranger.sign(order())
    assert f"auth/{path}/login: status" in str(caught.value)
    assert other not in str(caught.value)


def _jwt(namespace: str, account: str) -> str:
    """Return what looks like a service account's token; who it is of, the cluster decides."""
    import base64
    import json

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/service-account.name": account,
        "kubernetes.io/serviceaccount/service-account.uid": f"uid-{account}",
        "sub": f"system:serviceaccount:{namespace}:{account}",
    }
    return f"{part({'alg': 'RS256'})}.{part(claims)}.{part('signature')}"


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("changes", "csr", "told"),
    [
        pytest.param({"allowed_uri_sans": "spiffe://other/*"}, CSR, "not valid for this role", id="identity"),
        pytest.param({"key_type": "rsa", "key_bits": 2048}, CSR, "role requires keys of type rsa", id="key"),
    ],
)
async def test_what_the_role_forbids(setup: Setup, changes: dict[str, Any], csr: bytes, told: str) -> None:
    setup.bao.set_role(setup.mount, changes)
    with pytest.raises(Refused) as caught:
        await setup.vault().sign(order(csr))
    assert f"{setup.mount}/sign/mesh: status 400" in str(caught.value)
    assert told in str(caught.value)


async def test_a_token_that_may_not_sign(setup: Setup) -> None:
    setup.bao.policy("nothing", {"sys/none": ["read"], "auth/token/lookup-self": ["read"]})
    token = setup.bao.token("nothing")
    vault = setup.vault(f"{{token: {{file: {setup.token_file(token)}}}}}")
    for _ in range(3):
        with pytest.raises(Refused, match=r"sign/mesh: status 403: .*permission denied"):
            await vault.sign(order())
    # It is asked for the token once, not with each order.
    assert vault._session.logins == 1


async def test_tls_is_verified(setup: Setup, tmp_path: Path) -> None:
    vault = setup.vault()
    vault._http._ca_file = tmp_path / "other.pem"
    vault._http._ca_file.write_bytes(setup.root)
    with pytest.raises(Unavailable, match="certificate not accepted"):
        await vault.sign(order())
    vault._http._ca_file = tmp_path / "absent.pem"
    with pytest.raises(Unavailable, match=r"absent\.pem cannot be read to verify https://127"):
        await vault.sign(order())
    named = setup.vault(extra="serverName: vault.example")
    with pytest.raises(Unavailable, match=r"certificate not accepted: Hostname mismatch"):
        await named.sign(order())


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        pytest.param("s.abc", 0o604, "mode 0604 lets everyone read a secret", id="open"),
        pytest.param("", 0o600, "one line of text wanted", id="empty"),
        pytest.param("a\nX-Evil: 1", 0o600, "one line of text wanted", id="two lines"),
        pytest.param(None, 0o600, "cannot be read: No such file", id="absent"),
    ],
)
async def test_files_of_secrets(setup: Setup, content: str | None, mode: int, told: str) -> None:
    path = setup.token_file(content or "x")
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(Unavailable) as caught:
        await setup.vault(f"{{token: {{file: {path}}}}}").sign(order())
    assert str(path) in str(caught.value)
    assert told in str(caught.value)
    assert "s.abc" not in str(caught.value)


async def test_nothing_that_is_told_holds_the_token(setup: Setup, bao: OpenBao) -> None:
    vault = setup.vault()
    said = [repr(vault), repr(vault._session), repr(vault._session.__dict__), str(vault.describe())]
    setup.bao.set_role(setup.mount, {"allowed_uri_sans": "spiffe://other/*"})
    try:
        await vault.sign(order())
    except LateenError as error:
        said.append(str(error))
    said.append(repr(vault._session.__dict__))
    assert len(said) == 6
    assert not any(bao.root_token in text for text in said)


async def test_an_outage_and_the_way_back(tmp_path: Path, configured: Callable[[str], AuthorityConfig]) -> None:
    """Stopped, started but sealed, unsealed: each has its own words, and no restart of ours is needed."""
    bao = OpenBao(tmp_path, free_port())
    bao.start()
    try:
        setup = Setup(bao, tmp_path, configured)
        setup.root = bao.make_pki(setup.mount)
        vault = setup.vault()
        issuer = setup.issuer(vault)
        await issuer.issue(CSR, ME, HOUR)
        bao.stop()
        with pytest.raises(Unavailable, match=f"vault cannot sign now: {bao.url}: Connect call failed|refused"):
            await issuer.issue(CSR, ME, HOUR)
        bao.launch()
        with pytest.raises(Unavailable, match=r"status 503: .*sealed"):
            await issuer.issue(CSR, ME, HOUR)
        bao.unseal()
        await issuer.issue(CSR, ME, HOUR)
        assert issuer.issued == 2
        bao.pause()
        vault._http._timeout = 0.2
        with pytest.raises(Unavailable, match=r"gave no answer within 0\.2 s"):
            await issuer.issue(CSR, ME, HOUR)
        bao.resume()
    finally:
        bao.stop()
