"""Which endpoint a request or connection is sent to: every kind of balancing, from YAML to traffic."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.proxies import ConfigServer
from tests.fakes.yard import Yard

pytestmark = pytest.mark.envoy

TO = ("10.9.0.1", 80)
TCP_TO = ("10.9.0.1", 9000)

SERVERS = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: $name}
spec:
  hosts: [$name.test]
  addresses: [10.9.0.1]
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 9000, name: tcp, protocol: TCP}
  endpoints:
  - {address: 127.0.0.1, ports: {http: $a, tcp: $x}, labels: {version: v1}}
  - {address: 127.0.0.1, ports: {http: $b, tcp: $y}, labels: {version: v2}}
  - {address: 127.0.0.1, ports: {http: $c, tcp: $z}, labels: {version: v3}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name}
spec:
  host: $name.test
"""


@pytest.fixture(scope="module")
def yard(folder: Path, server: ConfigServer) -> Iterator[Yard]:
    with Yard(folder, server) as yard:
        yield yard


def balancer(text: str) -> str:
    return SERVERS + f"  trafficPolicy: {{loadBalancer: {text}}}\n"


def order(yard: Yard, name: str, count: int) -> str:
    return "".join(yard.get(f"{name}.test", to=TO).json["app"] for _ in range(count))


def test_round_robin(yard: Yard) -> None:
    yard.use(balancer("{simple: ROUND_ROBIN}"), name="turns")
    found = order(yard, "turns", 9)
    assert found == found[:3] * 3
    assert set(found) == set("abc")


def test_random(yard: Yard) -> None:
    yard.use(balancer("{simple: RANDOM}"), name="random")
    found = order(yard, "random", 60)
    assert set(found) == set("abc")
    assert any(pair in found for pair in ("aa", "bb", "cc"))  # taking turns, nobody is asked twice running


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("least", "{simple: LEAST_REQUEST}", id="LEAST_REQUEST"),
        pytest.param("least-old", "{simple: LEAST_CONN}", id="LEAST_CONN"),
        pytest.param("least-unsaid", "{simple: UNSPECIFIED}", id="UNSPECIFIED"),
    ],
)
def test_whoever_is_busy_is_spared(yard: Yard, name: str, text: str) -> None:
    yard.use(balancer(text), name=name)
    slow = yard.apps["a"]
    slow.delay_seconds = 30.0
    # All three are asked at once, so that some of the requests stay at the slow one.
    threads = [threading.Thread(target=yard.get, args=(f"{name}.test", "/held"), kwargs={"to": TO}) for _ in range(12)]
    try:
        for thread in threads:
            thread.start()
        yard.until(lambda: any(asked["path"] == "/held" for asked in slow.requests))
        slow.delay_seconds = 0.0
        found = order(yard, name, 40)
    finally:
        slow.released.set()
        for thread in threads:
            thread.join()
        slow.released.clear()
    assert found.count("a") <= 12  # one in nine is expected; of a random choice one in three
    slow.requests.clear()


def test_passthrough_goes_where_the_client_dialled(yard: Yard) -> None:
    entry = SERVERS.replace("number: 80,", "number: $a,")
    yard.use(entry + "  trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}\n", name="through")
    dialled = ("127.0.0.1", yard.apps["a"].port)
    assert yard.share("through.test", 12, to=dialled) == {"a": 12}


# ---------------------------------------------------------------- consistent hash


