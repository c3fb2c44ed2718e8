"""The values between model and translation: everything one Envoy resource depends on, and nothing else.

Each `...Input` is the whole argument of one function of `lateen.pilot.translate`. All precedence is already applied and
every name resolved: translation selects nothing and looks nothing up. Two equal inputs share one Envoy resource,
whoever the proxy, so an input never holds more than its resource needs. Leaf policies (`ConnectionPoolSettings`,
`HTTPRetry`, ...) are the API's own frozen structs where translation maps them field by field.

Tuples are in the order that Envoy shall see, and sorted where order means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, NewType

from lateen.api.protocol import Protocol
from lateen.pilot.model.values_authz import AS_IN_ISTIO, NO_AUTHORIZATION, Authorization, Spelling
from lateen.pilot.model.values_called import NO_CALLS, MixerCalls
from lateen.pilot.model.values_jwt import NO_REQUEST_AUTH, RequestAuth
from lateen.pilot.model.values_telemetry import Telemetry

__all__ = [
    "ALLOW_ANY",
    "ALLOW_ANY_DYNAMIC_DNS",
    "NO_MESH_TLS",
    "NO_TCP_LIMITS",
    "REGISTRY_ONLY",
    "AutoMtls",
    "Cluster",
    "ClusterInput",
    "ConfigRef",
    "Destination",
    "DynamicClusterInput",
    "DynamicTarget",
    "EndpointInput",
    "EndpointsInput",
    "GatewayListenerInput",
    "GatewayServer",
    "HashPolicy",
    "Hostname",
    "HttpProxyListenerInput",
    "InboundListenerInput",
    "InboundPort",
    "MeshTls",
    "MirrorInput",
    "MtlsMode",
    "OutboundListenerInput",
    "Peer",
    "Resolution",
    "RouteConfigInput",
    "RouteInput",
    "SecretInput",
    "ServerTls",
    "ServiceRef",
    "TcpLimits",
    "TcpRoute",
    "Tunnel",
    "UpstreamTls",
    "VirtualHostInput",
    "VirtualOutboundInput",
    "ZoneAware",
]

Hostname = NewType("Hostname", str)  # fully qualified, lower case, no trailing dot
Cluster = NewType("Cluster", str)  # an Envoy cluster's name, "outbound|9080|v1|reviews.default.svc.cluster.local"

ALLOW_ANY = "ALLOW_ANY"
REGISTRY_ONLY = "REGISTRY_ONLY"
ALLOW_ANY_DYNAMIC_DNS = "ALLOW_ANY_DYNAMIC_DNS"  # requests for unknown hosts go where DNS says that their host is


class Resolution(Enum):
    """How a service's endpoints are found; decides the Envoy cluster type (clusters: EDS, STRICT_DNS, ...)."""

    EDS = "eds"
    DNS = "dns"
    DNS_ROUND_ROBIN = "dns-round-robin"
    ORIGINAL_DST = "original-dst"
    DYNAMIC_DNS = "dynamic-dns"  # whatever host the request or the handshake names


class MtlsMode(Enum):
    """Effective mutual TLS of an inbound port, after all PeerAuthentications."""

    DISABLE = "disable"
    PERMISSIVE = "permissive"
    STRICT = "strict"


class AutoMtls(Enum):
    """What an outbound cluster does where no DestinationRule says anything about TLS."""

    OFF = "off"  # plain text
    PER_ENDPOINT = "per-endpoint"  # mutual TLS to endpoints that announce it, plain text to the others
    ALL = "all"  # mutual TLS always (clusters that cannot tell endpoints apart)


