"""Every field of sources and operations and every key of conditions: which matcher a value of it becomes.

An attribute's matcher says who asks (a principal) or what is asked for (a permission). None in place of a matcher: the
value cannot be said to Envoy, so whoever asked decides by its leaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

from envoy.config.rbac.v3.rbac_pb2 import Permission, Principal

from lateen.pilot.translate.authz import identities, requests, tokens
from lateen.pilot.translate.authz.leaning import Leaning
from lateen.pilot.translate.authz.texts import text_matcher
from lateen.pilot.translate.authz.vouching import Vouching
from lateen.pilot.translate.chains import cidr

__all__ = ["OPERATIONS", "SOURCES", "Attribute", "Place", "permission_of", "principal_of"]

M = TypeVar("M", Permission, Principal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a text stands: whose policy, in which mesh, and what follows from a match."""

    namespace: str  # the policy's
    trust_domains: tuple[str, ...]  # the mesh's own, then its aliases
    vouching: Vouching  # of the connections that are decided on
    leaning: Leaning


@dataclass(frozen=True, slots=True)
class Attribute(Generic[M]):
    """One thing that a rule may ask about."""

    build: Callable[[str, Place], M | None]
    http_only: bool = False  # a TCP connection has no such thing


def _identity(build: Callable[[str, Place], Principal]) -> Attribute[Principal]:
    return Attribute(lambda text, place: identities.believed(build(text, place), place.vouching, place.trust_domains))


_PRINCIPAL: Final = _identity(lambda text, place: identities.principal(text, place.trust_domains))
_NAMESPACE: Final = _identity(lambda text, place: identities.namespace(text))
_ACCOUNT: Final = _identity(lambda text, place: identities.service_account(text, place.namespace))
_DOMAIN: Final = _identity(lambda text, place: identities.trust_domain(text, place.trust_domains))
_PEER_IP: Final[Attribute[Principal]] = Attribute(lambda text, place: Principal(direct_remote_ip=cidr(text)))
_CLIENT_IP: Final[Attribute[Principal]] = Attribute(lambda text, place: Principal(remote_ip=cidr(text)))
_REQUEST_PRINCIPAL: Final[Attribute[Principal]] = Attribute(
    lambda text, place: tokens.request_principal(text), http_only=True
)
_PORT: Final[Attribute[Permission]] = Attribute(lambda text, place: Permission(destination_port=int(text)))

SOURCES: Final[Mapping[str, Attribute[Principal]]] = {
    "principals": _PRINCIPAL,
    "request_principals": _REQUEST_PRINCIPAL,
    "namespaces": _NAMESPACE,
    "service_accounts": _ACCOUNT,
    "trust_domains": _DOMAIN,
    "ip_blocks": _PEER_IP,
    "remote_ip_blocks": _CLIENT_IP,
}
OPERATIONS: Final[Mapping[str, Attribute[Permission]]] = {
    "hosts": Attribute(lambda text, place: requests.host(text, place.leaning), http_only=True),
    "methods": Attribute(lambda text, place: requests.method(text), http_only=True),
    "paths": Attribute(lambda text, place: requests.path(text, place.leaning), http_only=True),
    "ports": _PORT,
}
_OF_SOURCE: Final[Mapping[str, Attribute[Principal]]] = {
    "source.ip": _PEER_IP,
    "remote.ip": _CLIENT_IP,
    "source.principal": _PRINCIPAL,
    "source.namespace": _NAMESPACE,
    "source.serviceAccount": _ACCOUNT,
    "source.trustDomain": _DOMAIN,
    "request.auth.principal": _REQUEST_PRINCIPAL,
    "request.auth.audiences": Attribute(lambda text, place: tokens.claim(("aud",), text), http_only=True),
    "request.auth.presenter": Attribute(lambda text, place: tokens.claim(("azp",), text), http_only=True),
}
_OF_DESTINATION: Final[Mapping[str, Attribute[Permission]]] = {
    "destination.ip": Attribute(lambda text, place: Permission(destination_ip=cidr(text))),
    "destination.port": _PORT,
    "connection.sni": Attribute(lambda text, place: Permission(requested_server_name=text_matcher(text.lower()))),
}
_HEADER: Final = re.compile(r"request\.headers\[(.+)\]", re.DOTALL)
_CLAIM: Final = re.compile(r"request\.auth\.claims((?:\[[^\[\]]+\])+)")
_STEP: Final = re.compile(r"\[([^\[\]]+)\]")
_METADATA: Final = re.compile(r"experimental\.(envoy\.filters\.[^\[\]]+)\[(.+)\]", re.DOTALL)


def principal_of(key: str) -> Attribute[Principal] | None:
    """Return what a condition's key asks about the caller or the request, None for other keys."""
    if key in _OF_SOURCE:
        return _OF_SOURCE[key]
    if found := _HEADER.fullmatch(key):
        return Attribute(partial(_header, found[1]), http_only=True)
    if found := _CLAIM.fullmatch(key):
        steps = _STEP.findall(found[1])
        return Attribute(lambda text, place: tokens.claim(steps, text), http_only=True)
    if found := _METADATA.fullmatch(key):
        name, entry = found.groups()
        return Attribute(lambda text, place: tokens.filter_metadata(name, entry, text))
    return None


def permission_of(key: str) -> Attribute[Permission] | None:
    """Return what a condition's key asks about the destination, None for other keys."""
    return _OF_DESTINATION.get(key)


def _header(name: str, text: str, place: Place) -> Principal | None:
    return requests.header(name, text, place.leaning)
