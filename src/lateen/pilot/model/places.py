"""Whatever serves a service, in one shape: running workloads, WorkloadEntries, endpoints written in a ServiceEntry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from lateen.api.names import is_ip
from lateen.pilot.model.locality import HOST_LABEL, locality_of
from lateen.pilot.model.values import Peer
from lateen.pilot.registry.entries import NETWORK_LABEL, is_unix
from lateen.pilot.registry.values import ServicePort, StaticEndpoint, Workload

__all__ = ["THIS_MACHINE", "Place", "peer_of", "served_at"]

THIS_MACHINE = "@"  # the node of all running workloads that no label puts elsewhere
TLS_MODE_LABEL = "security.istio.io/tlsMode"


# Asked of every endpoint of a service whenever one of them changes.
_is_ip = lru_cache(maxsize=16_384)(is_ip)


class Place:
    """One thing that serves: a running workload, or an endpoint that somebody wrote down."""

    __slots__ = (
        "_ports",
        "account",
        "address",
        "auto_mtls",
        "in_mesh",
        "labels",
        "locality",
        "namespace",
        "network",
        "node",
        "peer",
        "ready",
        "registry",
        "serves",
        "weight",
        "written",
    )

    def __init__(
        self,
        *,
        address: str,
        ports: tuple[tuple[str, int], ...] | None,
        labels: dict[str, str],
        namespace: str,
        account: str,
        in_mesh: bool,
        auto_mtls: bool,
        ready: bool,
        weight: int,
        locality: str,
        network: str,
        node: str,
        peer: Peer | None,
        written: bool,
        registry: str = "",
        serves: tuple[str, ...] | None = None,
    ) -> None:
        self.address = address
        self._ports = ports
        self.labels = {NETWORK_LABEL: network, **labels} if network else labels
        self.namespace = namespace
        self.account = (namespace, account) if account else None
        self.in_mesh = in_mesh
        self.auto_mtls = auto_mtls  # clients may speak mutual TLS to it without being told to
        self.ready = ready
        self.weight = weight
        self.locality = locality_of(locality, labels)
        self.network = network
        self.node = labels.get(HOST_LABEL, node)
        self.peer = peer
        self.written = written
        self.registry = registry
        self.serves = serves

    @classmethod
    def of_workload(cls, workload: Workload) -> Place:
        return cls(
            address=workload.ip,
            ports=tuple((name, number) for name, number, _ in workload.ports),
            labels=dict(workload.labels),
            namespace=workload.namespace,
            account=workload.service_account,
            in_mesh=True,
            # What a gateway's ports take is what its Gateways say, and often it is plain text.
            auto_mtls=workload.labels.get(TLS_MODE_LABEL, "disabled" if workload.kind == "gateway" else "istio")
            == "istio",
            ready=workload.ready,
            weight=workload.weight,
            locality=workload.locality,
            network=workload.network or workload.labels.get(NETWORK_LABEL, ""),
            node=THIS_MACHINE,
            peer=peer_of(workload.name, workload.namespace, workload.labels, workload.cluster),
            registry=workload.cluster,
            written=bool(workload.group),  # its ports are those of the group's template
        )

    @classmethod
    def of_written(cls, endpoint: StaticEndpoint) -> Place:
        labels = dict(endpoint.labels)
        tls_mode = labels.get(TLS_MODE_LABEL) or ("istio" if endpoint.service_account else "disabled")
        in_mesh = tls_mode == "istio"
        return cls(
            address=endpoint.address,
            ports=endpoint.ports,
            labels=labels,
            namespace=endpoint.namespace,
            account=endpoint.service_account,
            in_mesh=in_mesh,
            auto_mtls=in_mesh,
            ready=True,
            weight=endpoint.weight,
            locality=endpoint.locality,
            network=endpoint.network,
            written=True,
            serves=endpoint.serves,
            node="",
            peer=peer_of(endpoint.name, endpoint.namespace, labels, "") if in_mesh else None,
        )

    @property
    def is_unix(self) -> bool:
        return is_unix(self.address)

    @property
    def has_address(self) -> bool:
        """Tell whether it is reached by an IP address or a Unix socket, and not by a name."""
        return self.is_unix or _is_ip(self.address)

    def port_for(self, port: ServicePort) -> int | None:
        """Return the number at which this place serves `port`, 0 for a Unix socket; None when it does not."""
        if self.serves is not None and port.name not in self.serves:
            return None
        return 0 if self.is_unix else served_at(port, dict(self._ports or ()), written=self.written)


def served_at(port: ServicePort, named: Mapping[str, int], *, written: bool) -> int | None:
    """Return where something with these ports, by name, serves a service's `port`; None when it names one it lacks.

    What somebody wrote down (`written`) says it by the name of the service's port, before the service's own word.
    """
    if written and port.name in named:
        return named[port.name]
    if isinstance(port.target, str):
        return named.get(port.target)
    return port.target or named.get(port.name, port.number)


def peer_of(workload: str, namespace: str, labels: Mapping[str, str], cluster: str) -> Peer:
    """Return how metrics name a workload. Rules for app, version and canonical names are Istio's."""
    app = labels.get("app") or labels.get("app.kubernetes.io/name") or ""
    version = labels.get("version") or labels.get("app.kubernetes.io/version") or ""
    return Peer(
        workload=workload,
        namespace=namespace,
        cluster=cluster,
        app=app,
        version=version,
        canonical_service=labels.get("service.istio.io/canonical-name") or app or workload,
        canonical_revision=labels.get("service.istio.io/canonical-revision") or version or "latest",
    )
