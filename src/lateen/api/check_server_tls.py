"""What `tls` of a Gateway's server or of a Sidecar's ingress must satisfy.

Rule ids (GW-18..27) are those of docs/api/Gateway.md; the shape settles GW-27.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.gateway import ServerTLSSettings
from lateen.api.suggest import nearest

__all__ = ["check_server_tls"]

CERTIFICATES_LIMIT: Final = 2  # GW-25: one RSA, one ECDSA
CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
)


def check_server_tls(obj: Object, tls: ServerTLSSettings, path: str) -> Iterator[Problem]:
    """Yield the faults of TLS settings of a port that is TLS."""
    yield from _check_versions(obj, tls, path)
    files = {
        "serverCertificate": bool(tls.server_certificate),
        "privateKey": bool(tls.private_key),
        "caCertificates": bool(tls.ca_certificates),
        "tlsCertificates": bool(tls.tls_certificates),
    }
    secrets = {"credentialName": bool(tls.credential_name), "credentialNames": bool(tls.credential_names)}
    named = any(secrets.values())
    match tls.mode:
        case "ISTIO_MUTUAL":  # GW-20
            for name, given in {**files, **secrets}.items():
                if given:
                    yield obj.problem(f"{path}.{name}", "must not be set for ISTIO_MUTUAL: the workload has its own")
        case "PASSTHROUGH" | "AUTO_PASSTHROUGH":  # GW-21
            for name, given in {**files, **secrets}.items():
                if given:
                    yield obj.problem(f"{path}.{name}", f"has no effect for {tls.mode}", "warning")
        case _:
            yield from _check_sources(obj, tls, path)
            if not named:
                yield from _check_files(obj, tls, path)


def _check_versions(obj: Object, tls: ServerTLSSettings, path: str) -> Iterator[Problem]:
    if tls.min_protocol_version in ("TLSV1_0", "TLSV1_1") and not tls.cipher_suites:  # GW-18
        message = f"{tls.min_protocol_version} wants cipherSuites that are as old; Envoy's own are not"
        yield obj.problem(f"{path}.minProtocolVersion", message, "warning")
    known: set[str] = set()
    for i, suite in enumerate(tls.cipher_suites):  # GW-19
        place = f"{path}.cipherSuites[{i}]"
        passed_on = not suite or suite == "ALL" or not suite[0].isalnum()
        if suite not in CIPHERS and not passed_on:
            near = nearest(suite, CIPHERS)
            hint = f", did you mean {near}?" if near is not None else ""
            yield obj.problem(place, f'is not known and left away, got "{suite}"{hint}', "warning")
        elif suite in known:
            yield obj.problem(place, f'is given twice, got "{suite}"', "warning")
        known.add(suite)


def _check_sources(obj: Object, tls: ServerTLSSettings, path: str) -> Iterator[Problem]:
    """GW-22: where the certificate comes from must be one place."""
    sources = [
        name
        for name, given in (
            ("serverCertificate", tls.server_certificate or tls.private_key),
            ("credentialName", tls.credential_name),
            ("credentialNames", tls.credential_names),
            ("tlsCertificates", tls.tls_certificates),
        )
        if given
    ]
    if len(sources) > 1:
        yield obj.problem(f"{path}.{sources[1]}", f"must not stand beside {sources[0]}: one certificate is served")


def _check_files(obj: Object, tls: ServerTLSSettings, path: str) -> Iterator[Problem]:
    """GW-23..26, for certificates that are files."""
    mutual = tls.mode != "SIMPLE"
    if tls.tls_certificates:
        if len(tls.tls_certificates) > CERTIFICATES_LIMIT:  # GW-25
            message = f"at most {CERTIFICATES_LIMIT} are used, got {len(tls.tls_certificates)}"
            yield obj.problem(f"{path}.tlsCertificates", message, "warning")
        for i, pair in enumerate(tls.tls_certificates):
            yield from _check_pair(
                obj, pair.server_certificate, pair.private_key, f"{path}.tlsCertificates[{i}]", tls.mode
            )
    else:
        yield from _check_pair(obj, tls.server_certificate, tls.private_key, path, tls.mode)
    if mutual and not (tls.ca_certificates or tls.ca_cert_credential_name):  # GW-24
        yield obj.problem(f"{path}.caCertificates", f"is required for {tls.mode} without credentialName")
    if tls.ca_crl and not mutual:  # GW-26
        yield obj.problem(f"{path}.caCrl", "means nothing for SIMPLE, which asks clients for no certificate")


def _check_pair(obj: Object, certificate: str, key: str, path: str, mode: str) -> Iterator[Problem]:
    for name, value in (("serverCertificate", certificate), ("privateKey", key)):
        if not value:  # GW-23, GW-24
            yield obj.problem(f"{path}.{name}", f"is required for {mode} without credentialName")
