"""What decides who may reach one workload, as `lateen authz` asks for it: policies with their places, ports, modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lateen.api.base import Object, ResourceKey
from lateen.api.encode import encode_object
from lateen.errors import BadInput
from lateen.pilot.model.attachment import Attachment
from lateen.pilot.model.values import GatewayListenerInput, InboundListenerInput
from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.pilot import Pilot
from lateen.wire.access import AccessReport, PolicyInfo, PortInfo
from lateen.wire.spiffe import SpiffeId

__all__ = ["access_report"]


def access_report(pilot: Pilot, name: str) -> AccessReport:
    """Return what is in force at a workload that runs. Raises `BadInput` for one that does not."""
    workload: Workload | None = pilot.mesh.workloads.get(name)
    if workload is None:
        raise BadInput(f"no workload {name!r} runs; lateen status names those that do")
    settings = pilot.mesh.settings.peek("mesh")
    listeners = _listeners(pilot, workload)
    return AccessReport(
        workload=name,
        kind=workload.kind,
        namespace=workload.namespace,
        identity=str(SpiffeId(settings.trust_domain, workload.namespace, workload.service_account)),
        ip=workload.ip,
        trust_domains=settings.trust_domains,
        normalisation=next((listener.spelling.paths for listener in listeners), settings.path_normalization),
        ports=tuple(port for listener in listeners for port in _ports(listener)),
        policies=tuple(
            _policy(obj)
            for attachment in (pilot.authorizations.attachment, pilot.request_auths.attachment)
            for key in _attached(attachment, workload)
            if (obj := pilot.mesh.objects.get(key)) is not None
        ),
        providers={
            one.name: "http" if one.http is not None else "grpc"
            for listener in listeners
            for one in listener.authorization.authorizers
            if not one.fault
        },
    )


def _attached(attachment: Attachment, workload: Workload) -> tuple[ResourceKey, ...]:
    labels = tuple(sorted(workload.labels.items()))
    found: tuple[ResourceKey, ...] = attachment.attached.peek((workload.kind, workload.namespace, labels))
    return found


def _listeners(pilot: Pilot, workload: Workload) -> tuple[InboundListenerInput | GatewayListenerInput, ...]:
    """Return what clients come in by."""
    if workload.kind == "gateway":
        view = pilot.mesh.view.peek(workload.name)
        found: tuple[GatewayListenerInput, ...] = pilot.gateways.listeners.peek(view) if view is not None else ()
        return found
    own: InboundListenerInput | None = pilot.inbound.listeners.peek(workload.name)
    return (own,) if own is not None else ()


def _ports(listener: InboundListenerInput | GatewayListenerInput) -> Iterator[PortInfo]:
    if isinstance(listener, GatewayListenerInput):
        # What its servers take of clients is theirs to say, so there is no mode.
        http = any(server.http_route for server in listener.servers)
        yield PortInfo(port=listener.port, protocol="HTTP" if http else "TCP")
        return
    for port in listener.ports:
        yield PortInfo(
            port=port.port,
            protocol=port.protocol.value,
            mtls=port.mtls.name,
            service=port.service.hostname if port.service is not None else "",
        )
    yield PortInfo(port=0, mtls=listener.passthrough_mtls.name)


def _policy(obj: Object) -> PolicyInfo:
    rules: tuple[Any, ...] = getattr(obj.spec, "rules", ())
    return PolicyInfo(
        kind=obj.key.kind,
        namespace=obj.key.namespace,
        name=obj.key.name,
        file=obj.origin.file,
        line=obj.origin.line,
        rules=tuple(obj.line_of(f"spec.rules[{index}]") for index in range(len(rules))),
        document=encode_object(obj),
    )
