"""Limits of connections and requests towards a service, tunnels and PROXY headers: from YAML to traffic."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.fakes.ports import free_port
from tests.fakes.proxies import ConfigServer, ask, dial
from tests.fakes.tapes import H2_PING, H2_PREFACE, ConnectProxy, Full, Tape
from tests.fakes.yard import Yard

pytestmark = pytest.mark.envoy

TO = ("10.9.0.1", 80)
TCP_TO = ("10.9.0.1", 9000)

SERVER = """
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
  endpoints: [{address: 127.0.0.1, ports: {http: $http, tcp: $tcp}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: $name}
spec:
  host: $name.test
  trafficPolicy: %s
"""
ONCE = """---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name}
spec:
  hosts: [$name.test]
  http:
  - {retries: {attempts: 0}, route: [{destination: {host: $name.test}}]}
"""


@pytest.fixture(scope="module")
def yard(folder: Path, server: ConfigServer) -> Iterator[Yard]:
    with Yard(folder, server, http="a", tcp="x") as yard:
        yield yard


def use(yard: Yard, name: str, policy: str, *, more: str = ONCE, http: int = 0, tcp: int = 0) -> None:
    a, x = yard.apps["a"].port, yard.tcp["x"].port
    yard.use(SERVER % policy + more, name=name, http=http or a, tcp=tcp or x)


def together(yard: Yard, name: str, count: int) -> Counter[str]:
    """Ask `count` times, and let the application answer only when all have been asked; return statuses."""
    cluster = f"cluster.outbound|80||{name}.test;."
    with held(yard) as release, ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(yard.get, f"{name}.test", to=TO) for _ in range(count)]
        yard.until(
            lambda: (
                sum(each.done() for each in asked)
                + yard.stat(f"{cluster}upstream_rq_active")
                + yard.stat(f"{cluster}upstream_rq_pending_active")
                >= count
            )
        )
        release()
        return Counter(str(each.result().status) for each in asked)


@contextmanager
def held(yard: Yard) -> Iterator[Callable[[], None]]:
    """Let the application answer nothing until what this gives is called, or the body ends."""
    app = yard.apps["a"]
    app.delay_seconds = 30.0
    try:
        yield app.released.set
    finally:
        app.released.set()
        app.delay_seconds = 0.0
        yard.until(lambda: yard.stat("http.outbound_0.0.0.0_80;.downstream_rq_active") == 0)
        app.released.clear()


# ---------------------------------------------------------------- HTTP


@pytest.mark.parametrize(
    ("name", "pool", "served"),
    [
        pytest.param(
            "pending", "{tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1}}", 2, id="http1MaxPendingRequests"
        ),
        pytest.param("requests", "{http: {http2MaxRequests: 2}}", 2, id="http2MaxRequests"),
        pytest.param("unlimited", "{tcp: {maxConnections: 0}}", 6, id="0 is no limit"),
    ],
)
def test_circuit_breakers(yard: Yard, name: str, pool: str, served: int) -> None:
    use(yard, name, f"{{connectionPool: {pool}}}")
    found = together(yard, name, 6)
    assert found == {"200": served, **({"503": 6 - served} if served < 6 else {})}
    if served < 6:
        sample = yard.envoy.wait_for("istio_requests_total", destination_service=f"{name}.test", response_code="503")
        assert sample.labels["response_flags"] == "UO"


def test_an_overflow_says_so(yard: Yard) -> None:
    use(yard, "overflow", "{connectionPool: {http: {http2MaxRequests: 1}}}")
    with held(yard), dial(yard.port, to=TO) as first:
        first.sendall(b"GET / HTTP/1.1\r\nhost: overflow.test\r\n\r\n")
        yard.until(lambda: yard.stat("cluster.outbound|80||overflow.test;.upstream_rq_active") == 1)
        answer = yard.get("overflow.test", to=TO)
    assert (answer.status, answer.headers["x-envoy-overloaded"]) == (503, "true")


def test_requests_a_connection(yard: Yard) -> None:
    use(yard, "one-each", "{connectionPool: {http: {maxRequestsPerConnection: 1}}}")
    assert yard.share("one-each.test", 4, to=TO) == {"a": 4}
    assert yard.stat("cluster.outbound|80||one-each.test;.upstream_cx_total") == 4
    use(yard, "kept", "{connectionPool: {http: {maxRequestsPerConnection: 0}}}")
    assert yard.share("kept.test", 4, to=TO) == {"a": 4}
    assert yard.stat("cluster.outbound|80||kept.test;.upstream_cx_total") == 1


@pytest.mark.parametrize(
    ("name", "pool", "reason"),
    [
        pytest.param("idle", "{http: {idleTimeout: 0.1s}}", "upstream_cx_idle_timeout", id="idleTimeout"),
        pytest.param("idle-tcp", "{tcp: {idleTimeout: 0.1s}}", "upstream_cx_idle_timeout", id="tcp.idleTimeout"),
        pytest.param("old", "{tcp: {maxConnectionDuration: 0.1s}}", "upstream_cx_max_duration_reached", id="duration"),
    ],
)
def test_connections_of_http_end(yard: Yard, name: str, pool: str, reason: str) -> None:
    use(yard, name, f"{{connectionPool: {pool}}}")
    assert yard.get(f"{name}.test", to=TO).status == 200
    yard.until(lambda: yard.stat(f"cluster.outbound|80||{name}.test;.{reason}") == 1)
    assert yard.get(f"{name}.test", to=TO).status == 200


RETRIED = """---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name}
spec:
  hosts: [$name.test]
  http:
  - retries: {attempts: 1, retryOn: "503", backoff: 0.3s}
    route: [{destination: {host: $name.test}}]
