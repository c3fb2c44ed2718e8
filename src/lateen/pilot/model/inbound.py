"""What arrives at one workload: its ports, whose services they are, and the mutual TLS each demands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lateen.api.protocol import Protocol, parse_protocol
from lateen.flow import Read
from lateen.pilot.model.authorization import Authorizations
from lateen.pilot.model.ingress import ingress_ports, pool_of
from lateen.pilot.model.mesh import Mesh, MeshSettings, View
from lateen.pilot.model.mixer import MixerRules
from lateen.pilot.model.places import served_at
from lateen.pilot.model.policy import effective_policy, tcp_limits
from lateen.pilot.model.request_auth import RequestAuths
from lateen.pilot.model.server_tls import build_server_tls
from lateen.pilot.model.stat_names import stat_name_of
from lateen.pilot.model.telemetries import SERVER, Telemetries
from lateen.pilot.model.values import InboundListenerInput, InboundPort, MtlsMode, ServiceRef
from lateen.pilot.registry.values import Service, ServicePort, Workload

__all__ = ["Inbound"]

ENDED_MODES = frozenset({"SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL"})


class Inbound:
    """The derived collection of everything that reaches a proxy."""

    def __init__(
        self,
        mesh: Mesh,
        request_auths: RequestAuths,
        authorizations: Authorizations,
        telemetries: Telemetries,
        mixer: MixerRules,
    ) -> None:
        self._mixer = mixer
        self.mesh = mesh
        self._telemetries = telemetries
        self.request_auths = request_auths
        self._authorizations = authorizations
        # workload's name -> InboundListenerInput | None
        self.listeners = mesh.graph.derive("inbound", self._listeners)

    def _listeners(self, read: Read, name: str) -> InboundListenerInput | None:
        workload: Workload | None = read.get(self.mesh.workloads, name)
        if workload is None or workload.kind != "sidecar":
            return None
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        labels = tuple(sorted(workload.labels.items()))
        found = read.get(self.mesh.sidecar, (workload.namespace, labels))
        sidecar = found.spec if found is not None else None
        served = self._served(read, workload)
        ports: dict[int, InboundPort] = {}
        if sidecar is not None and sidecar.ingress:
            for entry in ingress_ports(sidecar, workload):
                known = served.get(entry.number)
                service = known[0] if known is not None else None
                port = known[1] if known is not None else ServicePort("", entry.number, entry.protocol, None)
                mtls = read.get(self.mesh.port_mtls, (workload.namespace, labels, entry.number))
                # The mesh's own TLS comes first: only where it is off, another one can be ended here.
                ends = entry.tls is not None and mtls is MtlsMode.DISABLE and entry.tls.mode in ENDED_MODES
                ports[entry.number] = InboundPort(
                    port=entry.number,
                    service_port=port.number,
                    protocol=entry.protocol.after_termination if ends else entry.protocol,
                    mtls=mtls,
                    tls=build_server_tls(
                        entry.tls, entry.protocol, settings.peer_domains, defaults=settings.tls_defaults
                    )
                    if ends
                    else None,
                    bind=entry.bind,
                    forward=entry.forward,
                    **self._policy(read, workload, service, port, entry.connection_pool or pool_of(sidecar)),
                )
        else:
            for number, (service, port) in served.items():
                ports[number] = self._port(read, workload, labels, service, port, number, sidecar)
        who: dict[str, Any] = {"kind": "sidecar", "namespace": workload.namespace, "labels": labels}
        return InboundListenerInput(
            ports=tuple(ports[number] for number in sorted(ports)),
            passthrough_mtls=read.get(self.mesh.port_mtls, (workload.namespace, labels, 0)),
            passthrough_ports=self._unnamed(read, workload, labels, ports),
            mesh_tls=settings.mesh_tls,
            trust_domains=settings.peer_domains,
            sniff_timeout=settings.sniff_timeout,
            retries=settings.inbound_retries,
            localhost=settings.inbound_localhost,
            capture=workload.capture,
            ips=(workload.ip,),
            request_auth=self.request_auths.of_workload(read, workload),
            authorization=self._authorizations.of(read, **who, view=lambda: self._view(read, name)),
            spelling=self._authorizations.spelling(read, **who),
            telemetry=self._telemetries.of(read, self._view(read, name), SERVER),
            mixer=self._mixer.of(read, **who),
        )

    def _unnamed(
        self, read: Read, workload: Workload, labels: tuple[tuple[str, str], ...], ports: Mapping[int, InboundPort]
    ) -> tuple[tuple[int, MtlsMode], ...]:
        """Return the modes of ports that nothing but the workload's PeerAuthentication names."""
        key = (workload.namespace, labels)
        written = (number for number in read.get(self.mesh.mtls_ports, key) if number not in ports)
        return tuple((number, read.get(self.mesh.port_mtls, (*key, number))) for number in written)

    def _view(self, read: Read, name: str) -> View:
        view: View | None = read.get(self.mesh.view, name)
        assert view is not None  # the workload is there
        return view

    def _served(self, read: Read, workload: Workload) -> dict[int, tuple[Service | None, ServicePort]]:
        """What the workload serves by port of its own: for which service (None: none), and as which port of it."""
        served: dict[int, tuple[Service | None, ServicePort]] = {}
        for service in self.mesh.services_of(read, workload):
            for port in service.ports:
                number = _target(port, workload)
                # Two services on one port of the workload: the older one says what is spoken there.
                if number is not None and port.protocol is not Protocol.UDP and number not in served:
                    served[number] = (service, port)
        for port_name, number, _ in workload.ports:
            if number not in served:
                loose = ServicePort(port_name, number, parse_protocol(port_name, "", number, "TCP"), number)
                served[number] = (None, loose)
        return served

    def _policy(
        self, read: Read, workload: Workload, service: Service | None, port: ServicePort, pool: Any
    ) -> dict[str, Any]:
        """The fields of a port that rules and the mesh decide; `pool` stands before theirs where it is not None."""
        settings: MeshSettings = read.get(self.mesh.settings, "mesh")
        rule = None
        if service is not None:
            rule = read.get(self.mesh.rule, (workload.namespace, (), service.hostname, service.namespace))
        policy = effective_policy(rule, port=port.number, subset="", mesh_default=settings.default_policy)
        if pool is not None:
            policy = replace(policy, connection_pool=pool)
        return {
            "service": ServiceRef(hostname=service.hostname, name=service.name, namespace=service.namespace)
            if service is not None
            else None,
            "connection_pool": policy.connection_pool,
            "limits": tcp_limits(rule, policy),
            "stat_name": stat_name_of(settings.inbound_stat_name, service, port) if service is not None else "",
        }

    def _port(
        self,
        read: Read,
        workload: Workload,
        labels: tuple[tuple[str, str], ...],
        service: Service | None,
        port: ServicePort,
        number: int,
        sidecar: Any,
    ) -> InboundPort:
        listens = next((target for _, own, target in workload.ports if own == number), number)
        return InboundPort(
            port=number,
            service_port=port.number,
            protocol=port.protocol,
            mtls=read.get(self.mesh.port_mtls, (workload.namespace, labels, number)),
            bind="" if workload.capture else workload.ip,
            # A port that the application serves as another one: its own word, when it was started.
            forward="" if workload.capture and listens == number else f"127.0.0.1:{listens}",
            **self._policy(read, workload, service, port, pool_of(sidecar)),
        )


def _target(port: ServicePort, workload: Workload) -> int | None:
    """Return where the workload serves `port`; None when it names a port that the workload does not have."""
    return served_at(port, {name: number for name, number, _ in workload.ports}, written=bool(workload.group))
