"""External authorizers: what MeshConfig's `extensionProviders` say of those that CUSTOM policies name.

An authorizer that cannot be asked is one with a fault: what would be asked about is then denied, whatever it says of
failures (`failOpen` is about one that does not answer, not about one that is not there).
"""

from __future__ import annotations

from typing import Any

from lateen.api.check_providers import check_providers
from lateen.flow import Read
from lateen.pilot.model.cluster_names import cluster_name
from lateen.pilot.model.mesh import Mesh, View
from lateen.pilot.model.policy import age_key
from lateen.pilot.model.values import Hostname
from lateen.pilot.model.values_authz import Authorizer
from lateen.pilot.registry.values import Service

__all__ = ["Authorizers"]


class Authorizers:
    """The derived collection of providers that can authorize."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        # name -> Authorizer without a cluster, or with a fault
        self._written = mesh.graph.derive("authorizers", self._written_as)

    def for_view(self, read: Read, view: View, name: str) -> Authorizer:
        """Return the authorizer `name` as proxies of `view` reach it. Those that can be asked have a cluster."""
        written: Authorizer = read.get(self._written, name)
        if written.fault:
            return written
        hostname, port = _address(written)
        return self._reached(written, self._mesh.sight.imported(read, view, hostname), port)

    def for_namespace(self, read: Read, namespace: str, name: str) -> Authorizer:
        """Return the authorizer `name` as it is reached where everything is imported that `namespace` may see."""
        written: Authorizer = read.get(self._written, name)
        if written.fault:
            return written
        hostname, port = _address(written)
        return self._reached(written, read.get(self._mesh.service, (namespace, hostname)), port)

    def _reached(self, written: Authorizer, service: Service | None, port: int) -> Authorizer:
        owner, _, host = _body(written).service.rpartition("/")
        if service is None:
            return Authorizer(name=written.name, fault=f"its service {host} is not known there")
        if owner and service.namespace != owner:
            return Authorizer(
                name=written.name, fault=f"{host} is there the service of namespace {service.namespace}, not of {owner}"
            )
        if service.port(port) is None:
            return Authorizer(name=written.name, fault=f"its service {host} has no port {port}")
        return Authorizer(
            name=written.name,
            cluster=cluster_name(port, "", service.hostname),
            authority=str(service.hostname),
            http=written.http,
            grpc=written.grpc,
        )

    def _written_as(self, read: Read, name: str) -> Authorizer:
        objects = self._mesh.objects_of(read, read.lookup(self._mesh.by_kind, "MeshConfig"))
        config = min(objects, key=age_key) if objects else None
        written = (config.spec.extension_providers or ()) if config is not None else ()
        named = [entry for entry in written if entry.name == name]
        if config is None or not named:
            return Authorizer(name=name, fault="no extensionProvider of the mesh has this name")
        if len(named) > 1:
            return Authorizer(name=name, fault="several extensionProviders of the mesh have this name")
        provider = named[0]
        fault = next(check_providers(config, [provider], "spec.extensionProviders"), None)
        if fault is not None:
            return Authorizer(name=name, fault=f"{fault.field.rpartition('.')[2] or 'it'} {fault.message}")
        if provider.envoy_ext_authz_http is None and provider.envoy_ext_authz_grpc is None:
            return Authorizer(name=name, fault="it is no authorizer: wanted is envoyExtAuthzHttp or envoyExtAuthzGrpc")
        return Authorizer(name=name, http=provider.envoy_ext_authz_http, grpc=provider.envoy_ext_authz_grpc)


def _body(written: Authorizer) -> Any:
    return written.http if written.http is not None else written.grpc


def _address(written: Authorizer) -> tuple[Hostname, int]:
    body = _body(written)
    return Hostname(body.service.rpartition("/")[2].lower()), int(body.port)
