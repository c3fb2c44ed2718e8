"""grpcio's own xDS client resolves and calls a service through the server: the state-of-the-world side is right."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    Rds,
)
from tests.fakes.xds import ADS, FakeSlice, FakeSource, make_resource
from tests.pilot.xds.conftest import eventually, serving

from lateen.pilot.xds.server import AdsServer
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, RDS

HOST = "greeter.default.svc.cluster.local:80"
NODE = "sidecar~127.0.0.1~client-v1.default~default.svc.cluster.local"

# Another process: grpc reads its bootstrap once, from the environment.
CLIENT = """
import sys, grpc
with grpc.insecure_channel("xds:///" + sys.argv[1]) as channel:
    call = channel.unary_unary("/test.Greeter/Name", None, None)
    for line in sys.stdin:
        try:
            print(call(b"", timeout=10, wait_for_ready=line != "now\\n").decode(), flush=True)
        except grpc.RpcError as fault:
            print(fault.code().name, fault.details(), flush=True)
"""


@asynccontextmanager
async def greeter(name: str) -> AsyncIterator[int]:
    """Serve /test.Greeter/Name on a free port of loopback."""

    async def answer(_request: bytes, _context: object) -> bytes:
        return name.encode()

    server = grpc.aio.server()
    handlers = {"Name": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Greeter", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def make_api_listener() -> Resource:
    manager = HttpConnectionManager(rds=Rds(route_config_name="greeter", config_source=ADS))
    router = manager.http_filters.add(name="router")
    router.typed_config.type_url = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    listener = Listener(name=HOST)
    listener.api_listener.api_listener.Pack(manager)
    return make_resource(HOST, listener)


def make_grpc_route(cluster: str) -> Resource:
    host = VirtualHost(name="greeter", domains=["*"])
    route = host.routes.add()
    route.match.prefix = ""
    route.route.cluster = cluster
    return make_resource("greeter", RouteConfiguration(name="greeter", virtual_hosts=[host]))


def make_grpc_cluster(name: str) -> Resource:
    cluster = Cluster(name=name, type=Cluster.EDS)
    cluster.eds_cluster_config.eds_config.CopyFrom(ADS)
    return make_resource(name, cluster)


def make_grpc_endpoints(name: str, port: int) -> Resource:
    message = ClusterLoadAssignment(cluster_name=name)
    group = message.endpoints.add(load_balancing_weight={"value": 1})
    group.locality.region = "here"
    address = group.lb_endpoints.add().endpoint.address.socket_address
    address.address, address.port_value = "127.0.0.1", port
    return make_resource(name, message)


async def test_a_proxyless_client_resolves_calls_and_follows(folder: Path) -> None:
    async with greeter("one") as one, greeter("two") as two:
        clusters = FakeSlice(CDS, make_grpc_cluster("v1"))
        endpoints = FakeSlice(EDS, make_grpc_endpoints("v1", one))
        listeners = FakeSlice(LDS, make_api_listener())
        routes = FakeSlice(RDS, make_grpc_route("v1"))
        source = FakeSource(clusters, endpoints, listeners, routes)
        ads = AdsServer(source)
        bootstrap = {
            "xds_servers": [
                {
                    "server_uri": f"unix:{folder}/xds.sock",
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": ["xds_v3"],
                }
            ],
            "node": {"id": NODE},
        }
        async with serving(ads, f"unix:{folder}/xds.sock"):
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLIENT, HOST,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                env={"GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)},
            )  # fmt: skip

            async def call(line: str = "") -> str:
                """Call the service; with "now" at once, without waiting until it is there."""
                assert client.stdin is not None
                assert client.stdout is not None
                client.stdin.write(f"{line}\n".encode())
                await client.stdin.drain()
                return (await asyncio.wait_for(client.stdout.readline(), 20)).decode().strip()

            async def answers(expected: str, line: str = "") -> None:
                async def answered() -> bool:
                    return (await call(line)).startswith(expected)

                await eventually(answered)

            try:
                assert await call() == "one"
                (info,) = ads.status()
                assert (info.name, info.namespace) == ("client-v1", "default")
                # Other endpoints of the same cluster.
                source.push((endpoints, [make_grpc_endpoints("v1", two)]))
                await answers("two")
                # Another cluster by another route; the old one leaves.
                source.push(
                    (routes, [make_grpc_route("v2")]),
                    (clusters, [make_grpc_cluster("v2"), "v1"]),
                    (endpoints, [make_grpc_endpoints("v2", one), "v1"]),
                )
                await answers("one")
                # The service is gone.
                source.push((listeners, [HOST]))
                await answers("UNAVAILABLE", "now")
                # ... and back.
                source.push((listeners, [make_api_listener()]))
                await answers("one", "now")
                assert source.rejections == []
            finally:
                if client.stdin is not None:
                    client.stdin.close()
                await client.wait()