@pytest.mark.parametrize("algorithm", ["", ", ringHash: {minimumRingSize: 512}", ", maglev: {tableSize: 1009}"])
@pytest.mark.parametrize(
    ("name", "key", "ask"),
    [
        pytest.param("header", "httpHeaderName: x-user", lambda who: {"headers": {"x-user": who}}, id="header"),
        pytest.param(
            "query", "httpQueryParameterName: user", lambda who: {"path": f"/?user={who}"}, id="query parameter"
        ),
        pytest.param(
            "cookie", "httpCookie: {name: user}", lambda who: {"headers": {"cookie": f"user={who}"}}, id="cookie"
        ),
        pytest.param("source", "useSourceIp: true", lambda who: {"source": f"10.1.0.{who}"}, id="source address"),
    ],
)
def test_one_key_leads_to_one_endpoint(yard: Yard, name: str, key: str, ask: object, algorithm: str) -> None:
    assert callable(ask)
    name += {"r": "-ring", "m": "-maglev"}.get(algorithm[2:3], "")
    yard.use(balancer(f"{{consistentHash: {{{key}{algorithm}}}}}"), name=name)
    found = {}
    for who in map(str, range(1, 25)):
        shares = yard.share(f"{name}.test", 3, to=TO, **ask(who))
        assert len(shares) == 1, who
        found[who] = next(iter(shares))
    assert set(found.values()) == set("abc")


def test_sizes_of_ring_and_table(yard: Yard) -> None:
    yard.use(balancer("{consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 3000}}}"), name="ring")
    assert yard.stat("cluster.outbound|80||ring.test;.ring_hash_lb.size") >= 3000
    yard.use(balancer("{consistentHash: {useSourceIp: true, minimumRingSize: 5000}}"), name="ring-old")
    assert yard.stat("cluster.outbound|80||ring-old.test;.ring_hash_lb.size") >= 5000
    yard.use(balancer("{consistentHash: {useSourceIp: true}}"), name="ring-unsaid")
    assert 1024 <= yard.stat("cluster.outbound|80||ring-unsaid.test;.ring_hash_lb.size") < 2048
    yard.use(balancer("{consistentHash: {useSourceIp: true, maglev: {tableSize: 3001}}}"), name="table")
    entries = yard.stat("cluster.outbound|80||table.test;.maglev_lb.min_entries_per_host")
    assert 3001 // 3 - 3 <= entries <= 3001 // 3 + 1


def test_a_cookie_that_is_missing_is_given_where_it_has_a_life(yard: Yard) -> None:
    cookie = "{name: lane, ttl: 60s, path: /shop, attributes: [{name: SameSite, value: Strict}]}"
    yard.use(balancer(f"{{consistentHash: {{httpCookie: {cookie}}}}}"), name="given")
    answer = yard.get("given.test", to=TO)
    value, *attributes = answer.headers["set-cookie"].split("; ")
    assert value.startswith("lane=")
    assert {"Max-Age=60", "Path=/shop", "SameSite=Strict"} <= set(attributes)
    again = yard.share("given.test", 10, to=TO, headers={"cookie": value.replace('"', "")})
    assert again == {answer.json["app"]: 10}
    yard.use(balancer("{consistentHash: {httpCookie: {name: lane, ttl: 0s}}}"), name="session")
    assert "max-age" not in yard.get("session.test", to=TO).headers["set-cookie"].lower()
    yard.use(balancer("{consistentHash: {httpCookie: {name: lane}}}"), name="existing")
    assert "set-cookie" not in yard.get("existing.test", to=TO).headers


def test_connections_of_one_address_go_to_one_endpoint(yard: Yard) -> None:
    yard.use(balancer("{consistentHash: {useSourceIp: true}}"), name="tcp-source")
    homes = {}
    for who in range(1, 25):
        found = {yard.says(TCP_TO, source=f"10.1.0.{who}") for _ in range(3)}
        assert len(found) == 1
        homes[who] = found.pop()
    assert set(homes.values()) == {b"x:hello", b"y:hello", b"z:hello"}


# ---------------------------------------------------------------- Services


AFFINE = """
apiVersion: v1
kind: Service
metadata: {name: $name}
spec:
  clusterIP: 10.9.0.1
  selector: {app: $name}
  ports: [{port: 80, name: http}, {port: 9000, name: tcp}]
  sessionAffinity: ClientIP
"""


def members() -> str:
    return "".join(
        f"""---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {http}}}
spec: {{address: 127.0.0.1, ports: {{http: ${http}, tcp: ${tcp}}}, labels: {{app: $name}}}}
"""
        for http, tcp in ("ax", "by", "cz")
    )


