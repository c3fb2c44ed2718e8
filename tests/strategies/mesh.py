"""A small mesh that random resources act on: what runs in it, who looks at it, and all that proxies would be served."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lateen.api.base import Object
from lateen.api.decode import decode_documents
from lateen.folders.folder import Change
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import VipTable
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.serving.source import MeshProxy
from lateen.pilot.translate.matches import JWT_FILTER
from lateen.pilot.xds.references import references
from lateen.pilot.xds.source import Identity, NodeInfo, Resource
from lateen.pilot.xds.type_urls import CDS, ECDS, EDS, LDS, NDS, RDS

BASE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443}, {name: any, port: 9080}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  selector: {app: db}
  ports: [{name: mysql, port: 3306}, {name: mongo, port: 27017}, {name: redis, port: 6379}, {name: tls-x, port: 8443}]
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: other}
spec:
  selector: {app: api}
  ports: [{name: grpc, port: 8080}, {name: http2-x, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: other}
spec: {selector: {app: api}, clusterIP: None, ports: [{name: http, port: 80}, {name: tcp, port: 3306}]}
"""

# name, kind, namespace, app, version, captured
RUNNING = (
    ("web-v1", "sidecar", "default", "web", "v1", True),
    ("web-v2", "sidecar", "default", "web", "v2", False),
    ("db-v1", "sidecar", "default", "db", "v1", True),
    ("api-v1", "sidecar", "other", "api", "v1", True),
    ("gateway", "gateway", "istio-system", "", "", True),
)
PORTS = {
    "web": (("http", 80, 8080), ("https", 443, 443), ("any", 9080, 9080)),
    "db": (("mysql", 3306, 3306),),
    "api": (("grpc", 8080, 8080),),
}


def workloads() -> list[Workload]:
    """Return what runs: two versions of web (one without capture), db, api of another namespace, a gateway."""
    return [
        Workload(
            name=name,
            kind=kind,
            namespace=namespace,
            service_account=app or name,
            service=app,
            labels={"app": app, "version": version} if app else {"istio": "gateway"},
            ip=f"10.77.0.{number + 10}" if captured else f"127.77.0.{number + 10}",
            ports=PORTS.get(app, (("http", 80, 80), ("https", 443, 443))),
            capture=captured,
            http_proxy_port=0 if captured else 15080,
            ready=True,
            locality=f"r{number % 2 + 1}/z1/s1",
        )
        for number, (name, kind, namespace, app, version, captured) in enumerate(RUNNING)
    ]


def base() -> tuple[Object, ...]:
    return decode_documents(BASE.encode(), "base.yaml").objects


class SmallMesh:
    """A Pilot with the base in it and every proxy connected."""

    def __init__(
        self,
        objects: Iterable[Object] = (),
        *,
        running: Iterable[Workload] | None = None,
        with_base: bool = True,
        vips: VipTable | None = None,
    ) -> None:
        self.pilot = Pilot(trust_domain="cluster.local", vips=vips or VipTable())
        self.pilot.source.ready = True
        here = workloads() if running is None else list(running)
        changes = [Change(obj.key, obj) for obj in (*(base() if with_base else ()), *objects)]
        self.pilot.apply(changes, {workload.name: workload for workload in here})
        self.proxies: list[MeshProxy] = []

    def connect(self) -> None:
        """Have every proxy of `RUNNING` connected, and subscribed as an Envoy would be."""
        for name, kind, namespace, *_ in RUNNING:
            word = "router" if kind == "gateway" else "sidecar"
            node = NodeInfo(id=f"{word}~10.0.0.1~{name}.{namespace}~x", metadata={"NAMESPACE": namespace})
            proxy = self.pilot.source.connect(node, Identity(None))
            assert isinstance(proxy, MeshProxy)
            self.proxies.append(proxy)

    def served(self) -> Iterator[tuple[str, str, Resource]]:
        """Yield (proxy's name, type URL, resource) of all that the proxies are served, by what names what."""
        for proxy in self.proxies:
            for type_url, child in ((CDS, EDS), (LDS, RDS)):
                named: set[str] = set()
                for part in proxy.slices[type_url]:
                    for resource in part.all().values():
                        yield proxy.name, type_url, resource
                        named.update(references(type_url, resource.body))
                (children,) = proxy.slices[child]
                for name in sorted(named):
                    found = children.get(name)
                    children.release(name)
                    if found is not None:
                        yield proxy.name, child, found
            for part in proxy.slices[ECDS]:
                found = part.get(JWT_FILTER)
                part.release(JWT_FILTER)
                if found is not None:
                    yield proxy.name, ECDS, found
            for part in proxy.slices[NDS]:
                for resource in part.all().values():
                    yield proxy.name, NDS, resource
