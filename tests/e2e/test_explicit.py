"""A mesh without namespaces: loopback addresses, an HTTP proxy for each workload, and mutual TLS all the same."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from tests.e2e.harness import MeshRun, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.envoy, pytest.mark.timeout(120)]

TCP_LISTEN = "0A"  # st of /proc/net/tcp, proc(5)


@pytest.fixture(scope="module")
def shop() -> Iterator[MeshRun]:
    mesh = MeshRun(network="explicit")
    try:
        mesh.shop()
        yield mesh
    finally:
        mesh.close()


def test_the_shop_works_over_the_proxies(shop: MeshRun) -> None:
    assert shop.get("/productpage").status == 200
    assert shop.reviewers(40) == {"v1", "v2", "v3"}  # which one is chance
    assert shop.get("/api/v1/products/0/ratings").json["ratings"]


def test_the_status_says_explicit(shop: MeshRun) -> None:
    status = shop.status()
    assert status["controlPlane"]["network"] == "explicit"
    assert {w["mode"] for w in status["workloads"]} == {"explicit"}
    addresses = [w["ip"] for w in status["workloads"]]
    assert len(set(addresses)) == len(addresses)
    assert all(ip_address(ip).is_loopback for ip in addresses)
    assert "explicit" in shop.run("status").stdout


def test_sidecars_speak_mutual_tls_on_loopback(shop: MeshRun) -> None:
    shop.reviewers(6)

    def measured() -> bool:
        lines = [line for line in shop.metrics("reviews-v2").splitlines() if line.startswith("istio_requests_total{")]
        served = [line for line in lines if 'reporter="destination"' in line]
        assert served
        for line in served:
            assert 'connection_security_policy="mutual_tls"' in line
            assert 'source_principal="spiffe://cluster.local/ns/default/sa/bookinfo-productpage"' in line
            assert 'source_workload="productpage-v1"' in line
        called = [line for line in lines if 'reporter="source"' in line]
        assert any('destination_workload="ratings-v1"' in line for line in called), lines
        return True

    eventually(measured, what="mutual TLS in the metrics")


def test_traffic_follows_configuration(shop: MeshRun) -> None:
    shop.write(
        "test-reviews.yaml",
        """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v3, labels: {version: v3}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route: [{destination: {host: reviews, subset: v3}}]
""",
    )
    eventually(lambda: shop.reviewers(4) == {"v3"}, what="all to v3")
    (shop.config / "test-reviews.yaml").unlink()
    eventually(lambda: shop.reviewers(9) == {"v1", "v2", "v3"}, what="all versions again")


def test_policies_decide_by_identity_and_port(shop: MeshRun) -> None:
    def allow(account: str) -> str:
        return f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ratings}}
spec:
  selector: {{matchLabels: {{app: ratings}}}}
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/{account}]}}}}]
    to: [{{operation: {{ports: ["9080"]}}}}]
"""

    def rated() -> bool:
        return shop.get("/api/v1/products/0/ratings").status == 200

    shop.write("test-authz.yaml", allow("bookinfo-reviews"))
    eventually(lambda: not rated(), what="productpage may not ask for ratings")
    shop.write("test-authz.yaml", allow("bookinfo-productpage"))
    eventually(rated, what="productpage may ask for ratings")
    (shop.config / "test-authz.yaml").unlink()


def test_nothing_listens_beyond_loopback(shop: MeshRun) -> None:
    heard = listening(mesh_processes(shop))
    assert len(heard) > 10, "each workload has its proxy, health and metrics ports"
    assert [where for where in heard if not where[0].is_loopback] == []


def mesh_processes(mesh: MeshRun) -> set[int]:
    """Return the processes that the mesh started, and their descendants."""
    found = {process.pid for process in mesh.processes.values()}
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[stat.rfind(")") + 2 :].split()[1])
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids: set[int]) -> list[tuple[IPv4Address | IPv6Address, int]]:
    """Return where these processes listen, as (address, port)."""
    inodes = set()
    for pid in pids:
        try:
            descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    heard = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            local, state, inode = line.split()[1], line.split()[3], line.split()[9]
            if state == TCP_LISTEN and inode in inodes:
                address, port = local.split(":")
                heard.append((_address(address), int(port, 16)))
    return heard


def _address(text: str) -> IPv4Address | IPv6Address:
    # Words of 32 bits in the machine's own order.
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    return ip_address(socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, raw))
