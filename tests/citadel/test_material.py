"""What may be plugged in: both layouts, and every fault refused with the file that has it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.fakes.certs import key_pem, p256_csr, pem_of
from tests.fakes.pki import DAY, Link, crl_of, make_link, plug

from lateen.citadel.authority import Authority
from lateen.citadel.material import load_material
from lateen.errors import BadInput, Expired
from lateen.wire.spiffe import SpiffeId

TD = "cluster.local"

ROOT = make_link("root")
OTHER = make_link("other root")
MIDDLE = make_link("middle", ROOT, path_length=1)
SIGNER = make_link("signer", MIDDLE, path_length=0)
BELOW_ROOT = make_link("below", ROOT)


def now() -> datetime:
    # Not once for all: what tests make themselves begins when they make it.
    return datetime.now(UTC)


@pytest.mark.parametrize("layout", ["istio", "kubernetes"])
@pytest.mark.parametrize(
    ("way", "roots"),
    [
        pytest.param([SIGNER, MIDDLE], [ROOT], id="two intermediates"),
        pytest.param([BELOW_ROOT], [ROOT, OTHER], id="two roots"),
        pytest.param([ROOT], [ROOT], id="the root itself"),
    ],
)
def test_a_whole_set_is_taken_and_signs(tmp_path: Path, layout: str, way: list[Link], roots: list[Link]) -> None:
    plug(tmp_path / "ca", way, roots, layout=layout)
    material = load_material(tmp_path / "ca", now(), TD)
    assert material.certificate == way[0].certificate
    assert material.root == ROOT.certificate
    assert set(material.roots) == {root.certificate for root in roots}
    issued = Authority(material, TD).issue(p256_csr(), SpiffeId(TD, "a", "b"), timedelta(hours=1))
    links = [x509.load_pem_x509_certificate(pem) for pem in (issued.leaf, *issued.chain)]
    for link, above in zip(links, [*links[1:], ROOT.certificate], strict=True):
        link.verify_directly_issued_by(above)
    assert secret_of(way[0]) not in repr(material)


@pytest.mark.parametrize("kind", [ec.SECP384R1(), 2048, 4096], ids=["p384", "rsa2048", "rsa4096"])
def test_other_keys_sign(tmp_path: Path, kind: ec.EllipticCurve | int) -> None:
    key = rsa.generate_private_key(65537, kind) if isinstance(kind, int) else ec.generate_private_key(kind)
    root = make_link("root", key=key)
    plug(tmp_path / "ca", [root], [root])
    material = load_material(tmp_path / "ca", now(), TD)
    issued = Authority(material, TD).issue(p256_csr(), SpiffeId(TD, "a", "b"), timedelta(hours=1))
    x509.load_pem_x509_certificate(issued.leaf).verify_directly_issued_by(root.certificate)


def secret_of(link: Link) -> str:
    return key_pem(link.key).decode().splitlines()[1]


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def holding(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data)


def mode(name: str, bits: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).chmod(bits)


@pytest.mark.parametrize(
    ("harm", "file", "words"),
    [
        pytest.param(without("ca-key.pem"), "ca-key.pem", "is missing; the whole set is wanted", id="no key"),
        pytest.param(without("cert-chain.pem"), "cert-chain.pem", "is missing", id="no chain"),
        pytest.param(without("root-cert.pem"), "root-cert.pem", "is missing", id="no roots"),
        pytest.param(holding("ca-key.pem", key_pem(OTHER.key)), "ca-key.pem", "does not belong to", id="other key"),
        pytest.param(
            holding("ca-key.pem", b"no key"), "ca-key.pem", "cannot be read as a private key", id="garbage key"
        ),
        pytest.param(mode("ca-key.pem", 0o644), "ca-key.pem", "mode 0644 lets others in", id="open key"),
        pytest.param(mode("ca-cert.pem", 0o666), "ca-cert.pem", "others may write it", id="open certificate"),
        pytest.param(mode(".", 0o777), "", "lets others put files there", id="open folder"),
        pytest.param(
            holding("ca-cert.pem", b"-----BEGIN"), "ca-cert.pem", "cannot be read as certificates", id="garbage"
        ),
        pytest.param(
            holding("root-cert.pem", pem_of(OTHER.certificate)), "ca-cert.pem", "is not signed by any", id="root"
        ),
        pytest.param(holding("cert-chain.pem", b""), "ca-cert.pem", "is not signed by any", id="chain"),
        pytest.param(
            holding("root-cert.pem", b""), "root-cert.pem", "cannot be read as certificates", id="empty roots"
        ),
        pytest.param(holding("ca-crl.pem", crl_of(ROOT)), "ca-crl.pem", "no revocation list of", id="half a crl"),
        pytest.param(
            holding("ca-crl.pem", b"-----END X509 CRL-----"), "ca-crl.pem", "cannot be read", id="garbage crl"
        ),
    ],
)
def test_a_faulty_set_is_refused_with_its_file(
    tmp_path: Path, harm: Callable[[Path], None], file: str, words: str
) -> None:
    folder = tmp_path / "ca"
    plug(folder, [SIGNER, MIDDLE], [ROOT])
    assert load_material(folder, now(), TD)
    harm(folder)
    with pytest.raises(BadInput, match=words) as caught:
        load_material(folder, now(), TD)
    assert str(folder / file) in str(caught.value)
    assert secret_of(SIGNER) not in str(caught.value)


def constrained(*names: str) -> tuple[x509.ExtensionType, bool]:
    subtrees = [x509.UniformResourceIdentifier(name) for name in names]
    return x509.NameConstraints(permitted_subtrees=subtrees, excluded_subtrees=None), True


CLIENTS_ONLY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])


@pytest.mark.parametrize(
    ("way", "words"),
    [
        pytest.param([make_link("leaf", ROOT, authority=False)], "no certificate of an authority", id="leaf"),
        pytest.param(
            [make_link("s", make_link("m", ROOT, path_length=0)), make_link("m", ROOT)], "not signed", id="way"
        ),
        pytest.param([make_link("old", ROOT, life=DAY, now=now() - 2 * DAY)], "expired at", id="expired"),
        pytest.param([make_link("new", ROOT, now=now() + DAY)], "holds only from", id="not yet"),
        pytest.param([make_link("c", ROOT, extensions=[(CLIENTS_ONLY, False)])], "extended key usage", id="usage"),
        pytest.param([make_link("n", ROOT, extensions=[constrained("a.example")])], "name constraints", id="names"),
        pytest.param([make_link("w", ROOT, key=rsa.generate_private_key(65537, 1024))], "1024 bits", id="weak"),
    ],
)
def test_what_may_not_sign_is_refused(tmp_path: Path, way: list[Link], words: str) -> None:
    plug(tmp_path / "ca", way, [ROOT])
    with pytest.raises(BadInput, match=words):
        load_material(tmp_path / "ca", now(), TD)


KEY_TYPE, CURVE = b"\x2a\x86\x48\xce\x3d\x02\x01", b"\x2a\x86\x48\xce\x3d\x03\x01\x07"  # ecPublicKey, P-256


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda der: der.replace(KEY_TYPE, KEY_TYPE[:-1] + b"\x77"), id="key of an unknown type"),
        pytest.param(lambda der: der.replace(CURVE, CURVE[:-1] + b"\x77"), id="unknown curve"),
        pytest.param(lambda der: der.replace(b"\x03\x42\x00\x04", b"\x03\x42\x00\x09"), id="no point"),
    ],
)
def test_keys_that_cannot_be_read_are_refused_in_order(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    plug(tmp_path / "ca", [SIGNER, MIDDLE], [ROOT])
    body = base64.encodebytes(harm(SIGNER.certificate.public_bytes(serialization.Encoding.DER)))
    pem = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
    (tmp_path / "ca" / "ca-cert.pem").write_bytes(pem)
    with pytest.raises(BadInput, match=f"{tmp_path}.*cannot be read"):
        load_material(tmp_path / "ca", now(), TD)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    middle = make_link("middle", ROOT, path_length=0)
    plug(tmp_path / "ca", [make_link("signer", middle), middle], [ROOT])
    with pytest.raises(BadInput, match="has 1 authorities below it, and a path length of 0"):
        load_material(tmp_path / "ca", now(), TD)


def test_constraints_that_allow_the_trust_domain_are_fine(tmp_path: Path) -> None:
    plug(tmp_path / "ca", [make_link("n", ROOT, extensions=[constrained("a.example", TD)])], [ROOT])
    assert load_material(tmp_path / "ca", now(), TD).root == ROOT.certificate


def test_revocation_lists_of_the_whole_chain_are_taken(tmp_path: Path) -> None:
    lists = crl_of(MIDDLE, revoked=[77]) + crl_of(ROOT)
    plug(tmp_path / "ca", [SIGNER, MIDDLE], [ROOT], crl=lists + crl_of(SIGNER))
    material = load_material(tmp_path / "ca", now(), TD)
    assert material.crl.count(b"BEGIN X509 CRL") == 3
    plug(
        tmp_path / "ca",
        [SIGNER, MIDDLE],
        [ROOT],
        crl=crl_of(MIDDLE, revoked=[SIGNER.certificate.serial_number]) + crl_of(ROOT) + crl_of(SIGNER),
    )
    with pytest.raises(BadInput, match="revokes a certificate of its own chain"):
        load_material(tmp_path / "ca", now(), TD)


def test_a_list_whose_time_is_over_is_refused(tmp_path: Path) -> None:
    lists = crl_of(ROOT) + crl_of(BELOW_ROOT)
    plug(tmp_path / "ca", [BELOW_ROOT], [ROOT], crl=b"words before\n" + lists)
    material = load_material(tmp_path / "ca", now(), TD)
    assert material.crl == lists
    assert material.lists_until is not None
    with pytest.raises(BadInput, match="is out of date; put a newer one there"):
        load_material(tmp_path / "ca", now() + 31 * DAY, TD)


def test_expired_is_told_apart(tmp_path: Path) -> None:
    plug(tmp_path / "ca", [SIGNER, MIDDLE], [ROOT])
    with pytest.raises(Expired, match=r"expired at .*, and it is"):
        load_material(tmp_path / "ca", now() + 400 * DAY, TD)
