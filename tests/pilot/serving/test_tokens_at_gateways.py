"""What a gateway's real Envoy makes of tokens: which are believed, and where claims lead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from tests.fakes.certs import StrangeAuthority
from tests.fakes.ports import free_port
from tests.fakes.proxies import (
    Answer,
    ConfigServer,
    HttpApp,
    RealEnvoy,
    ask,
    dial,
    make_identity,
    unmarked,
)
from tests.fakes.tokens import jwks, sign
from tests.fakes.yard import Yard
from tests.pilot.serving.conftest import Bench

from lateen.pilot.model.jwks import JwksSource, parse_key_set
from lateen.pilot.registry.values import Workload
from lateen.pilot.serving.scopes import CDS, ECDS, EDS, LDS, RDS
from lateen.pilot.translate.matches import JWT_FILTER

pytestmark = pytest.mark.envoy

NODE = "edge"
ISSUER = "https://id.test"
REMOTE = JwksSource("issuer", ISSUER)
SETTLE_SECONDS = 15.0
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
TARGET = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}


class Edge:
    """A gateway with two applications behind it, `plain` and `other`."""

    def __init__(self, folder: Path, server: ConfigServer) -> None:
        self.port = free_port()
        self.apps = [HttpApp("plain"), HttpApp("other")]
        self._server = server
        self._own = make_identity(StrangeAuthority(), NODE)
        self._folder = folder
        self.bench: Bench

    def __enter__(self) -> Edge:
        for app in self.apps:
            app.__enter__()
        self._serve([])
        self.envoy = RealEnvoy(NODE, self._server, self._folder).__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.envoy.__exit__(*error)
        for app in self.apps:
            app.__exit__(*error)

    def use(self, *documents: Mapping[str, Any], keys: Mapping[JwksSource, str] | None = None) -> None:
        self._serve(documents, keys or {})
        self._server.wait_until_taken(NODE, SETTLE_SECONDS)
        warming = "/stats?filter=total_listeners_warming|warming_clusters"
        self.envoy.wait_until(
            warming, lambda text: all(line.endswith(": 0") for line in text.splitlines() if line.strip())
        )
        self._server.wait_until_taken(NODE, SETTLE_SECONDS)
        assert self._server.rejections == []

    def _serve(self, documents: Any, keys: Mapping[JwksSource, str] | None = None) -> None:
        bench = self.bench = Bench()
        text = "\n---\n".join([BASE, *(json.dumps(document) for document in documents)])
        for name, value in (("PORT", self.port), ("PLAIN", self.apps[0].port), ("OTHER", self.apps[1].port)):
            text = text.replace(f"${name}", str(value))
        bench.apply(text)
        bench.run(
            Workload(name="edge", kind="gateway", namespace="default", service_account="edge",
                     labels={"istio": "edge", GATEWAY_NAME: "edge"}, ip="127.0.0.1", ports=(), ready=True)
        )  # fmt: skip
        self.gateway = bench.connect("edge", kind="router")
        bench.pilot.take_keys(keys or {})
        self._server.serve(NODE, self._messages())

    def _messages(self) -> list[Any]:
        slices = self.gateway.slices
        found = [Yard._message(one.body) for kind in (CDS, LDS) for part in slices[kind] for one in part.all().values()]
        named = [(RDS, f"http.{self.port}"), (ECDS, JWT_FILTER)]
        named += [(EDS, one.name) for one in found if isinstance(one, Cluster)]
        for type_url, name in named:
            found += [Yard._message(one.body) for part in slices[type_url] if (one := part.get(name)) is not None]
        return [*self._own.secrets(), *(unmarked(one) if isinstance(one, Cluster) else one for one in found)]

    def get(self, path: str = "/", headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        with dial(self.port) as sock:
            return ask(sock, path, host="edge.test", method=method, headers=headers or {})

    def leads_to(self, headers: Mapping[str, str] | None = None) -> str:
        answer = self.get(headers=headers)
        return str(answer.json["app"]) if answer.status == 200 else str(answer.status)


BASE = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: edge}, servers: [{port: {number: $PORT, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: plain}
spec:
  hosts: [plain.test]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {http: $PLAIN}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: other}
spec:
  hosts: [other.test]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, ports: {http: $OTHER}}]
"""


def routes(*matches: Mapping[str, Any]) -> dict[str, Any]:
    """Return a VirtualService that sends what one of `matches` holds for to `other`, and all else to `plain`."""
    to = {name: [{"destination": {"host": f"{name}.test"}}] for name in ("plain", "other")}
    rules = [{"match": list(matches), "route": to["other"]}] if matches else []
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "edge"},
        "spec": {"hosts": ["*"], "gateways": ["edge"], "http": [*rules, {"route": to["plain"]}]},
    }


def tokens(name: str = "tokens", namespace: str = "default", rule: Any = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"jwtRules": [{"issuer": ISSUER, "jwks": jwks("ec"), **(rule or {})}], **spec},
    }


