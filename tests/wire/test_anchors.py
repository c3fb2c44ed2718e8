"""Roots of other trust domains, confined: the same name and key, a narrower word."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from tests.fakes.certs import StrangeAuthority

from lateen.errors import BadInput
from lateen.wire.anchors import confine

DOMAIN = "there.example"


def read(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def with_constraints(constraints: x509.NameConstraints) -> str:
    authority = StrangeAuthority()
    builder = (
        x509.CertificateBuilder()
        .serial_number(7)
        .issuer_name(authority.certificate.subject)
        .subject_name(authority.certificate.subject)
        .not_valid_before(authority.certificate.not_valid_before_utc)
        .not_valid_after(authority.certificate.not_valid_after_utc)
        .public_key(authority.key.public_key())
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(constraints, critical=True)
    )
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def constraints_of(pem: str) -> x509.NameConstraints:
    return read(pem).extensions.get_extension_for_class(x509.NameConstraints).value


def test_name_key_and_life_stay() -> None:
    root = StrangeAuthority().root_pem.decode()
    before, after = read(root), read(confine(root, DOMAIN))
    assert (after.subject, after.issuer, after.serial_number) == (before.subject, before.subject, before.serial_number)
    assert after.public_key() == before.public_key()
    assert (after.not_valid_before_utc, after.not_valid_after_utc) == (
        before.not_valid_before_utc,
        before.not_valid_after_utc,
    )
    kept = {extension.oid for extension in after.extensions}
    assert kept == {extension.oid for extension in before.extensions} | {x509.NameConstraints.oid}


def test_it_is_confined_and_critically_so() -> None:
    anchor = read(confine(StrangeAuthority().root_pem.decode(), DOMAIN))
    extension = anchor.extensions.get_extension_for_class(x509.NameConstraints)
    assert extension.critical
    assert extension.value.permitted_subtrees == [x509.UniformResourceIdentifier(DOMAIN)]
    assert extension.value.excluded_subtrees == [x509.DNSName("")]


def test_the_same_bytes_each_time() -> None:
    root = StrangeAuthority().root_pem.decode()
    first = confine(root, DOMAIN)
    confine.cache_clear()
    assert confine(root, DOMAIN) == first
    assert confine(root, "other.example") != first


def test_what_the_root_forbids_itself_stays_forbidden() -> None:
    own = x509.NameConstraints(None, [x509.UniformResourceIdentifier("bad.there.example")])
    found = constraints_of(confine(with_constraints(own), DOMAIN))
    assert found.permitted_subtrees == [x509.UniformResourceIdentifier(DOMAIN)]
    assert found.excluded_subtrees == [x509.UniformResourceIdentifier("bad.there.example"), x509.DNSName("")]
    same = x509.NameConstraints([x509.UniformResourceIdentifier(DOMAIN)], None)
    assert constraints_of(confine(with_constraints(same), DOMAIN)).permitted_subtrees == same.permitted_subtrees


@pytest.mark.parametrize("permitted", [["here.example"], [DOMAIN, "here.example"], [f".{DOMAIN}"]])
def test_what_would_permit_more_is_refused(permitted: list[str]) -> None:
    own = x509.NameConstraints([x509.UniformResourceIdentifier(name) for name in permitted], None)
    with pytest.raises(BadInput, match=DOMAIN):
        confine(with_constraints(own), DOMAIN)


def test_a_key_that_cannot_stand_in_a_certificate_again() -> None:
    with pytest.raises(BadInput, match=DOMAIN):
        confine("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", DOMAIN)
