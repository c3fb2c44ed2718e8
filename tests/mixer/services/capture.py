"""Write down what a real Envoy sends to Mixer: `python -m tests.mixer.services.capture` renews what is in `captured/`.

One Envoy with every filter that asks or reports, a client with a certificate of a mesh, and a server that keeps the
bytes of each message as they come. The files are what the conversions are tested with.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from tests.fakes.certs import StrangeAuthority
from tests.fakes.proxies import envoy_binary, make_identity
from tests.fakes.tokens import jwks, sign

from lateen.wire.peer_env import peer_environment

CAPTURED = Path(__file__).parent / "captured"
TYPE = "type.googleapis.com/envoy.extensions."
PORTS = {"mtls": 19411, "plain": 19412, "tcp": 19413}
GRPC = {"envoy_grpc": {"cluster_name": "mixer"}, "timeout": "2s"}


def typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": TYPE + kind, **fields}}


def bootstrap(folder: Path, certificate: str, key: str, bundle: str) -> dict[str, Any]:
    common = {"log_name": "x", "transport_api_version": "V3", "grpc_service": GRPC, "buffer_flush_interval": "0.05s"}
    ask = {"grpc_service": GRPC, "transport_api_version": "V3", "include_tls_session": True}
    spaces = ["istio.peer", "envoy.filters.http.jwt_authn"]
    tls = typed(
        "tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context={
            "tls_certificates": [{"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}],
            "validation_context": {"trusted_ca": {"filename": bundle}},
        },
    )
    peer = typed(
        "envoy.filters.http.header_to_metadata",
        "filters.http.header_to_metadata.v3.Config",
        request_rules=[
            {
                "header": "x-lateen-peer",
                "on_header_present": {
                    "metadata_namespace": "istio.peer",
                    "key": "downstream",
                    "type": "STRING",
                },
                "remove": True,
            }
        ],
    )
    token = typed(
        "envoy.filters.http.jwt_authn",
        "filters.http.jwt_authn.v3.JwtAuthentication",
        providers={
            "a": {
                "issuer": "staff",
                "local_jwks": {"inline_string": jwks("ec")},
                "payload_in_metadata": "payload",
                "forward": True,
            }
        },
        rules=[
            {
                "match": {"prefix": "/"},
                "requires": {"requires_any": {"requirements": [{"provider_name": "a"}, {"allow_missing": {}}]}},
            }
        ],
    )
    limits = [
        {
            "actions": [
                {"request_headers": {"header_name": "x-client", "descriptor_key": "client"}},
                {"generic_key": {"descriptor_key": "request.path", "descriptor_value": "/items"}},
            ]
        }
    ]

    def manager(*filters: Any, rate_limits: Any = ()) -> Any:
        return typed(
            "envoy.filters.network.http_connection_manager",
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="h",
            route_config={
                "virtual_hosts": [
                    {
                        "name": "a",
                        "domains": ["*"],
                        "rate_limits": list(rate_limits),
                        "routes": [
                            {
                                "match": {"prefix": "/"},
                                **(
                                    {"route": {"cluster": "web"}}
                                    if rate_limits
                                    else {"direct_response": {"status": 200, "body": {"inline_string": "ok"}}}
                                ),
                            }
                        ],
                    }
                ]
            },
            http_filters=[*filters, typed("envoy.filters.http.router", "filters.http.router.v3.Router")],
            access_log=[
                typed(
                    "als",
                    "access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
                    common_config=common,
                    additional_request_headers_to_log=["x-client"],
                    additional_response_headers_to_log=["server"],
                )
            ],
        )

    def listener(name: str, *filters: Any, tls: Any = None) -> Any:
        chain = {"filters": list(filters), **({"transport_socket": tls} if tls else {})}
        return {
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": PORTS[name]}},
            "filter_chains": [chain],
        }

    authz = typed(
        "envoy.filters.http.ext_authz", "filters.http.ext_authz.v3.ExtAuthz", metadata_context_namespaces=spaces, **ask
    )
    rls = typed(
        "envoy.filters.http.ratelimit",
        "filters.http.ratelimit.v3.RateLimit",
        domain="shop",
        rate_limit_service={"grpc_service": GRPC, "transport_api_version": "V3"},
    )
    tcp_authz = typed(
        "envoy.filters.network.ext_authz", "filters.network.ext_authz.v3.ExtAuthz", stat_prefix="t", **ask
    )
    proxy = typed(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix="t",
        cluster="echo",
        access_log=[typed("als", "access_loggers.grpc.v3.TcpGrpcAccessLogConfig", common_config=common)],
    )

    def pipe(name: str, path: Path, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(path)}}}}]}],
            },
            **more,
        }

    http2 = {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPE + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    }
    return {
        "static_resources": {
            "listeners": [
                listener("mtls", manager(peer, token, authz), tls=tls),
                listener("plain", manager(authz, rls, rate_limits=limits)),
                listener("tcp", tcp_authz, proxy, tls=tls),
                {**listener("plain", manager()), "name": "web", "address": {"pipe": {"path": str(folder / "w.sock")}}},
            ],
            "clusters": [
                pipe("mixer", folder / "m.sock", **http2),
                pipe("echo", folder / "e.sock"),
                pipe("web", folder / "w.sock"),
            ],
        }
    }


class Keeper:
    """Answers yes to everything, and keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.kept: list[tuple[str, bytes]] = []
        yes = CheckResponse()
        yes.status.code = 0
        answers = {
            ("envoy.service.auth.v3.Authorization", "Check"): yes.SerializeToString(),
            ("envoy.service.ratelimit.v3.RateLimitService", "ShouldRateLimit"): RateLimitResponse(
                overall_code=RateLimitResponse.OK
            ).SerializeToString(),
        }
        self.server = grpc.server(ThreadPoolExecutor(4))
        for (service, method), answer in answers.items():
            self.server.add_generic_rpc_handlers(
                (
                    grpc.method_handlers_generic_handler(
                        service, {method: grpc.unary_unary_rpc_method_handler(self._keep(method, answer))}
                    ),
                )
            )
        self.server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "envoy.service.accesslog.v3.AccessLogService",
                    {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(self._logs)},
                ),
            )
        )
        self.server.add_insecure_port(f"unix:{path}")
        self.server.start()

    def _keep(self, method: str, answer: bytes) -> Any:
        def kept(data: bytes, _: Any) -> bytes:
            self.kept.append((method, data))
            return answer

        return kept

    def _logs(self, messages: Any, _: Any) -> bytes:
        for data in messages:
            self.kept.append(("Log", data))
        return b""

    def take(self, method: str) -> bytes:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            for position, (name, data) in enumerate(self.kept):
                if name == method:
                    del self.kept[position]
                    return data
            time.sleep(0.02)
        raise AssertionError(f"no {method}")


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        authority = StrangeAuthority()
        server = make_identity(authority, "ratings", "shop").write(folder)
        client = make_identity(authority, "web", "front").write(folder)
        keeper = Keeper(folder / "m.sock")
        threading.Thread(target=echo, args=(folder / "e.sock",), daemon=True).start()
        (folder / "b.json").write_text(json.dumps(bootstrap(folder, *server)))
        envoy = subprocess.Popen(
            [
                envoy_binary(),
                "-c",
                str(folder / "b.json"),
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "-l",
                "warning",
            ]
        )
        try:
            wait_for(PORTS["plain"])
            keep(keeper, client)
        finally:
            envoy.kill()
            envoy.wait()
            keeper.server.stop(0)


