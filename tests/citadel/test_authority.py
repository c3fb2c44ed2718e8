"""The authority as its callers see it."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store
from tests.fakes.certs import START, ManualClock, p256_csr

from lateen.citadel.authority import Authority, LocalSigner, new_serial
from lateen.citadel.store import CERTIFICATE_FILE, KEY_FILE
from lateen.citadel.template import build_root
from lateen.errors import BadInput, Refused, Unavailable
from lateen.wire.spiffe import SpiffeId
from lateen.wire.svid import read_certificate

IDENTITY = SpiffeId("cluster.local", "default", "reviews")
DAY = timedelta(hours=24)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authority(tmp_path: Path, clock: ManualClock) -> Authority:
    return Authority.load_or_create(tmp_path / "ca", "cluster.local", clock)


def test_issued_chain(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue(p256_csr(key=key), IDENTITY, DAY)
    leaf, root = x509.load_pem_x509_certificate(issued.leaf), x509.load_pem_x509_certificate(issued.root)
    leaf.verify_directly_issued_by(root)
    assert leaf.public_key() == key.public_key()
    assert issued.pems == (issued.leaf, issued.root)
    assert issued.root == authority.root_pem
    assert issued.serial == f"{leaf.serial_number:x}"
    assert (issued.not_before, issued.not_after) == (START - timedelta(minutes=15), START + DAY)
    assert read_certificate(issued.leaf).spiffe_id == IDENTITY
    assert authority.issued == 1


def test_openssl_agrees(authority: Authority, tmp_path: Path, clock: ManualClock) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    issued = authority.issue(p256_csr(), IDENTITY, DAY)
    (tmp_path / "leaf").write_bytes(issued.leaf)
    (tmp_path / "root").write_bytes(issued.root)
    for purpose in ("sslclient", "sslserver"):
        command = ["openssl", "verify", "-x509_strict", "-attime", str(int(clock().timestamp())), "-purpose", purpose]
        files = ["-CAfile", str(tmp_path / "root"), str(tmp_path / "leaf")]
        done = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_root_outlives_the_process(authority: Authority, tmp_path: Path, clock: ManualClock) -> None:
    again = Authority.load_or_create(tmp_path / "ca", "cluster.local", clock)
    assert (authority.created, again.created) == (True, False)
    assert again.root_pem == authority.root_pem
    assert again.root_not_after == START + timedelta(days=3650)
    leaf = x509.load_pem_x509_certificate(again.issue(p256_csr(), IDENTITY, DAY).leaf)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.root_pem))


def test_serials_are_large_and_differ() -> None:
    serials = {new_serial() for _ in range(1000)}
    assert len(serials) == 1000
    assert min(serials) > 0
    assert max(serials) < 2**128
    assert max(serials) > 2**120


@pytest.mark.parametrize(
    ("identity", "lifetime", "error", "message"),
    [
        pytest.param(SpiffeId("other", "a", "b"), DAY, Refused, "not of trust domain 'cluster.local'", id="domain"),
        pytest.param(IDENTITY, timedelta(0), BadInput, "at least one second", id="no-lifetime"),
        pytest.param(IDENTITY, -DAY, BadInput, "at least one second", id="negative-lifetime"),
    ],
)
def test_refused(
    authority: Authority, identity: SpiffeId, lifetime: timedelta, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        authority.issue(p256_csr(), identity, lifetime)
    assert authority.issued == 0


def test_no_leaf_outlives_the_root(authority: Authority, clock: ManualClock) -> None:
    clock.advance(timedelta(days=3650) - timedelta(hours=1))
    issued = authority.issue(p256_csr(), IDENTITY, DAY)
    assert issued.not_after == authority.root_not_after == clock() + timedelta(hours=1)


@pytest.mark.parametrize("moved", [timedelta(days=3650), timedelta(days=4000), timedelta(days=-1)])
def test_an_expired_root_signs_nothing(authority: Authority, clock: ManualClock, moved: timedelta) -> None:
    clock.advance(moved)
    with pytest.raises(Unavailable, match="signing certificate holds from"):
        authority.issue(p256_csr(), IDENTITY, DAY)


def test_ten_second_certificates(authority: Authority, clock: ManualClock) -> None:
    issued = authority.issue(p256_csr(), IDENTITY, timedelta(seconds=10))
    assert issued.not_before == START - timedelta(seconds=1)
    assert issued.not_after == START + timedelta(seconds=10)


def test_trust_domain_is_checked_before_a_root_is_made(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="trust domain 'Not/One'"):
        Authority.load_or_create(tmp_path / "ca", "Not/One")
    assert list(tmp_path.iterdir()) == []


class FaultySigner(LocalSigner):
    """A signer in somebody else's hands that gives back whatever it likes: here, always the same certificate."""

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return self.certificate


def test_what_a_faulty_signer_gives_goes_to_nobody(clock: ManualClock) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    root = build_root(key.public_key(), "cluster.local", START, 1).sign(key, hashes.SHA256())
    authority = Authority(FaultySigner(root, key), "cluster.local", clock)
    with pytest.raises(Unavailable, match="must not be used"):
        authority.issue(p256_csr(), IDENTITY, DAY)
    assert authority.issued == 0


def test_no_secret_shows(authority: Authority, tmp_path: Path) -> None:
    secret = (tmp_path / "ca" / KEY_FILE).read_text().splitlines()[1]
    signer = authority.signer
    for shown in (
        repr(authority),
        repr(signer),
        repr(vars(authority)),
        repr(authority.issue(p256_csr(), IDENTITY, DAY)),
    ):
        assert secret[:20] not in shown
        assert "PRIVATE" not in shown
    assert "key=" not in repr(signer)
    assert (tmp_path / "ca" / CERTIFICATE_FILE).read_bytes() == authority.root_pem


@pytest.mark.parametrize(
    "skew", [timedelta(minutes=-10), timedelta(0), timedelta(minutes=10)], ids=["behind", "right", "ahead"]
)
def test_a_verifier_whose_clock_is_off_takes_a_fresh_certificate(tmp_path: Path, skew: timedelta) -> None:
    now = datetime.now(UTC)
    authority = Authority.load_or_create(tmp_path / "ca", "cluster.local", lambda: now)
    issued = authority.issue(p256_csr(), SpiffeId("cluster.local", "a", "b"), timedelta(hours=24))
    verifier = PolicyBuilder().store(Store(x509.load_pem_x509_certificates(authority.root_pem))).time(now + skew)
    verified = verifier.build_client_verifier().verify(x509.load_pem_x509_certificate(issued.leaf), [])
    assert verified.subjects == [x509.UniformResourceIdentifier("spiffe://cluster.local/ns/a/sa/b")]
