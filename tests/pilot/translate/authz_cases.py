"""Inputs of the golden cases about policies: what is in force at one listener, from policies as they are written."""

from __future__ import annotations

import msgspec
import yaml

from lateen.api.providers import ExtAuthzGrpc, ExtAuthzHttp
from lateen.api.security import AuthorizationPolicy
from lateen.pilot.model.values import Cluster
from lateen.pilot.model.values_authz import Authorization, Authorizer, PolicyInput

__all__ = ["ASKING", "DECIDING", "TRIED", "in_force"]

DOMAINS = ("cluster.local", "old.domain")


def in_force(*written: str, dry_run: bool = False) -> tuple[PolicyInput, ...]:
    """Return policies by their specs, named `p0`, `p1` and so on."""
    found = []
    for number, text in enumerate(written):
        spec = msgspec.convert(yaml.safe_load(text), AuthorizationPolicy)
        found.append(
            PolicyInput(
                namespace="default",
                name=f"p{number}",
                action=spec.action,
                dry_run=dry_run,
                provider=spec.provider.name if spec.provider is not None else "",
                rules=spec.rules,
            )
        )
    return tuple(found)


# Every attribute that a rule can ask about, in every form that makes another matcher.
EVERYTHING = """
rules:
- from:
  - source:
      principals: [cluster.local/ns/web/sa/portal, partner/ns/a/sa/b, "*/sa/x.y", "cluster.local/ns/ops*", "*"]
      notNamespaces: ["sandbox-*"]
      ipBlocks: [10.20.0.0/16, 10.1.2.3, "fd00::/8"]
      notRemoteIpBlocks: [203.0.113.0/24]
  - source: {serviceAccounts: [batch, ops/auditor], trustDomains: [old.domain, "*.partner", "a*", "*"]}
  - source: {requestPrincipals: ["https://login.test/*", "*@test", "*"], notRequestPrincipals: [x/y]}
  to:
  - operation:
      hosts: [a.test, "a.test:8080", "*.b.test", "c.*", "*"]
      methods: [GET, "P*"]
      paths: [/exact, "/begins*", "*.ends", "*", "/v1/{*}/entries/{**}"]
      notPaths: ["/secret*"]
      ports: ["8080"]
  - operation: {notPorts: ["9000"]}
  when:
  - {key: "request.headers[x-a]", values: [one, "t*", "*e", "*"], notValues: [bad, "b*", "*d", "*"]}
  - {key: "request.headers[host]", values: [a.test]}
  - {key: request.auth.audiences, values: [me]}
  - {key: request.auth.presenter, values: [app]}
  - {key: "request.auth.claims[a][b]", values: [c]}
  - {key: destination.ip, values: [10.0.0.0/8]}
  - {key: destination.port, notValues: ["1"]}
  - {key: connection.sni, values: ["*.test"]}
  - {key: "experimental.envoy.filters.network.x[k]", values: ["[v]", w]}
- {}
"""

DECIDING = Authorization(
    policies=in_force(
        EVERYTHING,
        "{}",
        "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}",
        "{action: AUDIT, rules: [{from: [{source: {namespaces: [a]}}]}]}",
    ),
    trust_domains=DOMAINS,
)
TRIED = Authorization(
    policies=(
        *in_force("{rules: [{}]}", "{action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}]}", dry_run=True),
        *in_force("{action: DENY, rules: [{from: [{source: {namespaces: [b]}}]}]}"),
    ),
    trust_domains=DOMAINS,
)
ASKING = Authorization(
    policies=in_force(
        "{action: CUSTOM, provider: {name: grpc}, rules: [{to: [{operation: {ports: ['8001']}}]}]}",
        "{action: CUSTOM, provider: {name: http}, rules: [{to: [{operation: {paths: ['/admin*']}}]}]}",
        "{action: CUSTOM, provider: {name: lost}, rules: [{}]}",
    ),
    trust_domains=DOMAINS,
    authorizers=(
        Authorizer(
            name="grpc",
            cluster=Cluster("outbound|9000||ask.default.svc.cluster.local"),
            authority="ask.default.svc.cluster.local",
            grpc=ExtAuthzGrpc(service="ask.default.svc.cluster.local", port=9000, clear_route_cache=True),
        ),
        Authorizer(
            name="http",
            cluster=Cluster("outbound|8000||ask.default.svc.cluster.local"),
            authority="ask.default.svc.cluster.local",
            http=ExtAuthzHttp(
                service="ask.default.svc.cluster.local",
                port=8000,
                path_prefix="/check",
                clear_route_cache=True,
                fail_open=True,
                include_request_headers_in_check=("cookie", "x-a-*"),
                include_additional_headers_in_check={"x-mesh": "here"},
                headers_to_upstream_on_allow=("x-user",),
            ),
        ),
        Authorizer(name="lost", fault="no extensionProvider of the mesh has this name"),
    ),
)
