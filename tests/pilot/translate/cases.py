"""Inputs of the golden cases, by name: `<kind>/<case>`; each gives one message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from google.protobuf.message import Message
from tests.pilot.translate.authz_cases import ASKING, DECIDING, TRIED
from tests.pilot.translate.token_cases import REQUEST_AUTH, TOKEN_CASES

from lateen.api import destination_rule as dr
from lateen.api import virtual_service as vs
from lateen.api.mesh import TLSConfig
from lateen.api.protocol import Protocol
from lateen.pilot.model.values import (
    ALLOW_ANY_DYNAMIC_DNS,
    REGISTRY_ONLY,
    AutoMtls,
    Cluster,
    ClusterInput,
    ConfigRef,
    Destination,
    DynamicClusterInput,
    DynamicTarget,
    EndpointInput,
    EndpointsInput,
    GatewayListenerInput,
    GatewayServer,
    HashPolicy,
    Hostname,
    HttpProxyListenerInput,
    InboundListenerInput,
    InboundPort,
    MirrorInput,
    MtlsMode,
    OutboundListenerInput,
    Peer,
    Resolution,
    RouteConfigInput,
    RouteInput,
    ServerTls,
    ServiceRef,
    TcpLimits,
    TcpRoute,
    Tunnel,
    UpstreamTls,
    VirtualHostInput,
    VirtualOutboundInput,
    ZoneAware,
)
from lateen.pilot.model.values_authz import Spelling
from lateen.pilot.model.values_telemetry import AccessLog, FileLog, Telemetry, Tracing
from lateen.pilot.translate.clusters import (
    build_dynamic_cluster,
    build_fixed_clusters,
    build_inbound_cluster,
    build_outbound_cluster,
)
from lateen.pilot.translate.endpoints import build_endpoints
from lateen.pilot.translate.gateway import build_gateway_listener
from lateen.pilot.translate.inbound import build_inbound_listeners
from lateen.pilot.translate.listeners import (
    build_http_proxy_listener,
    build_outbound_listener,
    build_virtual_outbound,
)
from lateen.pilot.translate.routes import build_route_config

Case = Callable[[], Message]

REVIEWS = ServiceRef(hostname=Hostname("reviews.default.svc.cluster.local"), name="reviews", namespace="default")
SAN = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
TEN_SECONDS = timedelta(seconds=10)
QUIET = Telemetry()
TRACED = Telemetry(tracing=Tracing(tracer=None))
RULE = ConfigRef("networking.istio.io", "v1", "DestinationRule", "default", "reviews")
V1 = Cluster("outbound|9080|v1|reviews.default.svc.cluster.local")
V2 = Cluster("outbound|9080|v2|reviews.default.svc.cluster.local")


def logged(*, path: str = "/dev/stdout", json: bool = False, format: str = "") -> Telemetry:
    return Telemetry(access_logs=(AccessLog(sink=FileLog(path=path, json=json, format=format)),))


# ---------------------------------------------------------------- clusters


def cluster(**changes: Any) -> ClusterInput:
    """One HTTP port of a mesh service, with automatic mutual TLS."""
    plain = ClusterInput(
        service=REVIEWS,
        port=9080,
        port_name="http",
        protocol=Protocol.HTTP,
        resolution=Resolution.EDS,
        connect_timeout=TEN_SECONDS,
        auto_mtls=AutoMtls.PER_ENDPOINT,
        sans=(SAN,),
    )
    return replace(plain, **changes)


def external(**changes: Any) -> ClusterInput:
    """One port of a service outside the mesh."""
    host = Hostname("api.example.com")
    return cluster(
        **{
            "service": ServiceRef(hostname=host, name=host, namespace="default"),
            "port": 443,
            "protocol": Protocol.HTTP,
            "mesh_external": True,
            "auto_mtls": AutoMtls.OFF,
            "sans": (),
            **changes,
        }
    )


def http_pool(**settings: Any) -> dr.ConnectionPoolSettings:
    return dr.ConnectionPoolSettings(http=dr.HTTPSettings(**settings))


def hashing(**settings: Any) -> dr.LoadBalancerSettings:
    return dr.LoadBalancerSettings(consistent_hash=dr.ConsistentHashLB(**settings))


FULL_POOL = dr.ConnectionPoolSettings(
    tcp=dr.TCPSettings(
        max_connections=200,
        connect_timeout=timedelta(milliseconds=700),
        idle_timeout=timedelta(minutes=20),
        max_connection_duration=timedelta(hours=2),
        tcp_keepalive=dr.TcpKeepalive(probes=4, time=timedelta(seconds=300), interval=timedelta(seconds=30)),
    ),
    http=dr.HTTPSettings(
        http1_max_pending_requests=10,
        http2_max_requests=500,
        max_requests_per_connection=50,
        max_retries=7,
        idle_timeout=timedelta(seconds=90),
        h2_upgrade_policy="UPGRADE",
        max_concurrent_streams=64,
        http2_keep_alive=dr.Http2KeepAlive(interval=timedelta(seconds=20), timeout=timedelta(seconds=5)),
    ),
)
OUTLIERS = dr.OutlierDetection(
    consecutive5xx_errors=6,
    consecutive_gateway_errors=3,
    interval=timedelta(seconds=15),
    base_ejection_time=timedelta(minutes=1),
    max_ejection_percent=40,
)

CLUSTERS: dict[str, ClusterInput] = {
    "http": cluster(),
    "http2": cluster(protocol=Protocol.HTTP2, port_name="http2"),
    "grpc-subset": cluster(protocol=Protocol.GRPC, subset="v1", rule=RULE),
    "auto": cluster(protocol=Protocol.AUTO, port_name="any"),
    "dynamic-dns": external(resolution=Resolution.DYNAMIC_DNS, port=80),
    "dynamic-dns-tls": external(resolution=Resolution.DYNAMIC_DNS, port=80, tls=UpstreamTls(mode="SIMPLE")),
    "auto-gateway": cluster(protocol=Protocol.AUTO, for_gateway=True),
    "tcp": cluster(protocol=Protocol.TCP, port_name="tcp"),
    "redis-proxy": cluster(protocol=Protocol.REDIS, port_name="redis", redis_proxy=True),
    "client-tls": cluster(protocol=Protocol.TCP, client_tls=True, for_gateway=True, auto_mtls=AutoMtls.OFF, sans=()),
    "tcp-limits": cluster(
        protocol=Protocol.TCP,
        connection_pool=dr.ConnectionPoolSettings(tcp=dr.TCPSettings(max_connections=5)),
    ),
    "plain": cluster(auto_mtls=AutoMtls.OFF),
    "headless": cluster(resolution=Resolution.ORIGINAL_DST, auto_mtls=AutoMtls.ALL),
    "headless-target-port": cluster(resolution=Resolution.ORIGINAL_DST, auto_mtls=AutoMtls.OFF, target_port=8080),
    "mesh-h2-upgrade": cluster(h2_upgrade=True),
    "mesh-h2-upgrade-refused": cluster(h2_upgrade=True, connection_pool=http_pool(h2_upgrade_policy="DO_NOT_UPGRADE")),
    "client-protocol": cluster(connection_pool=http_pool(use_client_protocol=True)),
    "pool": cluster(connection_pool=FULL_POOL, rule=RULE),
    "pool-idle-off": cluster(connection_pool=dr.ConnectionPoolSettings(tcp=dr.TCPSettings(idle_timeout=timedelta(0)))),
    "retry-budget": cluster(retry_budget=dr.RetryBudget(percent=25, min_retry_concurrency=5)),
    "retry-budget-defaults": cluster(retry_budget=dr.RetryBudget()),
    "outliers": cluster(outlier_detection=OUTLIERS),
    "outliers-off": cluster(outlier_detection=dr.OutlierDetection(consecutive5xx_errors=0)),
    "outliers-local-origin": cluster(
        outlier_detection=dr.OutlierDetection(
            split_external_local_origin_errors=True, consecutive_local_origin_failures=4
        )
    ),
    "outliers-panic": cluster(outlier_detection=dr.OutlierDetection(min_health_percent=30)),
    "outliers-statuses": cluster(
        outlier_detection=dr.OutlierDetection(outlier_detection_http_error_codes=(500, 503, 529))
    ),
    "outliers-one-status": cluster(outlier_detection=dr.OutlierDetection(outlier_detection_http_error_codes=(429,))),
    "lb-round-robin": cluster(load_balancer=dr.LoadBalancerSettings(simple="ROUND_ROBIN")),
    "lb-random": cluster(load_balancer=dr.LoadBalancerSettings(simple="RANDOM")),
    "lb-passthrough": cluster(load_balancer=dr.LoadBalancerSettings(simple="PASSTHROUGH"), auto_mtls=AutoMtls.OFF),
    "lb-warmup": cluster(
        load_balancer=dr.LoadBalancerSettings(
            simple="LEAST_REQUEST",
            warmup=dr.WarmupConfiguration(duration=timedelta(seconds=45), minimum_percent=15, aggression=1.5),
        )
    ),
    "lb-warmup-old": cluster(
        load_balancer=dr.LoadBalancerSettings(simple="ROUND_ROBIN", warmup_duration_secs=timedelta(seconds=30))
    ),
    "lb-warmup-random": cluster(
        load_balancer=dr.LoadBalancerSettings(
            simple="RANDOM", warmup=dr.WarmupConfiguration(duration=timedelta(seconds=45))
        )
    ),
    "lb-ring-hash": cluster(load_balancer=hashing(http_header_name="x-user")),
    "lb-ring-hash-size": cluster(
        load_balancer=hashing(use_source_ip=True, ring_hash=dr.RingHash(minimum_ring_size=2048))
    ),
    "lb-maglev": cluster(load_balancer=hashing(use_source_ip=True, maglev=dr.MagLev(table_size=65537))),
    "keepalive-of-the-mesh": cluster(
        tcp_keepalive=dr.TcpKeepalive(time=timedelta(seconds=60), probes=9),
        connection_pool=dr.ConnectionPoolSettings(
            tcp=dr.TCPSettings(tcp_keepalive=dr.TcpKeepalive(probes=3, interval=timedelta(milliseconds=100)))
        ),
    ),
    "stat-name": cluster(stat_name="reviews_9080"),
    "lb-locality-weighted": cluster(locality_weighted=True),
    "lb-locality-weighted-panic": cluster(
        locality_weighted=True, outlier_detection=dr.OutlierDetection(min_health_percent=30)
    ),
    "lb-zone-aware": cluster(zones=ZoneAware(min_cluster_size=2)),
    "lb-zone-aware-off": cluster(zones=ZoneAware(enabled=False)),
    "tls-disable": cluster(tls=UpstreamTls(mode="DISABLE")),
    "tls-istio-mutual": cluster(tls=UpstreamTls(mode="ISTIO_MUTUAL")),
    "tls-istio-mutual-own": cluster(
        tls=UpstreamTls(mode="ISTIO_MUTUAL", sni="reviews", subject_alt_names=("spiffe://other/ns/a/sa/b",))
    ),
    "tls-simple": external(tls=UpstreamTls(mode="SIMPLE")),
    "tls-simple-named": external(
        protocol=Protocol.HTTP2,
        tls=UpstreamTls(
            mode="SIMPLE",
            sni="api.internal",
            subject_alt_names=("10.0.0.1", "api.internal"),
            ca_certificates="/etc/ca.pem",
        ),
    ),
    "tls-simple-unverified": external(tls=UpstreamTls(mode="SIMPLE", insecure_skip_verify=True)),
    "tls-simple-credential": external(tls=UpstreamTls(mode="SIMPLE", credential_name="partner")),
    "tls-mutual-files": external(
        tls=UpstreamTls(
            mode="MUTUAL",
            client_certificate="/etc/c.pem",
            private_key="/etc/k.pem",
            ca_certificates="/etc/ca.pem",
        )
    ),
    "tls-mutual-credential": external(tls=UpstreamTls(mode="MUTUAL", credential_name="kubernetes://default/partner")),
    "tls-simple-defaults": external(
        tls=UpstreamTls(mode="SIMPLE"),
        tls_defaults=TLSConfig(
            min_protocol_version="TLSV1_3", cipher_suites=("ECDHE-RSA-AES128-GCM-SHA256",), ecdh_curves=("P-256",)
        ),
    ),
    "tls-simple-tcp": external(protocol=Protocol.TLS, tls=UpstreamTls(mode="SIMPLE")),
    "proxy-protocol": cluster(proxy_protocol="V2"),
    "proxy-protocol-plain": external(proxy_protocol="V1"),
    "external-dns": external(
        resolution=Resolution.DNS,
        port=80,
        endpoints=(
            EndpointInput(address="one.example.com", port=80, locality="a/b/c"),
            EndpointInput(address="two.example.com", port=80, weight=3, locality="a/b/c"),
        ),
    ),
    "external-dns-round-robin": external(
        resolution=Resolution.DNS_ROUND_ROBIN,
        port=80,
        ipv6=True,
        dns_refresh=timedelta(seconds=5),
        endpoints=(EndpointInput(address="one.example.com", port=80),),
    ),
}


def inbound_port(**changes: Any) -> InboundPort:
    plain = InboundPort(port=9080, service_port=80, protocol=Protocol.HTTP, mtls=MtlsMode.PERMISSIVE, service=REVIEWS)
    return replace(plain, **changes)


INBOUND_CLUSTERS: dict[str, InboundPort] = {
    "http": inbound_port(),
    "grpc": inbound_port(protocol=Protocol.GRPC),
    "auto": inbound_port(protocol=Protocol.AUTO),
    "tcp": inbound_port(protocol=Protocol.TCP, service=None),
    "pool": inbound_port(connection_pool=FULL_POOL),
    "forward": inbound_port(forward="127.0.0.1:31234"),
    "stat-name": inbound_port(stat_name="reviews.default_9080"),
    "forward-unix": inbound_port(forward="unix:///run/app.sock"),
}


def fixed(name: str) -> Case:
    return lambda: next(entry for entry in build_fixed_clusters(for_gateway=False) if entry.name == name)


# ---------------------------------------------------------------- endpoints

PEER = Peer(
    workload="reviews-v1",
    namespace="default",
    cluster="Kubernetes",
    app="reviews",
    version="v1",
    canonical_service="reviews",
    canonical_revision="v1",
)
BARE_PEER = replace(PEER, app="", version="", canonical_revision="")

ENDPOINTS: dict[str, tuple[EndpointInput, ...]] = {
    "none": (),
    "mesh": (
        EndpointInput(address="10.77.0.5", port=9080, mtls=True, peer=PEER),
        EndpointInput(address="10.77.0.6", port=9080, mtls=True, peer=BARE_PEER, healthy=False, weight=2),
        EndpointInput(address="10.77.0.7", port=9080),
    ),
    "localities": (
        EndpointInput(address="10.77.0.5", port=9080, locality="a/b/c"),
        EndpointInput(address="10.77.0.6", port=9080, locality="a/b/c", weight=4),
        EndpointInput(address="fd00::7", port=9080, locality="a"),
        EndpointInput(address="10.77.0.8", port=9080, priority=1, locality="z/y"),
    ),
    "distributed": (
        EndpointInput(address="10.77.0.5", port=9080, locality="a/b", locality_weight=80),
        EndpointInput(address="10.77.0.6", port=9080, locality="a/b", locality_weight=80),
        EndpointInput(address="10.77.0.7", port=9080, locality="z", locality_weight=20),
    ),
    "unix": (EndpointInput(address="/run/app.sock", port=0),),
}


# ---------------------------------------------------------------- routes


def route(**changes: Any) -> RouteInput:
    plain = RouteInput(name="default", destinations=(Destination(cluster=V1),))
    return replace(plain, **changes)


def matched(**settings: Any) -> RouteInput:
    return route(match=vs.HTTPMatchRequest(**settings))


def host(*routes: RouteInput, **changes: Any) -> VirtualHostInput:
    plain = VirtualHostInput(name="reviews:9080", domains=("reviews", "10.96.0.1"), routes=routes)
    return replace(plain, **changes)


def headers(**request: Any) -> vs.Headers:
    return vs.Headers(request=vs.HeaderOperations(**request))


def exact(text: str) -> vs.StringMatch:
    return vs.StringMatch(exact=text)


PRESENT = vs.StringMatch()

ROUTES: dict[str, tuple[RouteInput, ...]] = {
    "default": (route(operation="reviews.default.svc.cluster.local:9080/*"),),
    "match-paths": (
        matched(uri=exact("/exact"), ignore_uri_case=True),
        matched(uri=vs.StringMatch(prefix="/prefix")),
        matched(uri=vs.StringMatch(prefix="")),
        matched(uri=vs.StringMatch(regex="/r[0-9]+")),
        matched(uri=PRESENT),
    ),
    "match-headers": (
        matched(
            headers={
                "x-b": vs.StringMatch(prefix="b"),
                "x-a": exact("a"),
                "x-c": vs.StringMatch(regex="c.*"),
                "x-present": PRESENT,
                "x-any": vs.StringMatch(regex="*"),
            },
            without_headers={"x-d": exact("d"), "x-absent": PRESENT, "x-none": vs.StringMatch(regex="*")},
        ),
    ),
    "match-pseudo": (
        matched(method=exact("GET"), authority=vs.StringMatch(prefix="shop."), scheme=vs.StringMatch(regex="https?")),
    ),
    "match-claims": (
        matched(
            headers={"@request.auth.claims.group": exact("admin"), "x-a": exact("a")},
            without_headers={"@request.auth.claims[a][b.c]": PRESENT},
        ),
    ),
    "match-query": (
        matched(query_params={"v": exact("1"), "b": PRESENT, "a": vs.StringMatch(regex="*"), "e": exact("")}),
    ),
    "match-stats": (matched(stat_prefix="beta"),),
    "weights": (
        route(
            destinations=(
                Destination(cluster=V1, weight=80, headers=headers(set={"x-lane": "v1"})),
                Destination(cluster=V2, weight=20, headers=headers(set={"host": "v2.local"}, remove=("x-debug",))),
            ),
            rule=ConfigRef("networking.istio.io", "v1", "VirtualService", "default", "reviews"),
        ),
        # The rule's headers are repeated before those of each destination, which come after them.
        route(
            headers=headers(set={"x-lane": "rule"}),
            destinations=(
                Destination(cluster=V1, weight=1, headers=headers(set={"x-lane": "v1"})),
                Destination(cluster=V2, weight=1),
            ),
        ),
        route(
            headers=headers(set={"x-lane": "rule"}),
            destinations=(Destination(cluster=V1, weight=1), Destination(cluster=V2, weight=1)),
        ),
    ),
    "redirects": (
        route(destinations=(), redirect=vs.HTTPRedirect(uri="/new", authority="new.example.com", redirect_code=308)),
        route(destinations=(), redirect=vs.HTTPRedirect(prefix_rewrite="/v2", scheme="https")),
        route(destinations=(), redirect=vs.HTTPRedirect(scheme="https", port=443)),
        route(destinations=(), redirect=vs.HTTPRedirect(port=8443, redirect_code=302)),
        route(destinations=(), listen_port=8080, redirect=vs.HTTPRedirect(derive_port="FROM_REQUEST_PORT")),
        route(destinations=(), listen_port=80, redirect=vs.HTTPRedirect(derive_port="FROM_REQUEST_PORT")),
        route(destinations=(), redirect=vs.HTTPRedirect(derive_port="FROM_PROTOCOL_DEFAULT", redirect_code=303)),
        route(destinations=(), tls=True, redirect=vs.HTTPRedirect(port=443, redirect_code=307)),
    ),
    "direct-responses": (
        route(
            destinations=(),
            direct_response=vs.HTTPDirectResponse(status=418, body=vs.HTTPBody(string="short and stout")),
            headers=vs.Headers(response=vs.HeaderOperations(set={"content-type": "text/plain"})),
        ),
        route(destinations=(), direct_response=vs.HTTPDirectResponse(status=200, body=vs.HTTPBody(bytes=b"\x00\x01"))),
        route(destinations=(), direct_response=vs.HTTPDirectResponse(status=204)),
    ),
    "timeouts": (route(timeout=timedelta(seconds=2, milliseconds=500)), route(timeout=timedelta(0))),
    "retries": (
        route(retries=vs.HTTPRetry(attempts=0)),
        route(retries=vs.HTTPRetry(attempts=3)),
        route(
            retries=vs.HTTPRetry(
                attempts=3,
                per_try_timeout=timedelta(seconds=1),
                retry_on="gateway-error,409",
                backoff=timedelta(milliseconds=50),
                retry_remote_localities=True,
                retry_ignore_previous_hosts=False,
            )
        ),
        route(retries=vs.HTTPRetry(attempts=1, retry_on="retriable-status-codes,503,599")),
        route(hash_policies=(HashPolicy(kind="source-ip"),)),
        route(
            hash_policies=(HashPolicy(kind="source-ip"),),
            retries=vs.HTTPRetry(attempts=1, retry_ignore_previous_hosts=True),
        ),
    ),
    "rewrites": (
        route(match=vs.HTTPMatchRequest(uri=vs.StringMatch(prefix="/a")), rewrite=vs.HTTPRewrite(uri="/b")),
        route(rewrite=vs.HTTPRewrite(authority="other"), headers=headers(set={"host": "ignored"})),
        route(
            rewrite=vs.HTTPRewrite(
                uri="/ignored", uri_regex_rewrite=vs.RegexRewrite(match="^/v1/(.*)$", rewrite="/v2/\\1")
            )
        ),
    ),
    "headers": (
        route(
            headers=vs.Headers(
                request=vs.HeaderOperations(
                    set={"x-b": "2", "x-a": "%REQ(x-id)%", ":path": "/no"}, add={"x-c": "3"}, remove=("x-d", "host")
                ),
                response=vs.HeaderOperations(set={"x-e": "5"}, add={"x-f": "6"}, remove=("x-g",)),
            ),
            destinations=(Destination(cluster=V1, headers=headers(add={":authority": "dest", "x-h": "7"})),),
        ),
        route(headers=headers(set={":authority": "set"}, add={"host": "added"})),
    ),
    "faults": (
        route(
            fault=vs.HTTPFaultInjection(
                delay=vs.FaultDelay(percentage=vs.Percent(value=2.5), fixed_delay=timedelta(milliseconds=300)),
                abort=vs.FaultAbort(percentage=vs.Percent(value=100), grpc_status="UNAVAILABLE"),
            )
        ),
        route(fault=vs.HTTPFaultInjection(abort=vs.FaultAbort(http_status=503))),
        route(fault=vs.HTTPFaultInjection(delay=vs.FaultDelay(percent=50, fixed_delay=timedelta(seconds=1)))),
    ),
    "cors": (
        route(
            cors=vs.CorsPolicy(
                allow_origins=(exact("https://shop.test"), vs.StringMatch(regex="https://[a-z]+\\.test")),
                allow_methods=("GET", "POST"),
                allow_headers=("x-a", "x-b"),
                expose_headers=("x-c",),
                max_age=timedelta(minutes=10),
                allow_credentials=True,
                unmatched_preflights="IGNORE",
            )
        ),
        route(cors=vs.CorsPolicy(allow_origin=("https://old.test",), allow_credentials=False)),
    ),
    "mirrors": (route(mirrors=(MirrorInput(cluster=V2, percent=100.0), MirrorInput(cluster=V2, percent=0.5))),),
    "hash-policies": (
        route(
            hash_policies=(
                HashPolicy(kind="header", name="x-user"),
                HashPolicy(kind="cookie", name="a"),
                HashPolicy(kind="cookie", name="b", ttl=timedelta(0), path="/", attributes=(("SameSite", "Strict"),)),
                HashPolicy(kind="query", name="q"),
                HashPolicy(kind="source-ip"),
            )
        ),
    ),
}

ROUTES["dynamic-host"] = (
    route(
        rewrite=vs.HTTPRewrite(authority="inner.test"),
        dynamic_host="inner.test",
        destinations=(Destination(cluster=V1),),
    ),
)

ROUTE_CONFIGS: dict[str, RouteConfigInput] = {
    "allow-any": RouteConfigInput(name="9080", virtual_hosts=(host(route()),), catch_all="ALLOW_ANY"),
    "dynamic-dns": RouteConfigInput(name="9080", virtual_hosts=(), catch_all=ALLOW_ANY_DYNAMIC_DNS),
    "registry-only": RouteConfigInput(name="9080", virtual_hosts=(), catch_all=REGISTRY_ONLY),
    "egress-proxy": RouteConfigInput(
        name="9080", virtual_hosts=(), catch_all="ALLOW_ANY", egress_proxy=Cluster("outbound|80||egress")
    ),
    "http3": RouteConfigInput(name="https.443.web.shop.default", virtual_hosts=(host(route()),), http3_port=8443),
    "require-tls": RouteConfigInput(name="http.80", virtual_hosts=(host(require_tls=True),), ignore_port_in_host=False),
}


# ---------------------------------------------------------------- listeners


def tcp(**changes: Any) -> TcpRoute:
    plain = TcpRoute(destinations=(Destination(cluster=Cluster("outbound|9000||db")),), stat_prefix="outbound|9000||db")
    return replace(plain, **changes)


def outbound(**changes: Any) -> OutboundListenerInput:
    plain = OutboundListenerInput(bind="10.96.0.7", port=9000, telemetry=QUIET)
    return replace(plain, **changes)


OUTBOUND: dict[str, OutboundListenerInput] = {
    "http-wildcard": outbound(bind="0.0.0.0", http_route="9000", telemetry=TRACED),
    "http-wildcard-registry-only": outbound(
        bind="0.0.0.0", http_route="9000", policy=REGISTRY_ONLY, sniff_timeout=timedelta(seconds=5)
    ),
    "http-address": outbound(http_route="9000", bind_to_port=True, extra_addresses=("10.96.0.8",)),
    "tcp": outbound(tcp=(tcp(service=REVIEWS, rule=RULE),)),
    "tcp-tunnel": outbound(tcp=(tcp(tunnel=Tunnel(host="ledger.test", port=443)),)),
    "tcp-tunnel-post": outbound(tcp=(tcp(tunnel=Tunnel(host="fd00::1", port=443, post=True)),)),
    "tcp-weights": outbound(
        tcp=(
            tcp(
                stat_prefix="split.default",
                destinations=(
                    Destination(cluster=V1, weight=3),
                    Destination(cluster=V2, weight=1),
                    Destination(cluster=V2, weight=0),
                ),
                limits=TcpLimits(idle_timeout=timedelta(minutes=20), max_duration=timedelta(hours=1)),
                hash_source_ip=True,
            ),
        )
    ),
    "mongo": outbound(tcp=(tcp(protocol=Protocol.MONGO),)),
    "redis": outbound(tcp=(tcp(protocol=Protocol.REDIS),)),
    "redis-proxy": outbound(tcp=(tcp(protocol=Protocol.REDIS, redis_proxy=True),)),
    "auto": outbound(http_route="svc:9000", tcp=(tcp(),)),
    "tls": outbound(
        bind="0.0.0.0",
        tcp=(tcp(sni=("a.test", "b.test")), tcp(subnets=("10.1.0.0/16", "10.9.9.9")), tcp(sources=("10.77.0.0/16",))),
    ),
    "tls-default": outbound(tcp=(tcp(sni=("a.test",)), tcp())),
    "tcp-egress-proxy": outbound(
        tcp=(tcp(sni=("a.test",)),), egress_proxy=Cluster("outbound|80||egress"), bind="0.0.0.0"
    ),
    "dynamic-dns": outbound(bind="0.0.0.0", http_route="9000", dynamic_dns=timedelta(seconds=60)),
    "dynamic-dns-tls": outbound(
        bind="0.0.0.0",
        tcp=(tcp(sni=("*.a.test",), dynamic=DynamicTarget(port=8443, dns_refresh=timedelta(seconds=60))),),
    ),
    "unix": outbound(bind="unix:///run/out.sock", port=0, bind_to_port=True, http_route="/run/out.sock"),
}


def inbound(*ports: InboundPort, **changes: Any) -> InboundListenerInput:
    plain = InboundListenerInput(
        ports=ports,
        passthrough_mtls=MtlsMode.DISABLE,
        trust_domains=("cluster.local", "old.domain"),
        telemetry=QUIET,
    )
    return replace(plain, **changes)


def matrix(mode: MtlsMode) -> InboundListenerInput:
    return inbound(
        inbound_port(port=8001, protocol=Protocol.HTTP, mtls=mode),
        inbound_port(port=8002, protocol=Protocol.TCP, mtls=mode, service=None),
        inbound_port(port=8003, protocol=Protocol.AUTO, mtls=mode),
        passthrough_mtls=mode,
    )


INBOUND: dict[str, InboundListenerInput] = {
    "permissive": matrix(MtlsMode.PERMISSIVE),
    "strict": matrix(MtlsMode.STRICT),
    "disable": matrix(MtlsMode.DISABLE),
    "tokens": inbound(inbound_port(mtls=MtlsMode.STRICT), request_auth=REQUEST_AUTH),
    "mixed-modes": inbound(
        inbound_port(port=8001, protocol=Protocol.GRPC, mtls=MtlsMode.DISABLE),
        inbound_port(port=8002, protocol=Protocol.GRPC_WEB, mtls=MtlsMode.STRICT),
        inbound_port(port=8003, protocol=Protocol.AUTO, mtls=MtlsMode.STRICT),
        passthrough_mtls=MtlsMode.PERMISSIVE,
        sniff_timeout=timedelta(seconds=1),
        telemetry=logged(),
    ),
    "no-ports": inbound(passthrough_mtls=MtlsMode.STRICT),
    "policies": inbound(
        inbound_port(port=8001, mtls=MtlsMode.STRICT),
        inbound_port(port=8002, protocol=Protocol.TCP, mtls=MtlsMode.STRICT, service=None),
        authorization=DECIDING,
        spelling=Spelling(paths="DECODE_AND_MERGE_SLASHES", underscores=False),
    ),
    "policies-tried-out": inbound(inbound_port(port=8001, protocol=Protocol.AUTO), authorization=TRIED),
    "authorizers": inbound(
        inbound_port(port=8001),
        inbound_port(port=8002, protocol=Protocol.TCP, service=None),
        authorization=ASKING,
        spelling=Spelling(paths="MERGE_SLASHES"),
    ),
    "paths-as-they-come": inbound(inbound_port(), spelling=Spelling(paths="NONE")),
    "explicit": inbound(
        inbound_port(bind="127.77.0.3", forward="127.0.0.1:31234", protocol=Protocol.AUTO), capture=False
    ),
}


def server_tls(**fields: Any) -> ServerTls:
    return ServerTls(**{"certificates": ("kubernetes://shop",), "alpn": ("h2", "http/1.1"), **fields})


GATEWAYS: dict[str, GatewayListenerInput] = {
    "http": GatewayListenerInput(
        bind="0.0.0.0",
        port=8080,
        servers=(GatewayServer(http_route="http.80"),),
        num_trusted_proxies=2,
        telemetry=logged(json=True),
    ),
    "policies": GatewayListenerInput(
        bind="0.0.0.0",
        port=443,
        servers=(GatewayServer(tls=server_tls(), http_route="https.443.web.shop.default"),),
        authorization=TRIED,
        telemetry=QUIET,
    ),
    "policies-on-tcp": GatewayListenerInput(
        bind="0.0.0.0", port=9000, servers=(GatewayServer(tcp=(tcp(),)),), authorization=TRIED, telemetry=QUIET
    ),
    "tokens": GatewayListenerInput(
        bind="0.0.0.0",
        port=8080,
        servers=(GatewayServer(http_route="http.80"),),
        request_auth=REQUEST_AUTH,
        telemetry=QUIET,
    ),
    "tcp": GatewayListenerInput(bind="0.0.0.0", port=9000, servers=(GatewayServer(tcp=(tcp(),)),), telemetry=QUIET),
    "tls-passthrough": GatewayListenerInput(
        bind="0.0.0.0",
        port=9443,
        servers=(
            GatewayServer(
                tcp=(tcp(sni=("a.test",), subnets=("10.0.0.0/8",)),),
            ),
        ),
        telemetry=QUIET,
    ),
    "https": GatewayListenerInput(
        bind="0.0.0.0",
        port=443,
        servers=(
            GatewayServer(
                sni=("*.shop.test", "shop.test"),
                tls=server_tls(certificates=("kubernetes://shop-rsa", "kubernetes://shop-ecdsa")),
                http_route="https.443.web.shop.default",
            ),
            GatewayServer(
                name="partners",
                sni=("partner.test",),
                tls=server_tls(
                    roots="kubernetes://partner-cacert",
                    require_client=True,
                    subject_alt_names=("spiffe://partner.test/a", "a.partner.test"),
                    spki_pins=("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",),
                    hash_pins=("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",),
                    min_version="TLSV1_2",
                    max_version="TLSV1_2",
                    cipher_suites=("ECDHE-RSA-AES256-GCM-SHA384",),
                ),
                http_route="https.443.partner.shop.default",
            ),
            GatewayServer(
                sni=("open.test",),
                tls=server_tls(
                    certificates=("file-cert:/c.pem~/k.pem",), roots="file-root:/ca.pem~/crl.pem", accept_untrusted=True
                ),
                http_route="https.443.open.shop.default",
            ),
        ),
        telemetry=QUIET,
    ),
    "behind-balancer": GatewayListenerInput(
        bind="10.0.0.7",
        port=443,
        servers=(
            GatewayServer(
                tls=server_tls(
                    certificates=("default",),
                    roots="ROOTCA",
                    require_client=True,
                    trust_domains=("cluster.local", "old.local"),
                ),
                http_route="https.443.mesh.shop.default.10.0.0.7",
            ),
        ),
        num_trusted_proxies=1,
        forward_client_cert="APPEND_FORWARD",
        proxy_protocol=True,
        telemetry=QUIET,
    ),
    "tls-to-tcp": GatewayListenerInput(
        bind="0.0.0.0",
        port=6380,
        servers=(GatewayServer(sni=("redis.test",), tls=server_tls(alpn=()), tcp=(tcp(),)),),
        telemetry=QUIET,
    ),
    "auto-passthrough": GatewayListenerInput(
        bind="0.0.0.0",
        port=15443,
        servers=(
            GatewayServer(
                tcp=(
                    tcp(
                        destinations=(
                            Destination(cluster=Cluster("outbound_.9080_.v1_.reviews.default.svc.cluster.local")),
                        ),
                        sni=("outbound_.9080_.v1_.reviews.default.svc.cluster.local",),
                        alpn=("istio", "istio-http/1.1"),
                    ),
                )
            ),
        ),
        telemetry=QUIET,
    ),
    "http3": GatewayListenerInput(
        bind="0.0.0.0",
        port=443,
        servers=(
            GatewayServer(sni=("shop.test",), tls=server_tls(alpn=("h3",)), http_route="https.443.web.shop.default"),
        ),
        quic=True,
        telemetry=QUIET,
    ),
}


def _routes(name: str, routes: tuple[RouteInput, ...]) -> Case:
    return lambda: build_route_config(RouteConfigInput(name=name, virtual_hosts=(host(*routes),)))


CASES: dict[str, Case] = {
    **{f"cluster/{name}": (lambda inp=inp: build_outbound_cluster(inp)) for name, inp in CLUSTERS.items()},
    **{
        f"inbound-cluster/{name}": (lambda inp=inp: build_inbound_cluster(inp, connect_timeout=TEN_SECONDS))
        for name, inp in INBOUND_CLUSTERS.items()
    },
    "inbound-cluster/localhost": lambda: build_inbound_cluster(
        inbound_port(), connect_timeout=TEN_SECONDS, localhost=True
    ),
    **{
        f"fixed-cluster/{name}": fixed(name)
        for name in ("BlackHoleCluster", "InboundPassthroughCluster", "PassthroughCluster")
    },
    **{
        f"endpoints/{name}": (lambda members=members: build_endpoints(EndpointsInput(cluster=V1, endpoints=members)))
        for name, members in ENDPOINTS.items()
    },
    **{f"route/{name}": _routes(name, routes) for name, routes in ROUTES.items()},
    **{f"route-config/{name}": (lambda inp=inp: build_route_config(inp)) for name, inp in ROUTE_CONFIGS.items()},
    **{f"outbound/{name}": (lambda inp=inp: build_outbound_listener(inp)) for name, inp in OUTBOUND.items()},
    **{f"inbound/{name}": (lambda inp=inp: build_inbound_listeners(inp)[0]) for name, inp in INBOUND.items()},
    **TOKEN_CASES,
    **{f"gateway/{name}": (lambda inp=inp: build_gateway_listener(inp)) for name, inp in GATEWAYS.items()},
    "outbound/virtual": lambda: build_virtual_outbound(VirtualOutboundInput(telemetry=logged())),
    "outbound/virtual-dynamic-dns": lambda: build_virtual_outbound(
        VirtualOutboundInput(
            telemetry=QUIET,
            policy=ALLOW_ANY_DYNAMIC_DNS,
            dynamic_dns=timedelta(seconds=60),
            sniff_timeout=timedelta(seconds=5),
        )
    ),
    "fixed-cluster/AllowAnyDynamicDNSCluster": lambda: build_dynamic_cluster(
        DynamicClusterInput(connect_timeout=TEN_SECONDS, dns_refresh=timedelta(seconds=30))
    ),
    "fixed-cluster/AllowAnyDynamicDNSCluster-tls": lambda: build_dynamic_cluster(
        DynamicClusterInput(
            connect_timeout=TEN_SECONDS,
            dns_refresh=timedelta(seconds=30),
            tls=UpstreamTls(mode="SIMPLE", sni="proxy.test", subject_alt_names=("proxy.test",)),
        )
    ),
    "outbound/virtual-registry-only": lambda: build_virtual_outbound(
        VirtualOutboundInput(telemetry=QUIET, policy=REGISTRY_ONLY)
    ),
    "outbound/http-proxy": lambda: build_http_proxy_listener(
        HttpProxyListenerInput(bind="127.0.0.1", port=15080, telemetry=logged(format="%REQ(:PATH)%"))
    ),
    "outbound/access-log-json": lambda: build_http_proxy_listener(
        HttpProxyListenerInput(
            bind="127.0.0.1", port=15080, telemetry=logged(json=True, format='{"path": "%REQ(:PATH)%", "n": [1, null]}')
        )
    ),
}