"""


@pytest.mark.parametrize(
    ("name", "policy", "retries"),
    [
        pytest.param("retries", "{connectionPool: {http: {maxRetries: 2}}}", 2, id="maxRetries"),
        pytest.param("budget", "{retryBudget: {percent: 0, minRetryConcurrency: 2}}", 2, id="minRetryConcurrency"),
        pytest.param("share", "{retryBudget: {percent: 50, minRetryConcurrency: 1}}", 4, id="percent"),
        pytest.param("default", "{retryBudget: {}}", 3, id="default budget"),
    ],
)
def test_retries_at_once_are_limited(yard: Yard, name: str, policy: str, retries: int) -> None:
    use(yard, name, policy, more=RETRIED)
    app = yard.apps["a"]
    app.statuses += [503] * 99
    try:
        together(yard, name, 8)
    finally:
        app.statuses.clear()
    asked = yard.stat(f"cluster.outbound|80||{name}.test;.upstream_rq_retry")
    refused = yard.stat(f"cluster.outbound|80||{name}.test;.upstream_rq_retry_overflow")
    assert asked + refused == 8
    # Of a share: requests that end make it smaller. Of any: on a busy machine one retry may be over before the next.
    assert retries - 1 <= asked < 8


def test_a_budget_may_count_requests_that_are_over(yard: Yard) -> None:
    # Twenty requests have been served within the interval: half of them may be retried, although none is under way.
    use(yard, "interval", "{retryBudget: {percent: 50, minRetryConcurrency: 0, budgetInterval: 60s}}", more=RETRIED)
    assert yard.share("interval.test", 20, to=TO) == {"a": 20}
    app = yard.apps["a"]
    app.statuses += [503] * 6
    assert together(yard, "interval", 6) == {"200": 6}


def test_http2_is_spoken_where_the_rule_says_so(yard: Yard) -> None:
    with Tape() as tape:
        use(yard, "upgrade", "{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}", http=tape.port)
        with dial(yard.port, to=TO) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: upgrade.test\r\n\r\n")
            yard.until(lambda: any(data.startswith(H2_PREFACE) for data in tape.connections))


MESH_UPGRADE = """---
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {h2UpgradePolicy: UPGRADE}
"""


@pytest.mark.parametrize(
    ("name", "policy", "h2"),
    [
        pytest.param("mesh-up", "{connectionPool: {http: {h2UpgradePolicy: DEFAULT}}}", True, id="DEFAULT"),
        pytest.param("mesh-not", "{connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}}", False, id="refused"),
        pytest.param("mesh-client", "{connectionPool: {http: {useClientProtocol: true}}}", False, id="the client's"),
    ],
)
def test_the_mesh_upgrades_where_no_rule_objects(yard: Yard, name: str, policy: str, h2: bool) -> None:
    with Tape() as tape:
        use(yard, name, policy, more=MESH_UPGRADE, http=tape.port)
        with dial(yard.port, to=TO) as sock:
            sock.sendall(f"GET / HTTP/1.1\r\nhost: {name}.test\r\n\r\n".encode())
            yard.until(lambda: any(tape.connections))
            assert tape.connections[0].startswith(H2_PREFACE) == h2


def test_http2_of_a_client_stays_http2_where_the_rule_says_so(yard: Yard) -> None:
    with Tape() as tape:
        use(yard, "same", "{connectionPool: {http: {useClientProtocol: true}}}", http=tape.port)
        with dial(yard.port, to=TO) as sock:
            sock.sendall(H2_PREFACE + bytes(3) + b"\x04" + bytes(5) + _h2_request("same.test"))
            yard.until(lambda: any(data.startswith(H2_PREFACE) for data in tape.connections))


def _h2_request(host: str) -> bytes:
    # HPACK: :method GET, :scheme http, :path / from the static table, :authority as a literal without index.
    block = b"\x82\x86\x84\x01" + bytes([len(host)]) + host.encode()
    return len(block).to_bytes(3, "big") + b"\x01\x05" + (1).to_bytes(4, "big") + block


def test_streams_a_connection_and_keepalive_of_http2(yard: Yard) -> None:
    pool = "{h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 1, http2KeepAlive: {interval: 0.1s, timeout: 5s}}"
    with Tape() as tape, ExitStack() as stack:
        use(yard, "streams", f"{{connectionPool: {{http: {pool}}}}}", http=tape.port)
        for _ in range(2):
            sock = stack.enter_context(dial(yard.port, to=TO))
            sock.sendall(b"GET / HTTP/1.1\r\nhost: streams.test\r\n\r\n")
        yard.until(lambda: len(tape.connections) == 2)
        yard.until(lambda: any(kind == H2_PING for _, kind in tape.frames()))


# ---------------------------------------------------------------- connecting


def test_time_to_connect(yard: Yard) -> None:
    with Full() as full:
        use(yard, "connect", "{connectionPool: {tcp: {connectTimeout: 0.2s}}}", http=full.port)
        started = time.monotonic()
        assert yard.get("connect.test", to=TO).status == 503
        assert time.monotonic() - started < 5  # the mesh's own would be 10 s


def test_the_meshs_time_to_connect(yard: Yard) -> None:
    with Full() as full:
        use(
            yard,
            "mesh-connect",
            "{loadBalancer: {simple: RANDOM}}",
            more=MESH % "connectTimeout: 200ms",
            http=full.port,
        )
        started = time.monotonic()
        assert yard.get("mesh-connect.test", to=TO).status == 503
        assert time.monotonic() - started < 5


def test_keepalive_of_tcp(yard: Yard) -> None:
    keepalive = "{tcp: {tcpKeepalive: {time: 300s, interval: 30s, probes: 4}}}"
    use(yard, "alive", f"{{connectionPool: {keepalive}}}")
    assert yard.get("alive.test", to=TO).status == 200
    assert 200 < _keepalive_seconds(yard.apps["a"].port) <= 300


def test_the_meshs_keepalive_is_where_no_rule_has_one(yard: Yard) -> None:
    mesh = """---
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {tcpKeepalive: {time: 7200s, probes: 4}}
"""
    use(yard, "mesh-alive", "{connectionPool: {tcp: {tcpKeepalive: {probes: 3}}}}", more=mesh)
    assert yard.get("mesh-alive.test", to=TO).status == 200
    assert 7000 < _keepalive_seconds(yard.apps["a"].port) <= 7200


def _keepalive_seconds(port: int) -> float:
    """Return when the kernel will next probe connections to `port`: the longest of those that are kept alive."""
    found = [0.0]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        timer, _, when = fields[5].partition(":")
        if int(fields[2].partition(":")[2], 16) == port and timer == "02":
            found.append(int(when, 16) / 100)  # in hundredths, whatever the kernel's own tick
    return max(found)


# ---------------------------------------------------------------- TCP


def test_connections_at_once(yard: Yard) -> None:
    use(yard, "two-tcp", "{connectionPool: {tcp: {maxConnections: 2}}}")
    with ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(dial(yard.port, to=TCP_TO))
            sock.sendall(b"hello")
            assert sock.recv(100) == b"x:hello"
        assert yard.says(TCP_TO) == b""
    yard.until(lambda: yard.says(TCP_TO) == b"x:hello")


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        pytest.param("tcp-idle", "{connectionPool: {tcp: {idleTimeout: 0.2s}}}", id="idleTimeout"),
        pytest.param("tcp-old", "{connectionPool: {tcp: {maxConnectionDuration: 0.3s}}}", id="maxConnectionDuration"),
        pytest.param(
            "tcp-port",
            "{connectionPool: {tcp: {idleTimeout: 9s}}, portLevelSettings: [{port: {number: 9000}, "
            "connectionPool: {tcp: {idleTimeout: 0.2s}}}]}",
            id="of a port",
        ),
        pytest.param(
            "tcp-whole",
            "{connectionPool: {tcp: {idleTimeout: 0.2s}}, portLevelSettings: [{port: {number: 9000}, "
            "loadBalancer: {simple: RANDOM}}]}",
            id="of the service where the port says nothing",
        ),
    ],
)
def test_connections_of_tcp_end(yard: Yard, name: str, policy: str) -> None:
    use(yard, name, policy)
    with dial(yard.port, to=TCP_TO) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"x:hello"
        assert _end_of(sock)


@pytest.mark.parametrize("field", ["idleTimeout: 0.2s", "maxConnectionDuration: 0.2s"])
def test_the_meshs_default_ends_connections_of_tcp(yard: Yard, field: str) -> None:
    mesh = f"""---
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {{name: mesh}}
spec: {{defaultTrafficPolicy: {{connectionPool: {{tcp: {{{field}}}}}}}}}
"""
    use(yard, "mesh-tcp", "{loadBalancer: {simple: RANDOM}}", more=mesh)
    with dial(yard.port, to=TCP_TO) as sock:
        assert _end_of(sock)


def _end_of(sock: socket.socket) -> bool:
    try:
        return sock.recv(100) == b""
    except ConnectionResetError:
        return True


# ---------------------------------------------------------------- what goes before the bytes


@pytest.mark.parametrize(
    ("version", "start"),
    [
        pytest.param("V1", b"PROXY TCP4 10.1.0.7 10.9.0.1 40000 9000\r\n", id="V1"),
        pytest.param("V2", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11", id="V2"),
    ],
)
def test_the_proxy_protocol(yard: Yard, version: str, start: bytes) -> None:
    with Tape(answer=b"thanks") as tape:
        use(yard, f"proxy-{version.lower()}", f"{{proxyProtocol: {{version: {version}}}}}", tcp=tape.port)
        assert yard.says(TCP_TO, source="10.1.0.7") == b"thanks"
        assert tape.connections[0].startswith(start)


@pytest.mark.parametrize(
    ("protocol", "asked"),
    [
        pytest.param("CONNECT", "CONNECT ledger.partner.test:443 HTTP/1.1", id="CONNECT"),
        pytest.param("POST", "POST / HTTP/1.1", id="POST"),
    ],
)
def test_a_tunnel_through_a_forward_proxy(yard: Yard, protocol: str, asked: str) -> None:
    tunnel = f"{{tunnel: {{protocol: {protocol}, targetHost: ledger.partner.test, targetPort: 443}}}}"
    with ConnectProxy(yard.tcp["x"].port) as proxy:
        use(yard, f"tunnel-{protocol.lower()}", tunnel, more="", tcp=proxy.port)
        assert yard.says(TCP_TO) == b"x:hello"
        assert proxy.asked[0].startswith(asked)
        assert "host: ledger.partner.test:443" in proxy.asked[0].lower()


TUNNELED_SUBSET = """
  subsets:
  - {name: direct}
  - {name: tunneled, trafficPolicy: {tunnel: {targetHost: ledger.partner.test, targetPort: 443}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: $name}
spec:
  hosts: [$name.test]
  tcp:
  - route: [{destination: {host: $name.test, subset: %s}}]
"""


def test_a_subset_has_a_tunnel_of_its_own(yard: Yard) -> None:
    with ConnectProxy(yard.tcp["x"].port) as proxy:
        policy = "{loadBalancer: {simple: RANDOM}}"
        use(yard, "parts", policy, more=TUNNELED_SUBSET % "tunneled", tcp=proxy.port)
        assert yard.says(TCP_TO) == b"x:hello"
        assert len(proxy.asked) == 1
    use(yard, "parts", policy, more=TUNNELED_SUBSET % "direct")
    assert yard.says(TCP_TO) == b"x:hello"


def test_the_subset_of_a_rule_with_a_tunnel_is_reached_directly(yard: Yard) -> None:
    tunnel = "{tunnel: {targetHost: ledger.partner.test, targetPort: 443}}"
    use(yard, "whole", tunnel, more=TUNNELED_SUBSET % "direct")
    assert yard.says(TCP_TO) == b"x:hello"


# ---------------------------------------------------------------- retries and names of the mesh


MESH = """---
apiVersion: mesh.istio.io/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {%s}
"""


def test_the_meshs_retries_are_where_no_route_has_any(yard: Yard) -> None:
    app = yard.apps["a"]
    default = "{loadBalancer: {simple: RANDOM}}"
    use(yard, "mesh-retries", default, more=MESH % "defaultHttpRetryPolicy: {attempts: 3, retryOn: '503'}")
    app.statuses += [503, 503, 503]
    answer = yard.get("mesh-retries.test", to=TO)
    assert (answer.status, answer.json["headers"]["x-envoy-attempt-count"]) == (200, "4")
    own = RETRIED.replace("attempts: 1", "attempts: 0").replace(', retryOn: "503", backoff: 0.3s', "")
    more = MESH % "defaultHttpRetryPolicy: {attempts: 3, retryOn: '503'}" + own
    use(yard, "own-retries", default, more=more)
    app.statuses.append(503)
    assert yard.get("own-retries.test", to=TO).status == 503
    use(yard, "no-retries", default, more=MESH % "defaultHttpRetryPolicy: {attempts: 0}", http=1)
    assert yard.get("no-retries.test", to=TO).status == 503
    assert yard.stat("cluster.outbound|80||no-retries.test;.upstream_rq_retry") == 0


def test_names_of_statistics(yard: Yard) -> None:
    pattern = "outboundClusterStatName: '%SERVICE%|%SERVICE_FQDN%|%SERVICE_PORT%|%SERVICE_PORT_NAME%|%SUBSET_NAME%'"
    use(yard, "named", "{loadBalancer: {simple: RANDOM}}\n  subsets: [{name: v1}]", more=MESH.replace("%s", pattern))
    for subset in ("", "v1"):
        name = f"cluster.named.test|named.test|80|http|{subset};.membership_total"
        assert yard.stat(name) == 1, name


def test_an_http_proxy_where_the_mesh_asks_for_one(yard: Yard) -> None:
    port = free_port()
    use(yard, "proxied", "{loadBalancer: {simple: RANDOM}}", more=MESH % f"proxyHttpPort: {port}")
    with dial(port) as sock:
        assert ask(sock, "http://proxied.test/page", host="proxied.test").json["path"] == "/page"
