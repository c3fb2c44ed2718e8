"""The xDS resource types that matter to the order and the form of what is sent. Rules: the xDS protocol, v3.

A type that is not listed here works too, if a proxy's scope has slices for it: it comes last and subscribes like a
wildcard type. Names are the short ones that people and `proxy-status` use.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "CDS",
    "ECDS",
    "EDS",
    "FULL_STATE",
    "KNOWN",
    "LDS",
    "NAMED",
    "NDS",
    "ORDER",
    "RDS",
    "ROUTING",
    "SDS",
    "SRDS",
    "TRUST",
    "VHDS",
    "rank",
    "short_name",
]

_PREFIX: Final = "type.googleapis.com/"

CDS: Final = _PREFIX + "envoy.config.cluster.v3.Cluster"
EDS: Final = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS: Final = _PREFIX + "envoy.config.listener.v3.Listener"
RDS: Final = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
SRDS: Final = _PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"
VHDS: Final = _PREFIX + "envoy.config.route.v3.VirtualHost"
SDS: Final = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
ECDS: Final = _PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
NDS: Final = _PREFIX + "istio.networking.nds.v1.NameTable"
TRUST: Final = _PREFIX + "lateen.trust.v1.TrustBundle"

# What names something comes after what it names.
ORDER: Final = (CDS, EDS, ECDS, LDS, SRDS, RDS, VHDS, SDS, NDS, TRUST)

_SHORT: Final = {
    CDS: "CDS",
    EDS: "EDS",
    LDS: "LDS",
    SRDS: "SRDS",
    RDS: "RDS",
    VHDS: "VHDS",
    SDS: "SDS",
    ECDS: "ECDS",
    NDS: "NDS",
    TRUST: "TRUST",
}
_RANK: Final = {type_url: index for index, type_url in enumerate(ORDER)}

KNOWN: Final = frozenset(ORDER)
# Types whose resources name clusters: they wait for new clusters, and clusters leave after them.
ROUTING: Final = (ECDS, LDS, SRDS, RDS, VHDS)
# Types that are never subscribed to as a whole: a request without names asks for nothing.
NAMED: Final = frozenset({EDS, RDS, SRDS, SDS, ECDS})
# State of the world: a response of these holds the whole subscription, and what it lacks is gone (xDS protocol,
# "Grouping Resources into Responses"). For every other type what a response lacks stays as it was.
FULL_STATE: Final = frozenset({CDS, LDS})


def rank(type_url: str) -> int:
    """Return the place of a type in the order of sending; unlisted types share the last one."""
    return _RANK.get(type_url, len(ORDER))


def short_name(type_url: str) -> str:
    """Return "CDS" for the cluster type and so on; an unlisted type's last word ("Address")."""
    return _SHORT.get(type_url) or type_url.rpartition("/")[2].rpartition(".")[2]
