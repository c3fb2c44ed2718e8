"""A mesh's state folder with one real Envoy in it, as `lateen proxy-config` finds one."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lateen.agent.envoy import find_envoy
from lateen.settings import Settings

WORKLOAD = "reviews-v3"
MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
TLS_INSPECTOR = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
START_SECONDS = 20.0
REVIEWS = "outbound|9080|v3|reviews.default.svc.cluster.local"
RULE = "/apis/networking.istio.io/v1/namespaces/default"


def make_certificate(serial: int) -> tuple[str, str]:
    """Return a self-signed certificate that is valid today and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + timedelta(days=1))
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return builder.sign(key, hashes.SHA256()).public_bytes(pem).decode(), private.decode()


def _endpoint(port: int, health: str) -> dict[str, Any]:
    address = {"socket_address": {"address": "10.77.0.9", "port_value": port}}
    return {"endpoint": {"address": address}, "health_status": health}


def _route(prefix: str, cluster: str, rule: str = "") -> dict[str, Any]:
    route: dict[str, Any] = {"match": {"prefix": prefix}, "route": {"cluster": cluster}}
    if rule:
        route["metadata"] = {"filter_metadata": {"istio": {"config": f"{RULE}/virtual-service/{rule}"}}}
    return route


def _http(name: str, hosts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "http",
        "typed_config": {
            "@type": MANAGER,
            "stat_prefix": name,
            "route_config": {"name": name, "virtual_hosts": hosts},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
        },
    }


def make_bootstrap(folder: Path, certificate: str, key: str, root: str) -> dict[str, Any]:
    """Return a bootstrap with one of each thing that the tables show. Its listeners are not bound to a port."""
    hosts = [
        {
            "name": "reviews.default.svc.cluster.local:9080",
            "domains": ["reviews", "reviews.default", "reviews:9080", "reviews.default.svc.cluster.local", "10.96.0.7"],
            "routes": [_route("/reviews", REVIEWS, "reviews"), _route("/", REVIEWS)],
        },
        {"name": "empty", "domains": ["empty.default"]},
    ]
    inbound = [{"name": "inbound|http|9080", "domains": ["*"], "routes": [_route("/", "inbound|9080||")]}]
    tcp = {"name": "tcp", "typed_config": {"@type": TCP_PROXY, "stat_prefix": "t", "cluster": "BlackHoleCluster"}}
    tls_match = {"transport_protocol": "tls", "application_protocols": ["istio-peer-exchange", "istio"]}
    return {
        "node": {
            "id": "sidecar~10.77.0.5~reviews-v3.default~default.svc.cluster.local",
            "cluster": "reviews.default",
            "metadata": {"NAMESPACE": "default", "LABELS": {"app": "reviews"}},
        },
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock")}}},
        "static_resources": {
            "secrets": [
                {
                    "name": "default",
                    "tls_certificate": {
                        "certificate_chain": {"inline_string": certificate},
                        "private_key": {"inline_string": key},
                    },
                },
                {"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": root}}},
            ],
            "clusters": [
                {
                    "name": REVIEWS,
                    "type": "STATIC",
                    "metadata": {"filter_metadata": {"istio": {"config": f"{RULE}/destination-rule/reviews"}}},
                    "load_assignment": {
                        "cluster_name": REVIEWS,
                        "endpoints": [{"lb_endpoints": [_endpoint(9080, "HEALTHY"), _endpoint(9081, "UNHEALTHY")]}],
                    },
                },
                {"name": "inbound|9080||", "type": "STATIC"},
                {"name": "BlackHoleCluster", "type": "STATIC"},
            ],
            "listeners": [
                {
                    "name": "10.96.0.7_9080",
                    "address": {"socket_address": {"address": "10.96.0.7", "port_value": 9080}},
                    "bind_to_port": False,
                    "filter_chains": [{"filters": [_http("9080", hosts)]}],
                },
                {
                    "name": "virtualInbound",
                    "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
                    "bind_to_port": False,
                    "listener_filters": [
                        {
                            "name": "envoy.filters.listener.tls_inspector",
                            "typed_config": {"@type": TLS_INSPECTOR},
                        }
                    ],
                    "filter_chains": [
                        {"name": "loop", "filter_chain_match": {"destination_port": 15006}, "filters": [tcp]},
                        {"name": "tls", "filter_chain_match": tls_match, "filters": [tcp]},
                    ],
                    "default_filter_chain": {"name": "http", "filters": [_http("inbound|9080||", inbound)]},
                },
            ],
        },
    }


@pytest.fixture(scope="session")
def envoy_state() -> Iterator[tuple[Settings, str]]:
    """Yield the settings of a state folder in which a real Envoy is the proxy of `reviews-v3`, and its private key."""
    state = Path(tempfile.mkdtemp(prefix="lt"))  # short: the paths of Unix sockets must be
    settings = Settings(state=state)
    folder = settings.workload_dir(WORKLOAD)
    folder.mkdir(parents=True)
    certificate, key = make_certificate(serial=0xABC)
    root, _ = make_certificate(serial=0xDEF)
    bootstrap = folder / "envoy.json"
    bootstrap.write_text(json.dumps(make_bootstrap(folder, certificate, key, root)))
    log = (folder / "envoy.log").open("w")
    arguments = [str(find_envoy()), "-c", str(bootstrap), "--disable-hot-restart", "--concurrency", "1", "-l", "warn"]
    process = subprocess.Popen(arguments, stdout=log, stderr=log)
    try:
        _wait_for(folder / "admin.sock", process, folder / "envoy.log")
        yield settings, key
    finally:
        process.kill()
        process.wait()
        log.close()
        shutil.rmtree(state)


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with socket.socket(socket.AF_UNIX) as probe:
            if path.exists() and probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.02)  # between two looks at another process, with a deadline
    raise AssertionError(f"Envoy did not start: {log.read_text()}")