def bearer(key: str = "ec", **claims: Any) -> dict[str, str]:
    return {"authorization": "Bearer " + sign({"iss": ISSUER, "sub": "alice", **claims}, key)}


@pytest.fixture(scope="module")
def edge(folder: Path, server: ConfigServer) -> Iterator[Edge]:
    with Edge(folder, server) as edge:
        yield edge


@pytest.mark.parametrize(
    ("policy", "acts"),
    [
        pytest.param(tokens(), True, id="of the namespace"),
        pytest.param(tokens(selector={"matchLabels": {"istio": "edge"}}), True, id="selector"),
        pytest.param(tokens(selector={"matchLabels": {"istio": "another"}}), False, id="another's selector"),
        pytest.param(tokens(targetRefs=[TARGET]), True, id="target"),
        pytest.param(tokens(targetRef=TARGET), True, id="one target"),
        pytest.param(tokens(targetRefs=[{**TARGET, "name": "another"}]), False, id="another's target"),
        pytest.param(tokens(namespace="istio-system"), True, id="of the root"),
        pytest.param(tokens(namespace="istio-system", targetRefs=[TARGET]), False, id="target elsewhere"),
    ],
)
def test_which_policies_are_for_a_gateway(edge: Edge, policy: dict[str, Any], acts: bool) -> None:
    edge.use(routes(), policy)
    assert edge.leads_to() == "plain"
    assert edge.leads_to(bearer()) == "plain"
    assert edge.leads_to(bearer("ec-2")) == ("401" if acts else "plain")


def claim(key: str, value: Mapping[str, str], field: str = "headers") -> dict[str, Any]:
    return {field: {f"@request.auth.claims{key}": value}}


@pytest.mark.parametrize(
    ("match", "there", "elsewhere"),
    [
        pytest.param(claim(".group", {"exact": "beta"}), {"group": "beta"}, {"group": "alpha"}, id="exact"),
        pytest.param(claim("[group]", {"exact": "beta"}), {"group": "beta"}, {"group": "beta2"}, id="brackets"),
        pytest.param(claim(".o.team", {"prefix": "op"}), {"o": {"team": "ops"}}, {"o": {"team": "dev"}}, id="nested"),
        pytest.param(claim("[a.b][c]", {"regex": "x+"}), {"a.b": {"c": "xx"}}, {"a.b": {"c": "xy"}}, id="dots"),
        pytest.param(claim(".groups", {"exact": "b"}), {"groups": ["a", "b"]}, {"groups": ["a"]}, id="list"),
        pytest.param(claim(".scope", {"exact": "read"}), {"scope": "write read"}, {"scope": "write"}, id="scope"),
        pytest.param(claim(".group", {}), {"group": "any"}, {}, id="presence"),
        pytest.param(claim(".group", {"exact": "b"}, "withoutHeaders"), {}, {"group": "b"}, id="without"),
    ],
)  # fmt: skip
def test_claims_lead_requests(edge: Edge, match: Any, there: Any, elsewhere: Any) -> None:
    edge.use(routes(match), tokens())
    assert edge.leads_to(bearer(**there)) == "other"
    assert edge.leads_to(bearer(**elsewhere)) == "plain"
    assert edge.leads_to(bearer("ec-2", **there)) == "401"


def test_claims_that_nobody_vouches_for_lead_nowhere(edge: Edge) -> None:
    match = claim(".group", {"exact": "beta"})
    edge.use(routes(match))
    assert edge.leads_to(bearer(group="beta")) == "plain"  # nobody looked at the token
    (told,) = [problem for problem in edge.bench.pilot.problems() if problem.level == "warning"]
    assert told.field == "spec.http[0].match[0].headers[@request.auth.claims.group]"
    assert "no RequestAuthentication is for gateways" in told.message
    edge.use(routes(match), tokens())
    assert edge.bench.pilot.problems() == []
    assert edge.leads_to() == "plain"
    assert edge.leads_to({"@request.auth.claims.group": "beta"}) in ("plain", "400")


def test_a_header_that_tells_a_claim_leads_nowhere_when_the_client_wrote_it(edge: Edge) -> None:
    """With a token it is the token's word that leads, without one nobody's; whatever the client sets."""
    output = {"outputClaimToHeaders": [{"header": "x-group", "claim": "group"}]}
    edge.use(routes({"headers": {"x-group": {"exact": "beta"}}}), tokens(rule=output))
    assert edge.leads_to({"x-group": "beta"}) == "plain"
    assert edge.leads_to({"x_group": "beta"}) == "plain"
    assert edge.leads_to({"x-group": "beta", **bearer(group="alpha")}) == "plain"
    assert edge.leads_to(bearer(group="beta")) == "other"


def test_keys_that_an_issuer_is_asked_for(edge: Edge) -> None:
    policy = tokens(rule={"jwks": None})
    edge.use(routes(), policy)
    assert edge.leads_to() == "plain"
    assert edge.leads_to(bearer()) == "401"
    edge.use(routes(), policy, keys={REMOTE: parse_key_set(jwks("ec").encode()).text})
    assert edge.leads_to(bearer()) == "plain"