@dataclass(frozen=True, slots=True, order=True)
class ConfigRef:
    """The resource that shaped something, for `filter_metadata.istio.config` and for people."""

    group: str  # "networking.istio.io"
    version: str  # "v1", always the storage version, so that it does not depend on how it was written
    kind: str  # "VirtualService"
    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRef:
    """A service as telemetry names it."""

    hostname: Hostname
    name: str  # short name; the hostname for services outside
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A workload as telemetry names it: labels of the standard metrics. "" is told as `unknown` or `latest`."""

    workload: str
    namespace: str
    cluster: str
    app: str
    version: str
    canonical_service: str
    canonical_revision: str
    principal: str = ""  # spiffe://...


# ---------------------------------------------------------------- clusters


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls:
    """TLS towards a service, as a DestinationRule says it. `mode` is one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL."""

    mode: str
    sni: str = ""
    subject_alt_names: tuple[str, ...] = ()
    ca_certificates: str = ""
    client_certificate: str = ""
    private_key: str = ""
    credential_name: str = ""
    insecure_skip_verify: bool = False
    ca_crl: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneAware:
    """How Envoy keeps traffic within its own zone."""

    enabled: bool = True
    min_cluster_size: int = 6  # with fewer endpoints zones do not count


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterInput:
    """One outbound cluster: one service port, for one subset or for none."""

    service: ServiceRef
    port: int  # service port, 1..65535; not the target port of the workload
    port_name: str
    protocol: Protocol
    subset: str = ""  # "" is the service itself
    resolution: Resolution
    mesh_external: bool = False
    client_tls: bool = False  # takes the TLS of mesh clients as it is; its name is the server name that they ask for
    for_gateway: bool = False  # a port of unknown protocol is HTTP/1.1 from a gateway, and as the client speaks else
    connect_timeout: timedelta  # the mesh's; the policy's own wins
    connection_pool: Any = None  # api ConnectionPoolSettings | None, effective
    tcp_keepalive: Any = None  # api TcpKeepalive | None: the mesh's, below the pool's own
    load_balancer: Any = None  # api LoadBalancerSettings | None, effective
    outlier_detection: Any = None  # api OutlierDetection | None, effective
    locality_weighted: bool = False  # localities share traffic by `EndpointInput.locality_weight`
    zones: ZoneAware | None = None  # None: as the proxy does of itself, which has no zone
    proxy_protocol: str = ""  # "" | "V1" | "V2"
    retry_budget: Any = None  # api RetryBudget | None
    h2_upgrade: bool = False  # the mesh's h2UpgradePolicy
    stat_name: str = ""  # of its statistics; "": its name
    tls_defaults: Any = None  # api TLSConfig | None: the mesh's, for TLS that is not the mesh's own
    tls: UpstreamTls | None = None  # a DestinationRule's word; None: auto mutual TLS below
    auto_mtls: AutoMtls = AutoMtls.OFF
    sans: tuple[str, ...] = ()  # SPIFFE IDs that the servers may have, sorted; () means any of `server_domains`
    server_domains: tuple[str, ...] = ()  # () means any of the trust bundle: it holds the mesh's own roots alone
    endpoints: tuple[EndpointInput, ...] = ()  # DNS resolutions only; EDS carries the others
    dns_refresh: timedelta = timedelta(seconds=60)
    ipv6: bool = False
    target_port: int | None = None  # ORIGINAL_DST with another port upstream
    redis_proxy: bool = False  # sent to by it: MAGLEV, by the commands' keys, where no rule says how to balance
    rule: ConfigRef | None = None  # the DestinationRule


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointInput:
    """One address that a cluster sends to."""

    address: str  # IP; a DNS name for DNS clusters; "/path" for a Unix socket
    port: int
    weight: int = 1
    healthy: bool = True
    mtls: bool = False  # announces mutual TLS
    locality: str = ""  # region/zone/subzone
    priority: int = 0
    locality_weight: int = 0  # of all endpoints of its locality together; 0: what they weigh one by one
    peer: Peer | None = None  # who serves there, for the client's metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsInput:
    """One ClusterLoadAssignment. Endpoints sorted by (priority, locality, address, port)."""

    cluster: Cluster
    endpoints: tuple[EndpointInput, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicClusterInput:
    """The cluster for hosts that no service is known for, with ALLOW_ANY_DYNAMIC_DNS."""

    connect_timeout: timedelta
    dns_refresh: timedelta
    tls: UpstreamTls | None = None  # None: plain text


# ---------------------------------------------------------------- routes


@dataclass(frozen=True, slots=True, kw_only=True)
class HashPolicy:
    """One consistent-hash key; `kind` is header, cookie, source-ip or query."""

    kind: str
    name: str = ""
    ttl: timedelta | None = None
    path: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One place a route sends to."""

    cluster: Cluster
    weight: int = 0  # share among several; meaningless for one
    headers: Any = None  # api Headers | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorInput:
    cluster: Cluster
    percent: float  # 0 < percent <= 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteInput:
    """One route of a virtual host: one match of one rule, or the default route of a service.

    Exactly one of `destinations` (not empty), `redirect`, `direct_response` acts.
    """

    name: str
    match: Any = None  # api HTTPMatchRequest | None; its static fields (port, gateways, source...) are already decided
    destinations: tuple[Destination, ...] = ()
    redirect: Any = None  # api HTTPRedirect
    direct_response: Any = None  # api HTTPDirectResponse
    rewrite: Any = None  # api HTTPRewrite
    timeout: timedelta | None = None  # None: none
    retries: Any = None  # api HTTPRetry | None: the default policy of the reference; attempts 0: no retries
    fault: Any = None  # api HTTPFaultInjection
    cors: Any = None  # api CorsPolicy
    mirrors: tuple[MirrorInput, ...] = ()
    headers: Any = None  # api Headers of the rule
    hash_policies: tuple[HashPolicy, ...] = ()
    operation: str = ""  # decorator: "<host>:<port>/*"
    listen_port: int = 0  # for redirects that derive their port
    tls: bool = False  # the listener terminates TLS (redirect's default scheme)
    dynamic_host: str = ""  # looked up in place of the request's own, where the rule rewrites that; DYNAMIC_DNS only
    rule: ConfigRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualHostInput:
    name: str  # "<host>:<port>"
    domains: tuple[str, ...]
    routes: tuple[RouteInput, ...]
    require_tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfigInput:
    """One RouteConfiguration. `catch_all` adds the last virtual host: ALLOW_ANY, REGISTRY_ONLY, or "" for none."""

    name: str  # "9080", "http.80", "http_proxy"
    virtual_hosts: tuple[VirtualHostInput, ...]  # sorted by name
    catch_all: str = ""
    egress_proxy: Cluster | None = None  # where ALLOW_ANY sends to instead of PassthroughCluster
    ignore_port_in_host: bool = True
    http3_port: int = 0  # where the same is served by HTTP/3, told to clients; 0: nowhere


