"""MySQL, Redis and MongoDB: real servers and real clients through two sidecars, their metrics and their L4 policy."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e import servers
from tests.e2e.harness import ECHO, MeshRun, eventually
from tests.e2e.measuring import samples

pytestmark = [pytest.mark.e2e, pytest.mark.netns, pytest.mark.envoy, pytest.mark.timeout(150)]

ASK = str(Path(__file__).parent / "apps" / "ask_data.py")
CLIENT = "client-v1"

# "shards" asks for redis_proxy; "redis", implied by the workloads, is the same servers as plain connections.
SERVICES = """
apiVersion: v1
kind: Service
metadata:
  name: shards
  annotations: {lateen.local/redis-proxy: "true"}
spec:
  selector: {app: redis}
  ports: [{name: redis, port: 6379}]
"""


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshRun]:
    run = MeshRun()
    try:
        run.write("services.yaml", SERVICES)
        run.up()
        run.workload("client", "v1", [sys.executable, str(ECHO)], words=["--service-account", "reader"])
        run.gateway()
        run.wait_ready(CLIENT, "ingressgateway")
        yield run
    finally:
        run.close()


@pytest.fixture(autouse=True)
def _own_rules_only(mesh: MeshRun) -> Iterator[None]:
    yield
    for path in mesh.config.glob("test-*.yaml"):
        path.unlink()


@pytest.fixture(scope="module")
def mysql(mesh: MeshRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the service; its workload is `mysql-v1`."""
    argv = servers.mariadb(tmp_path_factory.mktemp("m"))
    mesh.workload("mysql", "v1", argv, port="mysql:3306", words=["--service-account", "data"])
    mesh.wait_ready("mysql-v1")
    return "mysql"


@pytest.fixture(scope="module")
def redis(mesh: MeshRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the service; its workloads are `redis-v1` and `redis-v2`."""
    for version in ("v1", "v2"):
        argv = servers.redis_server(tmp_path_factory.mktemp("r"))
        mesh.workload("redis", version, argv, port="redis:6379", words=["--service-account", "data"])
    mesh.wait_ready("redis-v1", "redis-v2")
    return "redis"


@pytest.fixture(scope="module")
def mongo(mesh: MeshRun, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the service; its workload is `mongo-v1`."""
    argv = servers.mongodb(tmp_path_factory.mktemp("d"))
    mesh.workload("mongo", "v1", argv, port="mongo:27017", words=["--service-account", "data"])
    mesh.wait_ready("mongo-v1")
    return "mongo"


def ask(mesh: MeshRun, *words: str, of: str = CLIENT) -> Any:
    result = mesh.inside(of, [sys.executable, ASK, *words], seconds=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def ask_until(mesh: MeshRun, *words: str) -> Any:
    """Ask until there is an answer: an endpoint comes a moment after its server listens."""

    def answered() -> Any:
        found = ask(mesh, *words)
        assert "error" not in found, found
        return found

    return eventually(answered, what=f"an answer to {words}")


def assert_mutual_tls(mesh: MeshRun, service: str, *workloads: str, served_as: str = "") -> None:
    """Hold what both proxies counted: whose connections, that they were mutual TLS, and that bytes went both ways.

    `served_as`: what the server's proxy calls the port, where several services are on it.
    """
    host = f'destination_service="{service}.default.svc.cluster.local"'
    served = f'destination_service="{served_as or service}.default.svc.cluster.local"'
    at_server = (
        served,
        'reporter="destination"',
        'connection_security_policy="mutual_tls"',
        'source_principal="spiffe://cluster.local/ns/default/sa/reader"',
        'destination_principal="spiffe://cluster.local/ns/default/sa/data"',
        'request_protocol="tcp"',
    )
    at_client = (host, 'reporter="source"', 'destination_principal="spiffe://cluster.local/ns/default/sa/data"')

    def measured() -> bool:
        for family in ("connections_opened", "connections_closed", "sent_bytes", "received_bytes"):
            name = f"istio_tcp_{family}_total"
            assert sum(samples(mesh, workload, name, *at_server) for workload in workloads) > 0, name
            assert samples(mesh, CLIENT, name, *at_client) > 0, name
            plain = (served, 'reporter="destination"', 'connection_security_policy="none"')
            assert sum(samples(mesh, workload, name, *plain) for workload in workloads) == 0, name
        return True

    eventually(measured, what=f"TCP metrics of {service}", seconds=15)


# ---------------------------------------------------------------- MySQL


def test_mysql_at_once_and_with_large_values(mesh: MeshRun, mysql: str) -> None:
    answer = ask_until(mesh, "mysql", mysql)
    assert "MariaDB" in answer["version"]
    assert (answer["count"], answer["total"], answer["large"]) == (500, 1000, True)
    # A server that speaks first is not held up: nobody waits for the client's first bytes on a port named mysql.
    assert answer["connect_seconds"] < 5
    assert_mutual_tls(mesh, mysql, "mysql-v1")


def test_connections_to_mysql_are_limited(mesh: MeshRun, mysql: str) -> None:
    ask_until(mesh, "mysql-hold", mysql, "1")
    mesh.write(
        "test-limit.yaml",
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: mysql}
spec:
  host: mysql
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 2}}}
""",
    )
    answer = eventually(
        lambda: found if (found := ask(mesh, "mysql-hold", mysql, "4"))["refused"] else None, what="the limit holds"
    )
    assert (answer["held"], answer["alive"], len(answer["refused"])) == (2, 2, 2)
    eventually(
        lambda: samples(mesh, CLIENT, "istio_tcp_connections_opened_total", 'response_flags="UO"') >= 2,
        what="refused connections are counted",
        seconds=15,
    )
    (mesh.config / "test-limit.yaml").unlink()
    eventually(lambda: ask(mesh, "mysql-hold", mysql, "4")["held"] == 4, what="no limit")


def test_who_may_speak_plain_text_to_mysql(mesh: MeshRun, mysql: str) -> None:
    """From beside the gateway, where nothing is captured, there is no client certificate."""
    found = mesh.workload_status("mysql-v1")
    assert found is not None

    def plain() -> Any:
        return ask(mesh, "mysql-hold", found["ip"], "1", "2", of="ingressgateway")

    def policy(mode: str) -> str:
        return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: mysql}}
spec:
  selector: {{matchLabels: {{app: mysql}}}}
  mtls: {{mode: STRICT}}
  portLevelMtls: {{3306: {{mode: {mode}}}}}
"""

    mesh.write("test-mtls.yaml", policy("STRICT"))
    eventually(lambda: plain()["held"] == 0, what="plain text is refused")
    assert ask(mesh, "mysql-hold", mysql, "1")["alive"] == 1
    mesh.write("test-mtls.yaml", policy("DISABLE"))
    eventually(lambda: plain()["alive"] == 1, what="plain text is taken, at once")
    eventually(lambda: ask(mesh, "mysql-hold", mysql, "1").get("alive") == 1, what="sidecars speak plain text as well")