def keep(keeper: Keeper, client: tuple[str, str, str]) -> None:
    context = ssl.create_default_context(cafile=client[2])
    context.check_hostname = False
    context.load_cert_chain(client[0], client[1])
    peer = peer_environment(
        workload="web-v1", namespace="front", cluster="Kubernetes", labels={"app": "web", "version": "v1"}
    )["LATEEN_PEER"]
    token = sign(
        {"iss": "staff", "sub": "ann", "aud": ["shop", "till"], "azp": "app", "groups": ["interns"], "exp": 4e9}
    )
    secure = http.client.HTTPSConnection("127.0.0.1", PORTS["mtls"], context=context)
    secure._create_connection = lambda *a, **k: socket.create_connection(("127.0.0.1", PORTS["mtls"]))  # type: ignore[attr-defined]
    secure.host = "ratings.shop.svc.cluster.local"
    secure.request(
        "POST",
        "/items/7?colour=red&colour=blue&q=a%20b",
        body=b"12345",
        headers={
            "host": "ratings:9080",
            "x-client": "c1",
            "authorization": f"Bearer {token}",
            "x-lateen-peer": peer,
            "user-agent": "probe/1",
            "referer": "http://shop/",
            "x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/a/sa/b",
            "x-request-id": "made-up",
            "x-forwarded-for": "10.9.9.9",
        },
    )
    assert secure.getresponse().read() == b"ok"
    save("check-http-mtls", keeper.take("Check"))
    save("log-http-mtls", keeper.take("Log"))
    plain = http.client.HTTPConnection("127.0.0.1", PORTS["plain"])
    for _ in range(3):
        plain.request("GET", "/items", headers={"x-client": "c1", "x-twice": "a"})
        assert plain.getresponse().read() == b"ok"
    save("check-http-plain", keeper.take("Check"))
    save("rate-limit", keeper.take("ShouldRateLimit"))
    time.sleep(0.5)
    save("log-http-plain", keeper.take("Log"))
    raw = context.wrap_socket(socket.create_connection(("127.0.0.1", PORTS["tcp"])), server_hostname="ratings.shop")
    raw.sendall(b"hello")
    assert raw.recv(5) == b"hello"
    raw.close()
    keeper.kept = [(name, data) for name, data in keeper.kept if name == "Check" and b"hello" not in data]
    save("check-tcp-mtls", keeper.kept[-1][1])
    save("log-tcp-mtls", keeper.take("Log"))


def save(name: str, data: bytes) -> None:
    if name.startswith("log"):
        message = StreamAccessLogsMessage.FromString(data)
        message.identifier.node.ClearField("extensions")  # 60 kB of names that nobody reads
        data = message.SerializeToString()
    (CAPTURED / f"{name}.bin").write_bytes(data)


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("Envoy does not listen")


def echo(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        while True:
            sock, _ = listener.accept()
            while data := sock.recv(1000):
                sock.sendall(data)
            sock.close()


if __name__ == "__main__":
    main()