# ---------------------------------------------------------------- listeners


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicTarget:
    """A connection goes to the host that its handshake names."""

    port: int
    dns_refresh: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """A connection is carried through a forward proxy, which is asked, by HTTP, to connect to `host:port`."""

    host: str
    port: int
    post: bool = False  # POST in place of CONNECT


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpLimits:
    """How long connections of TCP ports may last; None: no limit of ours."""

    idle_timeout: timedelta | None = None  # 0: for ever; None: Envoy's hour
    max_duration: timedelta | None = None


NO_TCP_LIMITS = TcpLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpRoute:
    """One TCP filter chain: what it matches and where it goes."""

    destinations: tuple[Destination, ...]
    stat_prefix: str
    sni: tuple[str, ...] = ()  # server names; () any
    alpn: tuple[str, ...] = ()  # protocols that the client offers; () any
    subnets: tuple[str, ...] = ()  # destination CIDRs; () any
    sources: tuple[str, ...] = ()  # the client's CIDRs; () any
    limits: TcpLimits = NO_TCP_LIMITS
    hash_source_ip: bool = False
    tunnel: Tunnel | None = None
    service: ServiceRef | None = None
    protocol: Protocol = Protocol.TCP  # MONGO adds its filter
    dynamic: DynamicTarget | None = None  # of a cluster whose endpoints are looked up one by one
    redis_proxy: bool = False  # commands are routed one by one; only for a single destination
    rule: ConfigRef | None = None

    @property
    def limited(self) -> bool:
        """False for one that matches every connection."""
        return bool(self.sni or self.subnets or self.sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundListenerInput:
    """One per-port outbound listener (does not bind unless said): `<bind>_<port>`.

    `http_route` names the RouteConfiguration of its HTTP chain, "" for none. Both HTTP and TCP: protocol is sniffed.
    """

    bind: str  # "0.0.0.0" or a virtual IP
    port: int
    bind_to_port: bool = False
    http_route: str = ""
    tcp: tuple[TcpRoute, ...] = ()  # most specific first; a match-all one, if any, is last
    policy: str = ALLOW_ANY  # where connections go that no chain matches
    egress_proxy: Cluster | None = None
    sniff_timeout: timedelta = timedelta(0)  # 0: wait for ever
    extra_addresses: tuple[str, ...] = ()
    dynamic_dns: timedelta | None = None  # how often the hosts of requests are looked up again; None: none is
    telemetry: Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualOutboundInput:
    """The capture listener `virtualOutbound` that hands connections over by their original destination."""

    port: int = 15001
    policy: str = ALLOW_ANY
    egress_proxy: Cluster | None = None
    dynamic_dns: timedelta | None = None  # with ALLOW_ANY_DYNAMIC_DNS
    sniff_timeout: timedelta = timedelta(0)  # with ALLOW_ANY_DYNAMIC_DNS; 0: wait for ever
    telemetry: Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpProxyListenerInput:
    """An HTTP proxy that applications are told to use: the one of explicit mode, or a Sidecar's."""

    bind: str
    port: int
    route: str = "http_proxy"  # name of its RouteConfiguration
    dynamic_dns: timedelta | None = None
    telemetry: Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshTls:
    """What servers ask of mutual TLS inside the mesh beside identities: MeshConfig's `meshMTLS`."""

    min_version: str = "TLS_AUTO"  # 1.2
    cipher_suites: tuple[str, ...] = ()  # of TLS 1.2; (): the mesh's own list


NO_MESH_TLS = MeshTls()


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundPort:
    """One port of the workload as Envoy guards it."""

    port: int  # where the application listens (target port)
    service_port: int
    protocol: Protocol
    mtls: MtlsMode
    service: ServiceRef | None  # whose traffic it is, for telemetry and the route's name
    connection_pool: Any = None  # api ConnectionPoolSettings | None
    limits: TcpLimits = NO_TCP_LIMITS
    stat_name: str = ""  # of its cluster's statistics; "": the cluster's name
    bind: str = ""  # explicit mode: the listener binds here, at `port`, and sends to `forward`
    forward: str = ""  # "127.0.0.1:8080"; "": the address the client dialled
    tls: ServerTls | None = None  # with DISABLE: TLS of the application's own clients is ended here, plain is not taken


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundListenerInput:
    """All that arrives at one workload: `virtualInbound`, or one listener a port where nothing is captured."""

    port: int = 15006
    ports: tuple[InboundPort, ...]  # sorted by port
    passthrough_mtls: MtlsMode  # of ports no service names
    passthrough_ports: tuple[tuple[int, MtlsMode], ...] = ()  # of these a policy says it one by one; sorted by port
    mesh_tls: MeshTls = NO_MESH_TLS
    trust_domains: tuple[str, ...]  # accepted in clients' SPIFFE IDs: the own one, its aliases, federated ones
    connect_timeout: timedelta = timedelta(seconds=10)  # towards the application: the mesh's
    sniff_timeout: timedelta = timedelta(0)
    retries: Any = None  # api HTTPRetry | None: the mesh's, towards the application
    localhost: bool = False  # inboundTrafficPolicy LOCALHOST
    capture: bool = True
    ips: tuple[str, ...] = ()
    request_auth: RequestAuth = NO_REQUEST_AUTH
    authorization: Authorization = NO_AUTHORIZATION
    spelling: Spelling = AS_IN_ISTIO
    mixer: MixerCalls = NO_CALLS
    telemetry: Telemetry


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """How a server of a gateway ends TLS. Certificates, keys and roots are named here, never held."""

    certificates: tuple[str, ...]  # names of secrets, in order; `default` is the proxy's own
    roots: str = ""  # name of the secret that clients are checked with; "": clients are asked for nothing
    require_client: bool = False  # without a certificate a client is turned away
    accept_untrusted: bool = False  # what fails the check is let through all the same
    trust_domains: tuple[str, ...] = ()  # mesh identities only, of these domains
    subject_alt_names: tuple[str, ...] = ()  # a client must have one of them; () any
    spki_pins: tuple[str, ...] = ()  # base64 SHA-256; one of these or of `hash_pins` is enough
    hash_pins: tuple[str, ...] = ()  # hex SHA-256
    min_version: str = "TLS_AUTO"
    max_version: str = "TLS_AUTO"
    cipher_suites: tuple[str, ...] = ()
    ecdh_curves: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayServer:
    """One merged server of a gateway's listener: requests by `http_route`, or connections by `tcp`."""

    name: str = ""  # for statistics
    sni: tuple[str, ...] = ()  # server names that select it; () any
    tls: ServerTls | None = None  # None: bytes are taken as they come
    http_route: str = ""
    tcp: tuple[TcpRoute, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayListenerInput:
    """One listener of a gateway: `<bind>_<port>`, or `udp_<bind>_<port>` with `quic`."""

    bind: str
    port: int
    also: tuple[int, ...] = ()  # other ports of the same address that it serves as well
    servers: tuple[GatewayServer, ...]
    quic: bool = False  # HTTP/3: only servers that end TLS and have routes
    dynamic_dns: timedelta | None = None  # how often hosts that requests name are looked up again; None: none is
    num_trusted_proxies: int = 0
    forward_client_cert: str = ""  # "" is SANITIZE_SET
    proxy_protocol: bool = False  # clients come through a load balancer that says who they are
    request_auth: RequestAuth = NO_REQUEST_AUTH
    authorization: Authorization = NO_AUTHORIZATION
    spelling: Spelling = AS_IN_ISTIO
    mixer: MixerCalls = NO_CALLS
    telemetry: Telemetry


# ---------------------------------------------------------------- secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretInput:
    """One secret as a proxy fetches it: a certificate with its key, or the roots that peers are checked with."""

    name: str
    chain: bytes = field(default=b"", repr=False)
    private_key: bytes = field(default=b"", repr=False)
    staple: bytes = field(default=b"", repr=False)  # OCSP, DER
    roots: bytes = field(default=b"", repr=False)
    crl: bytes = field(default=b"", repr=False)
