"""Client and server of a request: what their certificates prove, where they are, what their proxies tell.

Nothing in here comes from headers. `source.*` identity is the name in the client's certificate as Envoy verified it;
`destination.*` identity is that of the proxy that asks, of its own certificate towards Mixer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

from lateen.errors import BadInput
from lateen.mixer.services.asker import Asking, told_of
from lateen.mixer.services.places import struct_to_python
from lateen.wire.spiffe import SpiffeId, parse_spiffe_id

__all__ = ["JWT", "PEERS", "View", "common_places", "maps_of_peers", "told_by_client"]

PEERS: Final = "istio.peer"  # dynamic metadata that a server's proxy keeps of its client
_PEER_KEY: Final = "downstream"
JWT: Final = "envoy.filters.http.jwt_authn"
_PAYLOAD: Final = "payload"
LABELS: Final = ("app", "version")


class View(Protocol):
    """What checks and reports have in common."""

    asking: Asking
    protocol: str  # "http" | "grpc" | "tcp"

    @property
    def client_id(self) -> str:
        """The URI in the client's certificate, "" for none; whatever URI it is."""

    @property
    def client_certificate(self) -> bool: ...
    @property
    def server_id(self) -> str: ...
    @property
    def client_address(self) -> Any:
        """An Envoy `SocketAddress`."""

    @property
    def server_address(self) -> Any: ...
    @property
    def origin(self) -> str | None: ...
    @property
    def metadata(self) -> Mapping[str, Any]:
        """Dynamic metadata by namespace."""


V = TypeVar("V", bound=View)


@lru_cache(4096)
def _identity(text: str) -> SpiffeId | None:
    try:
        return parse_spiffe_id(text)
    except BadInput:
        return None


def _client(view: View) -> SpiffeId | None:
    # Names that some other authority signed are no identities of the mesh, however they are spelt.
    return _identity(view.client_id) if view.asking.asker.vouched else None


def _server(view: View) -> SpiffeId | None:
    identity = view.asking.identity
    return identity if identity is not None else _identity(view.server_id)


def _attribute(identity: Callable[[View], SpiffeId | None], part: str) -> Callable[[View], str | None]:
    def value_of(view: View) -> str | None:
        found = identity(view)
        return None if found is None else str(getattr(found, part))

    return value_of


def _principal(identity: Callable[[View], SpiffeId | None]) -> Callable[[View], str | None]:
    def value_of(view: View) -> str | None:
        found = identity(view)
        return None if found is None else str(found)

    return value_of


def told_by_client(view: View) -> Mapping[str, str]:
    """Return what the client's proxy told of its workload, over mutual TLS."""
    space = view.metadata
    if PEERS not in space:
        return {}
    fields = space[PEERS].fields
    return told_of(fields[_PEER_KEY].string_value) if _PEER_KEY in fields else {}


def _told_by_server(view: View) -> Mapping[str, str]:
    return view.asking.peer


def _told(whose: Callable[[View], Mapping[str, str]], name: str) -> Callable[[View], str | None]:
    return lambda view: whose(view).get(name)


def _uid(whose: Callable[[View], Mapping[str, str]]) -> Callable[[View], str | None]:
    def value_of(view: View) -> str | None:
        told = whose(view)
        return f"{told['workload']}.{told.get('workload_namespace', '')}" if "workload" in told else None

    return value_of


def _service(part: str) -> Callable[[View], str | None]:
    return lambda view: getattr(view.asking.service, part) or None


def _address(which: str) -> Callable[[View], str | None]:
    return lambda view: getattr(view, which).address or None


def _port(which: str) -> Callable[[View], int | None]:
    return lambda view: getattr(view, which).port_value or None


def _payload(view: View) -> Any:
    space = view.metadata
    if JWT not in space:
        return None
    fields = space[JWT].fields
    return fields[_PAYLOAD].struct_value.fields if _PAYLOAD in fields else None


def _claim(view: View, name: str) -> Any:
    claims = _payload(view)
    return struct_to_python(claims[name]) if claims is not None and name in claims else None


def _token_principal(view: View) -> str | None:
    issuer, subject = _claim(view, "iss"), _claim(view, "sub")
    return f"{issuer}/{subject}" if isinstance(issuer, str) and isinstance(subject, str) else None


def _audiences(view: View) -> str | None:
    found = _claim(view, "aud")
    if isinstance(found, list):
        found = ",".join(one for one in found if isinstance(one, str))
    return found if isinstance(found, str) else None


def _presenter(view: View) -> str | None:
    found = _claim(view, "azp")
    return found if isinstance(found, str) else None


def _claims(view: View, keys: frozenset[str] | None) -> Mapping[str, Any] | None:
    claims = _payload(view)
    if claims is None:
        return None
    names = claims if keys is None else [name for name in keys if name in claims]
    return {name: struct_to_python(claims[name]) for name in names}


def _labels(
    whose: Callable[[View], Mapping[str, str]],
) -> Callable[[View, frozenset[str] | None], dict[str, str] | None]:
    def value_of(view: View, _: frozenset[str] | None) -> dict[str, str] | None:
        told = whose(view)
        return {name: told[name] for name in LABELS if name in told} if told else None

    return value_of


def _peer(
    side: str, identity: Callable[[View], SpiffeId | None], whose: Callable[[View], Mapping[str, str]], address: str
) -> dict[str, Callable[[Any], Any]]:
    return {
        f"{side}.ip": _address(address),
        f"{side}.port": _port(address),
        f"{side}.principal": _principal(identity),
        f"{side}.namespace": _attribute(identity, "namespace"),
        f"{side}.serviceAccount": _attribute(identity, "service_account"),
        f"{side}.uid": _uid(whose),
        f"{side}.name": _told(whose, "workload"),
        f"{side}.workload.name": _told(whose, "workload"),
        f"{side}.workload.namespace": _told(whose, "workload_namespace"),
    }


def common_places() -> dict[str, Callable[[Any], Any]]:
    """Return the attributes that checks and reports of any protocol know alike."""
    return {
        **_peer("source", _client, told_by_client, "client_address"),
        **_peer("destination", _server, _told_by_server, "server_address"),
        "destination.service.host": _service("host"),
        "destination.service.name": _service("name"),
        "destination.service.namespace": _service("namespace"),
        "origin.ip": lambda view: view.origin,
        "connection.mtls": lambda view: view.client_certificate,
        "request.auth.principal": _token_principal,
        "request.auth.audiences": _audiences,
        "request.auth.presenter": _presenter,
        "context.protocol": lambda view: view.protocol,
        "context.reporter.kind": lambda view: view.asking.asker.kind,
        "context.reporter.uid": lambda view: view.asking.uid,
        "api.service": _service("host"),
        "api.protocol": lambda view: view.protocol,
    }


def maps_of_peers() -> dict[str, Callable[[Any, frozenset[str] | None], Mapping[str, Any] | None]]:
    return {
        "source.labels": _labels(told_by_client),
        "destination.labels": _labels(_told_by_server),
        "request.auth.claims": _claims,
    }
