"""The names by which secrets are fetched, and how resources spell them.

    default, ROOTCA                        the proxy's own identity and the mesh's roots, from its agent
    file-cert:<chain>~<key>                files, from its agent
    file-root:<path>[~<crl>]               the same
    kubernetes://[<namespace>/]<name>      a Secret, from Pilot
    kubernetes://[<namespace>/]<name>-cacert   the roots in it, or in the Secret of that very name

Names and forms are Istio's; the revocation list behind the roots is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lateen.api.secret import CA_SUFFIX

__all__ = [
    "MESH_ROOTS",
    "OWN_CERTIFICATE",
    "OWN_ROOTS",
    "SecretName",
    "file_certificate",
    "file_roots",
    "parse_secret_name",
    "roots_name",
    "secret_resource_name",
]

OWN_CERTIFICATE: Final = "default"
OWN_ROOTS: Final = "ROOTCA"
MESH_ROOTS: Final = "CONTROLPLANECA"  # of the mesh's own trust domain alone, for Envoy's plain way to check
KUBERNETES: Final = "kubernetes://"
BUILTIN: Final = "builtin://"  # Istio's spelling for a proxy's own certificate


@dataclass(frozen=True, slots=True)
class SecretName:
    namespace: str  # "" is the proxy's own
    name: str  # of the Secret, without `-cacert`
    roots_only: bool


def secret_resource_name(credential: str) -> str:
    """Return the name under which a `credentialName` is fetched: one without a scheme is a Secret."""
    if credential == BUILTIN:
        return OWN_CERTIFICATE
    return credential if "://" in credential else f"{KUBERNETES}{credential}"


def roots_name(credential: str) -> str:
    """Return the name under which the roots beside a `credentialName` are fetched."""
    if credential == BUILTIN:
        return OWN_ROOTS
    name = secret_resource_name(credential)
    return name if name.endswith(CA_SUFFIX) else name + CA_SUFFIX


def file_certificate(chain: str, key: str) -> str:
    return f"file-cert:{chain}~{key}"


def file_roots(path: str, crl: str = "") -> str:
    """Return the name of roots that are a file; none are the machine's own."""
    return f"file-root:{path or 'system'}" + (f"~{crl}" if crl else "")


def parse_secret_name(name: str) -> SecretName | None:
    """Return what a name asks for; None for one that is no Secret's."""
    if not name.startswith(KUBERNETES):
        return None
    namespace, slash, secret = name.removeprefix(KUBERNETES).rpartition("/")
    roots_only = secret.endswith(CA_SUFFIX)
    secret = secret.removesuffix(CA_SUFFIX)
    if not secret or "/" in namespace or (slash and not namespace):
        return None
    return SecretName(namespace, secret, roots_only)