def test_who_may_ask_mysql_by_identity(mesh: MeshRun, mysql: str) -> None:
    found = mesh.workload_status("mysql-v1")
    assert found is not None

    def allow(account: str) -> str:
        return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: mysql}}
spec:
  selector: {{matchLabels: {{app: mysql}}}}
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/{account}]}}}}]
    to: [{{operation: {{ports: ["3306"]}}}}]
"""

    mesh.write("test-authz.yaml", allow("reader"))
    eventually(
        lambda: ask(mesh, "mysql-hold", found["ip"], "1", "2", of="ingressgateway")["held"] == 0,
        what="who has no identity is refused",
    )
    assert ask(mesh, "mysql-hold", mysql, "1")["alive"] == 1
    mesh.write("test-authz.yaml", allow("writer"))
    eventually(lambda: ask(mesh, "mysql-hold", mysql, "1", "2")["held"] == 0, what="another account is refused")
    (mesh.config / "test-authz.yaml").unlink()
    eventually(lambda: ask(mesh, "mysql-hold", mysql, "1").get("alive") == 1, what="nothing is refused any more")


# ---------------------------------------------------------------- Redis


def test_redis_as_plain_connections(mesh: MeshRun, redis: str) -> None:
    mesh.write(
        "test-one.yaml",
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: redis}
spec:
  host: redis
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: redis}
spec:
  hosts: [redis]
  tcp: [{route: [{destination: {host: redis, subset: v1}}]}]
""",
    )
    answer = ask_until(mesh, "redis", redis)
    assert answer["greeting"] == "hello"
    assert answer["counts"] == ["20"] * 10
    assert answer["transaction"] == [True, 2, "2"]
    assert answer["heard"] == ["subscribe", "sails up"]
    assert answer["large"]
    assert_mutual_tls(mesh, redis, "redis-v1", "redis-v2", served_as="shards")


def test_redis_proxy_spreads_keys_over_servers(mesh: MeshRun, redis: str) -> None:
    ask_until(mesh, "redis-keys", "shards", "1")
    for version in ("v1", "v2"):
        mesh.inside(f"redis-{version}", ["redis-cli", "flushall"])
    answer = ask(mesh, "redis-keys", "shards", "100")
    assert answer == {"ping": True, "read": True}
    held = [
        int(mesh.inside(f"redis-{version}", ["redis-cli", "dbsize"]).stdout.split()[-1]) for version in ("v1", "v2")
    ]
    assert sum(held) == 100, held
    assert min(held) >= 20, held

    heard = ask(mesh, "redis-refused", "shards")
    assert heard["GET"] == "1"
    assert "unknown command 'SUBSCRIBE'" in heard["SUBSCRIBE"], (
        "a subscription is a connection's, which no key leads to"
    )
    assert "unsupported protocol version" in heard["HELLO"]

    prefix = 'redis_prefix="outbound|6379||shards.default.svc.cluster.local"'
    counted = {
        name: samples(mesh, CLIENT, f"envoy_redis_{name}", prefix)
        for name in ("command_set_total", "command_set_error", "command_mget_total", "downstream_cx_total")
    }
    assert counted["command_set_total"] >= 100
    assert counted["command_set_error"] == 0
    assert counted["command_mget_total"] >= 1
    assert counted["downstream_cx_total"] >= 2


# ---------------------------------------------------------------- MongoDB


def test_mongodb_and_what_its_filter_counts(mesh: MeshRun, mongo: str) -> None:
    answer = ask_until(mesh, "mongo", mongo)
    assert answer == {"count": 400, "threes": 100, "large": 1 << 20, "listed": 400}
    assert_mutual_tls(mesh, mongo, "mongo-v1")
    prefix = 'mongo_prefix="outbound|27017||mongo.default.svc.cluster.local"'
    # Today's drivers speak OP_MSG, which Envoy's filter does not read: it says so once a connection and lets all pass.
    errors = samples(mesh, CLIENT, "envoy_mongo_decoding_error", prefix)
    assert errors >= 1
    assert ask(mesh, "mongo-greeting", mongo) == {"ok": 1.0}
    assert samples(mesh, CLIENT, "envoy_mongo_op_query", prefix) == 1
    assert samples(mesh, CLIENT, "envoy_mongo_op_reply", prefix) == 1
    assert samples(mesh, CLIENT, "envoy_mongo_decoding_error", prefix) == errors