def test_session_affinity_of_a_service(yard: Yard) -> None:
    yard.use(AFFINE + members(), name="affine")
    found = set()
    for who in range(1, 25):
        shares = yard.share("affine", 3, to=TO, source=f"10.1.0.{who}")
        assert len(shares) == 1
        assert len({yard.says(TCP_TO, source=f"10.1.0.{who}") for _ in range(3)}) == 1
        found.update(shares)
    assert found == set("abc")


def test_a_rule_is_before_session_affinity(yard: Yard) -> None:
    rule = """---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name}
spec: {host: $name, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
"""
    yard.use(AFFINE + members() + rule, name="ruled")
    assert yard.share("ruled", 9, to=TO) == {"a": 3, "b": 3, "c": 3}


# ---------------------------------------------------------------- warm-up


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(
            "warm", "simple: ROUND_ROBIN, warmup: {duration: 2s, minimumPercent: 5, aggression: 1}", id="warmup"
        ),
        pytest.param("warm-old", "simple: LEAST_REQUEST, warmupDurationSecs: 2s", id="warmupDurationSecs"),
    ],
)
def test_a_new_endpoint_is_warmed_up(yard: Yard, name: str, text: str) -> None:
    policy = balancer(f"{{{text}}}")
    two = "".join(line for line in policy.splitlines(keepends=True) if "version: v3" not in line)
    yard.use(two, name=name)
    old = threading.Event()
    old.wait(2.2)  # until the first two are warm: Envoy counts by the clock
    yard.use(policy, name=name)
    found = yard.share(f"{name}.test", 60, to=TO)
    assert found["c"] <= 12, found  # 20 when warm
    yard.until(lambda: yard.share(f"{name}.test", 60, to=TO)["c"] >= 15)


# ---------------------------------------------------------------- subsets


def test_subsets_by_labels(yard: Yard) -> None:
    subsets = """  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: all}
  - {name: none, labels: {version: v9}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name}
spec:
  hosts: [$name.test]
  http:
  - {match: [{uri: {prefix: /v1}}], route: [{destination: {host: $name.test, subset: v1}}]}
  - {match: [{uri: {prefix: /none}}], route: [{destination: {host: $name.test, subset: none}}]}
  - {match: [{uri: {prefix: /missing}}], route: [{destination: {host: $name.test, subset: missing}}]}
  - {route: [{destination: {host: $name.test, subset: all}}]}
"""
    yard.use(SERVERS + subsets, name="parts")
    assert yard.share("parts.test", 6, to=TO, path="/v1") == {"a": 6}
    assert set(yard.share("parts.test", 30, to=TO)) == set("abc")
    assert yard.get("parts.test", "/none", to=TO).status == 503
    assert yard.get("parts.test", "/missing", to=TO).status == 503


def test_a_subset_has_a_policy_of_its_own(yard: Yard) -> None:
    rule = """  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
  subsets:
  - name: sticky
    trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name}
spec:
  hosts: [$name.test]
  http:
  - {match: [{uri: {prefix: /sticky}}], route: [{destination: {host: $name.test, subset: sticky}}]}
  - {route: [{destination: {host: $name.test}}]}
"""
    yard.use(SERVERS + rule, name="layers")
    assert yard.share("layers.test", 9, to=TO, headers={"x-user": "1"}) == {"a": 3, "b": 3, "c": 3}
    assert len(yard.share("layers.test", 9, to=TO, path="/sticky", headers={"x-user": "1"})) == 1


def test_a_port_has_a_policy_of_its_own(yard: Yard) -> None:
    rule = """  trafficPolicy:
    loadBalancer: {simple: RANDOM}
    portLevelSettings:
    - port: {number: 80}
      loadBalancer: {consistentHash: {httpHeaderName: x-user}}
    - port: {number: 9000}
      loadBalancer: {simple: ROUND_ROBIN}
"""
    yard.use(SERVERS + rule, name="ports")
    assert len(yard.share("ports.test", 12, to=TO, headers={"x-user": "1"})) == 1
    said = [yard.says(TCP_TO) for _ in range(6)]
    assert said == said[:3] * 2
    assert len(set(said)) == 3
