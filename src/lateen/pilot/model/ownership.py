"""Who may say where traffic for a host goes: a namespace owns its hosts.

A host belongs to the namespace of the Service or ServiceEntry that defines it, as the client sees it. A host that
nobody defines belongs to nobody. A VirtualService acts for the traffic of its own namespace always, for that of others
only where its namespace owns the host or is the root namespace. `hostOwnership: istio` in MeshConfig lifts this: then
whatever is exported to a namespace acts there. Why: docs/design/0008-host-ownership.md.

At gateways nothing of this applies: their traffic is that of whoever wrote the Gateway, and `namespace/host` in its
servers says who may bind. But where Gateways of several namespaces want one port or name of a gateway, those of its own
namespace and of the root come first, whoever claims to be older; `gatewayOwnership: namespace` lets no others act.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from lateen.api.base import Object
from lateen.pilot.model.policy import age_key, exported_to

__all__ = ["ISTIO", "NAMESPACE", "at_gateway", "audience", "may_act", "precedence", "reaches"]

NAMESPACE: Final = "namespace"
ISTIO: Final = "istio"


def at_gateway(obj: Object, gateway: str, *, root: str, ownership: str, hosts: str) -> tuple[bool, bool]:
    """Tell of a Gateway that selects a gateway of namespace `gateway` whether it acts there, and goes before others.

    `ownership` is the mesh's gatewayOwnership, `hosts` its hostOwnership. A gateway of the root namespace is for all.
    """
    home = obj.key.namespace in (gateway, root)
    return home or gateway == root or ownership == ISTIO, home or hosts == ISTIO


def may_act(rule: str, client: str, *, owner: str | None, root: str, ownership: str) -> bool:
    """Tell whether a rule of namespace `rule` may act on traffic of namespace `client` for a host of `owner`."""
    return ownership == ISTIO or rule in (client, root) or rule == owner


def reaches(obj: Object, client: str, *, owner: str | None, root: str, ownership: str, default: Iterable[str]) -> bool:
    """Tell whether a VirtualService acts on traffic of `client`: it is exported there, and may act.

    `default`: the mesh's `defaultVirtualServiceExportTo`, for one that says nothing.
    """
    namespace = obj.key.namespace
    return exported_to(obj.spec.export_to or default, namespace, client) and may_act(
        namespace, client, owner=owner, root=root, ownership=ownership
    )


def precedence(obj: Object, client: str, *, ownership: str) -> tuple[bool, int, str, str, str]:
    """Return the order in which VirtualServices of one host compete for `client`; the smallest one wins.

    Its own namespace's come first, unless ownership is Istio's; then those that only it sees, those exported to it by
    name, and those that everybody sees; each of these by age.
    """
    foreign = ownership == NAMESPACE and obj.key.namespace != client
    return (foreign, audience(obj.spec.export_to, obj.key.namespace, client), *age_key(obj))


def audience(export_to: Iterable[str], owner: str, client: str) -> int:
    """Return how wide an audience of which `client` is one is: 0 itself alone, 1 those that are named, 2 everybody."""
    entries = tuple(export_to)
    if owner == client and entries and all(entry in (".", client) for entry in entries):
        return 0
    return 1 if client in entries else 2
