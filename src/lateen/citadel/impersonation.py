"""Who may ask for the certificates of others: a node's own agent, for the pods of its node and for nobody else.

In:  the caller, as the cluster's word for its token describes it; the identity that it wants; the pods there are.
Out: a `Caller` of the wanted identity, or `Refused`. Pure but for the pods, which are somebody else's to know.
Rules: Istio's node authorizer (CA_TRUSTED_NODE_ACCOUNTS), assurance 12. A listed account is necessary, never enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from lateen.citadel.authenticate import Caller
from lateen.errors import BadInput, Refused
from lateen.wire.spiffe import parse_spiffe_id

__all__ = ["IMPERSONATED", "Impersonation", "Pod", "Pods", "parse_accounts"]

IMPERSONATED = "ImpersonatedIdentity"  # key of the request's metadata, Istio's
_OVER = frozenset({"Failed", "Succeeded"})  # phases in which no container of a pod runs any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """What has to be known of a pod."""

    cluster: str
    namespace: str
    name: str
    uid: str
    service_account: str
    node: str  # "" until it is scheduled
    phase: str = "Running"


class Pods(Protocol):
    """The pods that there are, of all clusters."""

    def get(self, cluster: str, namespace: str, name: str) -> Pod | None: ...

    def on_node(self, cluster: str, node: str) -> Iterable[Pod]: ...


@dataclass(frozen=True, slots=True)
class Impersonation:
    """The rule. `accounts` are (namespace, service account) of the agents that may stand for others."""

    accounts: Collection[tuple[str, str]]
    pods: Pods

    def stand_for(self, caller: Caller, wanted: str) -> Caller:
        """Return the caller with the wanted identity. Raises `Refused`; what it tells gives no pod away."""
        own = caller.identity
        if (own.namespace, own.service_account) not in self.accounts or caller.host is None:
            raise Refused("this caller may not ask for other identities than its own")
        try:
            identity = parse_spiffe_id(wanted)
        except BadInput as error:
            raise Refused(str(error)) from error
        if identity.trust_domain != own.trust_domain:
            raise Refused(f"not of trust domain {own.trust_domain!r}")
        host = caller.host
        itself = self.pods.get(host.cluster, host.namespace, host.pod)
        # A pod of the same name that came later is another one; so is one whose account is not the token's.
        if (
            itself is None
            or itself.uid != host.uid
            or (itself.namespace, itself.service_account) != (own.namespace, own.service_account)
            or itself.phase in _OVER
            or not itself.node
            or (host.node and host.node != itself.node)
        ):
            raise Refused("the caller's own pod is not known")
        if not any(
            (pod.namespace, pod.service_account) == (identity.namespace, identity.service_account)
            and pod.phase not in _OVER
            for pod in self.pods.on_node(host.cluster, itself.node)
        ):
            raise Refused("no pod of that identity on the caller's node")
        return replace(caller, identity=identity, source=f"{caller.source}:{own.namespace}/{own.service_account}")


def parse_accounts(text: str) -> frozenset[tuple[str, str]]:
    """Return `ns/sa,ns/sa` as pairs. Raises `BadInput`."""
    pairs = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        namespace, slash, account = part.partition("/")
        if not slash or not namespace or not account or "/" in account:
            raise BadInput(f"trusted node accounts: NAMESPACE/SERVICE-ACCOUNT wanted, got {part!r}")
        pairs.add((namespace, account))
    return frozenset(pairs)
