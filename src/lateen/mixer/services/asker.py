"""Who asks: the proxy of a call, from the metadata that Pilot wrote and from the certificate that it shows.

In:  a call's metadata; the SPIFFE ID of its TLS client, None where the socket has no TLS.
Out: one `Asking`, the same object for equal metadata, so that whatever is worked out of it is worked out once.
Rules: docs/design/0022-mixer-process.md "Who is believed". What a proxy says that its certificate contradicts is
refused; it is not corrected, since then one of both is not what it should be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from cryptography import x509

from lateen.errors import BadInput, Refused
from lateen.wire.mixer import ASKER, CONNECTION, ORIGIN, PEER, SERVICE, Asker
from lateen.wire.peer_env import UNKNOWN, unpack_peer
from lateen.wire.spiffe import SpiffeId
from lateen.wire.svid import UNREADABLE, spiffe_id_of

__all__ = ["Askers", "Asking", "Callers", "Service", "told_of"]

MAX_METADATA: Final = 16 * 1024
KEPT: Final = 4096
_ASKER: Final = msgspec.json.Decoder(Asker, strict=True)
_NOBODY: Final = Asker()


@dataclass(frozen=True, slots=True)
class Service:
    """The service that is reached."""

    host: str = ""
    name: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Asking:
    """All that is known of the proxy that asks, and of what it says beside the question."""

    asker: Asker
    identity: SpiffeId | None = None  # of its certificate
    peer: Mapping[str, str] = field(default_factory=dict)  # what it says of its workload
    service: Service = Service()

    @property
    def uid(self) -> str | None:
        """The proxy's name: `<workload>.<namespace>`."""
        name = self.peer.get("workload")
        return f"{name}.{self.peer.get('workload_namespace', '')}" if name else None


class Askers:
    """Reads metadata, and remembers what it read."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str, str], Asking] = OrderedDict()

    def asking(self, metadata: Iterable[Any], identity: SpiffeId | None) -> tuple[Asking, str | None, str | None]:
        """Return who asks, the client's origin and the connection's number.

        Raises: BadInput for metadata that cannot be read, Refused for what the certificate contradicts.
        """
        asker = peer = service = ""
        origin = connection = None
        for name, value in metadata:
            if name == ASKER:
                asker = value
            elif name == PEER:
                peer = value
            elif name == SERVICE:
                service = value
            elif name == ORIGIN:
                origin = value
            elif name == CONNECTION:
                connection = value
        key = (asker, peer, service, "" if identity is None else str(identity))
        found = self._known.get(key)
        if found is None:
            if len(asker) + len(peer) + len(service) > MAX_METADATA:
                raise BadInput(f"metadata of more than {MAX_METADATA} bytes")
            found = _read(asker, peer, service, identity)
            self._known[key] = found
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return found, origin, connection


def _read(asker: str, peer: str, service: str, identity: SpiffeId | None) -> Asking:
    try:
        said = _ASKER.decode(asker) if asker else _NOBODY
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadInput(f"metadata {ASKER}: {error}") from error
    told = told_of(peer) if peer != "-" else {}
    if identity is not None:
        _agree("namespace of the rules", said.namespace, identity.namespace)
        _agree("namespace that the proxy tells", told.get("workload_namespace", ""), identity.namespace)
    host, name, namespace = [*(service or said.service).split("|"), "", "", ""][:3]
    return Asking(said, identity, told, Service(_known(host), _known(name), _known(namespace)))


def _known(text: str) -> str:
    return "" if text == "-" else text


def _agree(what: str, said: str, proven: str) -> None:
    if said and said != proven:
        raise Refused(f"{what} is {said!r}, the certificate says {proven!r}")


def told_of(text: str) -> dict[str, str]:
    """Return what a proxy tells of its workload; what it does not know is left out."""
    return {name: value for name, value in unpack_peer(text).items() if value != UNKNOWN} if text else {}


class Callers:
    """Reads clients' certificates, and remembers whose they are."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[SpiffeId, str]] = OrderedDict()

    def caller(self, pems: Iterable[bytes], revoked: frozenset[str]) -> SpiffeId:
        """Return whose certificate a TLS client showed. Raises `Refused`: none, revoked, or not one workload's."""
        shown = tuple(pems)
        if len(shown) != 1:
            raise Refused("no client certificate")
        found = self._known.get(shown[0])
        if found is None:
            found = self._known[shown[0]] = _certificate(shown[0])
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        identity, serial = found
        if serial in revoked:
            raise Refused("client certificate is revoked")
        return identity


def _certificate(pem: bytes) -> tuple[SpiffeId, str]:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        identity = spiffe_id_of(certificate)
    except UNREADABLE as error:
        raise Refused(f"client certificate: {error}") from error
    if identity is None:
        raise Refused("client certificate names no workload")
    return identity, f"{certificate.serial_number:x}"
