"""`lateen ca issue NAMESPACE/ACCOUNT --out DIR`: a certificate for what runs beside the mesh; the key is made here.

Files have the names that gRPC's proxyless clients and Istio's agent use: key.pem (0600), cert-chain.pem, root-cert.pem.
The authority sees a CSR as from any agent, and its audit trail a caller of the local socket. With --keep the files are
kept fresh: certificates renewed, roots followed through rotations.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lateen.cli.output import print_data
from lateen.cli.units import parse_duration_argument
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.settings import Settings

if TYPE_CHECKING:
    from lateen.wire.authority import AuthorityReport
    from lateen.wire.spiffe import SpiffeId
    from lateen.wire.svid import CertificateSummary

__all__ = ["add_arguments", "run"]

CALL_SECONDS = 10.0
LOOK_SECONDS = 1.0  # between looks at the authority with --keep: a root that is new is believed before it signs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "identity", metavar="NAMESPACE/ACCOUNT", help="or the whole SPIFFE ID, spiffe://TRUST-DOMAIN/ns/N/sa/A"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for key.pem, cert-chain.pem, root-cert.pem")
    parser.add_argument(
        "--ttl", metavar="DURATION", type=parse_duration_argument, help="life of the certificate (default: the mesh's)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="stay, and keep the files fresh: certificate, and roots in a rotation"
    )
    parser.add_argument("-o", "--output", choices=("text", "json", "yaml"), default="text", help="how to print")


def run(options: argparse.Namespace, settings: Settings) -> int:
    report = _report(settings)
    identity = _identity(options.identity, report.trust_domain)
    seconds = int(options.ttl.total_seconds()) if options.ttl else 0
    folder = Path(options.out)

    def issue() -> CertificateSummary:
        summary = _issue(settings, identity, seconds, folder)
        _tell(summary, folder, options.output)
        return summary

    summary = issue()
    if options.keep:
        _keep(settings, folder, report, summary, issue)
    return 0


def _keep(
    settings: Settings,
    folder: Path,
    report: AuthorityReport,
    summary: CertificateSummary,
    issue: Callable[[], CertificateSummary],
) -> None:
    """Keep the files fresh until the process is ended. While the authority is away the last ones stay."""
    from lateen.wire.renewal import MAX_JITTER, renewal_time

    away = False
    path = report.signing_path
    while True:
        due = renewal_time(summary.not_before, summary.not_after, random.uniform(-MAX_JITTER, MAX_JITTER))  # noqa: S311
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                newer = _report(settings)
                if newer.roots != report.roots:
                    _write(folder, {"root-cert.pem": "".join(root.pem for root in newer.roots).encode()})
                report = newer
                if datetime.now(UTC) >= due or report.signing_path != path:
                    summary, path = issue(), report.signing_path
                    break
            except (Unavailable, Refused) as error:
                if not away:
                    sys.stderr.write(f"lateen ca: {error}; trying again\n")
                away = True
            else:
                away = False


def _identity(text: str, trust_domain: str) -> SpiffeId:
    from lateen.wire.spiffe import parse_spiffe_id, parse_workload_identity

    if not text.startswith("spiffe://"):
        return parse_workload_identity(text, trust_domain)
    identity = parse_spiffe_id(text)
    if identity.trust_domain != trust_domain:
        raise BadInput(f"this mesh issues identities of trust domain {trust_domain!r}, not {text}; nothing was written")
    return identity


def _issue(settings: Settings, identity: SpiffeId, seconds: int, folder: Path) -> CertificateSummary:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from lateen.wire.svid import read_certificate

    key = ec.generate_private_key(ec.SECP256R1())
    # The name is for authorities elsewhere, some of which read it nowhere else; Citadel believes none in a CSR.
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity))])
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(name, critical=True)
    pem = csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pems = _sign(settings, pem, f"{identity.namespace}/{identity.service_account}", seconds)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = "".join(pems[:-1]).encode()
    # Roots first: whoever reads in between believes what the new chain leads to.
    _write(folder, {"root-cert.pem": pems[-1].encode(), "key.pem": secret, "cert-chain.pem": chain})
    return read_certificate(chain)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    from lateen.wire.files import write_atomically

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data, mode=0o600 if name == "key.pem" else 0o644)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written: {error.strerror}") from error


def _tell(summary: CertificateSummary, folder: Path, output: str) -> None:
    until = summary.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")
    if output == "text":
        sys.stdout.write(f"{summary.spiffe_id} until {until}, serial {summary.serial}, in {folder}\n")
    else:
        facts = {"identity": str(summary.spiffe_id), "serial": summary.serial, "notAfter": until}
        print_data({**facts, "folder": str(folder)}, output)
    sys.stdout.flush()


def _report(settings: Settings) -> AuthorityReport:
    from lateen.wire.authority import AUTHORITY_METHODS, AUTHORITY_SERVICE, ReportQuery
    from lateen.wire.control import call_service

    report: AuthorityReport = call_service(settings, AUTHORITY_SERVICE, AUTHORITY_METHODS, "Report", ReportQuery())
    return report


def _sign(settings: Settings, csr: bytes, wanted: str, seconds: int) -> list[str]:
    import grpc

    from lateen.wire.ca import CREATE_CERTIFICATE, IDENTITY_METADATA, IstioCertificateRequest, IstioCertificateResponse

    request = IstioCertificateRequest(csr=csr.decode("ascii"), validity_duration=seconds)
    with grpc.insecure_channel(f"unix:{settings.ca_socket}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        call = channel.unary_unary(CREATE_CERTIFICATE)
        try:
            data = call(request.SerializeToString(), timeout=CALL_SECONDS, metadata=((IDENTITY_METADATA, wanted),))
        except grpc.RpcError as error:
            raise _error_of(error, settings) from error
    return list(IstioCertificateResponse.FromString(data).cert_chain)


def _error_of(error: Any, settings: Settings) -> LateenError:
    import grpc

    match error.code():
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return Refused(error.details())
        case grpc.StatusCode.INVALID_ARGUMENT:
            return BadInput(error.details())
        case grpc.StatusCode.UNAVAILABLE:
            return Unavailable(f"no control plane answers at {settings.ca_socket}: start one with 'lateen up DIR'")
        case code:
            return Unavailable(f"{code.name}: {error.details()}")
