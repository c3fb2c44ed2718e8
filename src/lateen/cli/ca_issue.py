"""`lateen ca issue NAMESPACE/ACCOUNT --out DIR`: a certificate for what runs beside the mesh; the key is made here.

Files have the names that gRPC's proxyless clients and Istio's agent use: key.pem (0600), cert-chain.pem, root-cert.pem.
The authority sees a CSR as from any agent, and its audit trail a caller of the local socket.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from lateen.cli.output import print_data
from lateen.cli.units import parse_duration_argument
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]

CALL_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "identity", metavar="NAMESPACE/ACCOUNT", help="or the whole SPIFFE ID, spiffe://TRUST-DOMAIN/ns/N/sa/A"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for key.pem, cert-chain.pem, root-cert.pem")
    parser.add_argument(
        "--ttl", metavar="DURATION", type=parse_duration_argument, help="life of the certificate (default: the mesh's)"
    )
    parser.add_argument("-o", "--output", choices=("text", "json", "yaml"), default="text", help="how to print")


def run(options: argparse.Namespace, settings: Settings) -> int:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from lateen.wire.files import write_atomically
    from lateen.wire.spiffe import parse_spiffe_id
    from lateen.wire.svid import read_certificate

    wanted = options.identity
    if wanted.startswith("spiffe://"):
        spiffe = parse_spiffe_id(wanted)
        wanted = f"{spiffe.namespace}/{spiffe.service_account}"
    folder = Path(options.out)
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    seconds = int(options.ttl.total_seconds()) if options.ttl else 0
    pems = _sign(settings, csr.public_bytes(serialization.Encoding.PEM), wanted, seconds)
    summary = read_certificate(pems[0].encode())
    if options.identity.startswith("spiffe://") and str(summary.spiffe_id) != options.identity:
        raise BadInput(f"this mesh issues {summary.spiffe_id}, not {options.identity}; nothing was written")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_atomically(folder / "key.pem", secret)
        write_atomically(folder / "cert-chain.pem", "".join(pems[:-1]).encode(), mode=0o644)
        write_atomically(folder / "root-cert.pem", pems[-1].encode(), mode=0o644)
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written: {error.strerror}") from error
    facts = {"identity": str(summary.spiffe_id), "serial": summary.serial, "notAfter": _moment(summary.not_after)}
    if options.output == "text":
        sys.stdout.write(f"{facts['identity']} until {facts['notAfter']}, serial {summary.serial}, in {folder}\n")
    else:
        print_data({**facts, "folder": str(folder)}, options.output)
    return 0


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


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
