"""What agents and the CLI say to the control plane on `run/ca.sock`: JSON over gRPC, one struct a message.

Reaching that socket is what makes a caller the local user (its folder is mode 0700). Every method is unary-unary,
named `/lateen.local.v1.Control/<Method>`, its bytes the JSON of the struct named here:

    Register    Registration -> Registered      create or replace the registration of one workload
    Deregister  Goodbye      -> Registered      forget it; its endpoints leave at once
    Status      Query        -> StatusReport    what `lateen status` shows
    ProxyStatus Query        -> ProxyReport     what `lateen proxy-status` shows
    Group       GroupQuery   -> GroupInfo       what a workload of a WorkloadGroup is started with

and those about join tokens, which `join.py` describes. An agent elsewhere has Register, Deregister and Group, for
itself.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "AGENTS_CHOICE",
    "HEARTBEAT_SECONDS",
    "HTTP3_LABEL",
    "SERVICE",
    "BootstrapPatch",
    "CertificateInfo",
    "ControlPlaneInfo",
    "Goodbye",
    "GroupInfo",
    "GroupQuery",
    "MetricsReport",
    "MixerInfo",
    "PatchInfo",
    "Probe",
    "ProblemInfo",
    "ProxyInfo",
    "ProxyReport",
    "ProxySettings",
    "QuarantineInfo",
    "Query",
    "Registered",
    "Registration",
    "StatusReport",
    "TypeInfo",
    "WorkloadInfo",
    "WorkloadPort",
]

SERVICE = "lateen.local.v1.Control"
HEARTBEAT_SECONDS = 10.0  # how often an agent elsewhere registers again
HTTP3_LABEL = "gateway.lateen.dev/http3"  # of a gateway, "true": what it serves by HTTPS, by HTTP/3 as well


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of the messages: strict, because the other side may be another version."""


class WorkloadPort(_Message, frozen=True, kw_only=True):
    """One port that a workload serves."""

    name: str  # "http", "http-metrics", "tcp-redis": its first part is the protocol, as in a Service
    number: int  # the port clients use, 1..65535
    target: int  # where the application listens; the same but in explicit mode


class Registration(_Message, frozen=True, kw_only=True):
    """One workload: one instance with one identity. `pid` and `start_ticks` together name its agent for good."""

    name: str  # "reviews-v3"; unique in the mesh
    kind: str = "sidecar"  # "sidecar" | "gateway"
    namespace: str = "default"
    service_account: str = "default"
    service: str = ""  # short name of the service it serves, "" for pure clients and gateways
    version: str = ""
    labels: dict[str, str] = {}
    ip: str  # its address in the mesh network
    ports: tuple[WorkloadPort, ...] = ()
    mode: str = "capture"  # "capture" | "explicit"
    http_proxy_port: int = 0  # explicit mode: the outbound HTTP proxy on loopback
    ready: bool = False  # the application listens on its ports; only then it gets traffic
    pid: int  # of the agent
    start_ticks: int  # field 22 of /proc/PID/stat
    app_pid: int = 0
    envoy_pid: int = 0
    locality: str = ""  # region/zone/subzone
    network: str = ""  # "" is the network of whoever says nothing
    weight: int = 1
    group: str = ""  # the WorkloadGroup of its namespace that it was started from
    waits_for: str = ""  # what is missing until it gets traffic, for people; "" when it is ready
    certificate: CertificateInfo | None = None  # what the agent holds now
    remote: bool = False  # its agent is elsewhere, and stands as long as it is heard of; the control plane's word
    bootstrap: dict[str, str] = {}  # patch of the bootstrap -> why Envoy would not start with it, "" for those it did


class BootstrapPatch(_Message, frozen=True, kw_only=True):
    """One patch to a proxy's bootstrap, read and checked; fields are spelt with underscores."""

    id: str  # "<namespace>/<EnvoyFilter>#<position>"
    value: dict[str, Any]
    clears: tuple[tuple[str, ...], ...] = ()  # paths that go before the value is merged
    replace_lists: bool = False


class ProxySettings(_Message, frozen=True, kw_only=True):
    """How a proxy that starts now is run; what is not set is the agent's own choice."""

    concurrency: int | None = None  # worker threads; 0: one a core
    environment: dict[str, str] = {}  # variables of Envoy's process; ISTIO_META_* are metadata of its node, too
    service_cluster: str = ""
    tracing_service_name: str = ""  # "" | APP_LABEL_AND_NAMESPACE | CANONICAL_NAME_ONLY | CANONICAL_NAME_AND_NAMESPACE
    mesh_id: str = ""
    drain_seconds: float | None = None  # how long Envoy spreads a graceful drain
    termination_drain_seconds: float | None = None  # longest wait for requests in flight when leaving
    flush_seconds: float | None = None  # of access logs
    flush_kilobytes: int | None = None
    stats_prefixes: tuple[str, ...] = ()  # native statistics to keep, besides the agent's own choice
    stats_suffixes: tuple[str, ...] = ()
    stats_regexes: tuple[str, ...] = ()
    runtime: dict[str, str] = {}  # Envoy's runtime flags
    connection_limit: int | None = None  # connections from clients, all listeners together
    merge_metrics: bool = True  # an application that its annotations say has metrics is asked for them


AGENTS_CHOICE = ProxySettings()  # nobody says anything


class Registered(_Message, frozen=True, kw_only=True):
    """What an agent must know of the mesh it joined."""

    trust_domain: str
    cluster_domain: str  # "cluster.local"
    mesh_id: str
    cluster_id: str
    bootstrap: tuple[BootstrapPatch, ...] = ()  # for a proxy that starts now, in order
    proxy: ProxySettings = AGENTS_CHOICE


class Goodbye(_Message, frozen=True, kw_only=True):
    name: str
    pid: int  # a registration taken over by another agent is not withdrawn by the old one


class GroupQuery(_Message, frozen=True, kw_only=True):
    namespace: str
    name: str


class Probe(_Message, frozen=True, kw_only=True):
    """How the agent asks the application whether it is well; defaults are applied."""

    kind: str  # "http" | "tcp" | "exec" | "grpc"
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    host: str = ""  # "": the workload itself
    port: int = 0
    path: str = "/"  # http
    scheme: str = "HTTP"  # http: "HTTP" | "HTTPS", whose certificate is not checked
    headers: tuple[tuple[str, str], ...] = ()  # http
    command: tuple[str, ...] = ()  # exec
    service: str = ""  # grpc


class GroupInfo(_Message, frozen=True, kw_only=True):
    """A WorkloadGroup: what all workloads that are started from it have in common."""

    name: str
    namespace: str
    service_account: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    ports: dict[str, int] = {}  # name -> where the application listens
    locality: str = ""
    network: str = ""
    weight: int = 1
    probe: Probe | None = None


class Query(_Message, frozen=True, kw_only=True):
    workload: str = ""  # "" for all


class ProblemInfo(_Message, frozen=True, kw_only=True):
    """One configuration error or warning. `file` is as the user named the folder; `line` counts from 1."""

    file: str
    line: int
    field: str
    message: str
    level: str = "error"
    resource: str = ""


class CertificateInfo(_Message, frozen=True, kw_only=True):
    serial: str  # hexadecimal
    not_before: str  # RFC 3339, UTC
    not_after: str
    signing_path: str = ""  # by which way it was signed (`lateen.wire.trust`); "": the agent does not say


class ControlPlaneInfo(_Message, frozen=True, kw_only=True):
    pid: int
    version: str
    started: str  # RFC 3339
    config: str  # the folder
    trust_domain: str
    root_expires: str
    network: str  # "root" | "rootless" | "explicit"
    resources: int
    services: int
    proxies: int


class WorkloadInfo(_Message, frozen=True, kw_only=True):
    name: str
    kind: str
    namespace: str
    service: str
    version: str
    pid: int
    app_pid: int
    envoy_pid: int
    ip: str
    ports: tuple[WorkloadPort, ...]
    mode: str
    identity: str  # spiffe://...
    ready: bool
    group: str = ""
    waits_for: str = ""
    connected: bool  # holds an xDS stream
    remote: bool = False  # its agent is elsewhere: its processes are not this machine's
    certificate: CertificateInfo | None


class MixerInfo(_Message, frozen=True, kw_only=True):
    """The process that decides rules which proxies cannot; it is there while a rule needs it."""

    pid: int  # 0: it does not run
    state: str  # "serving" | "starting" | "taking new rules" | "ending" | "not running: <why>"
    started: str  # RFC 3339
    starts: int  # since the control plane started; more than one: it ended, or hung
    rules: int
    decisions: int
    denied: int
    entries: int  # of access logs that rules were given
    dropped: int  # of access logs, without room


class StatusReport(_Message, frozen=True, kw_only=True):
    control_plane: ControlPlaneInfo
    mixer: MixerInfo | None = None
    workloads: tuple[WorkloadInfo, ...]
    errors: tuple[ProblemInfo, ...]
    warnings: tuple[ProblemInfo, ...]


class TypeInfo(_Message, frozen=True, kw_only=True):
    """How far one proxy is with one resource type."""

    state: str  # "SYNCED" | "STALE" | "NOT SENT" | "ERROR"
    resources: int
    version: str  # a digest over the names and versions that the proxy holds
    error: str = ""  # Envoy's words of the last NACK that still stands
    rejected: tuple[str, ...] = ()  # names of the resources that were in it


class PatchInfo(_Message, frozen=True, kw_only=True):
    """What one patch of an EnvoyFilter does to one proxy."""

    filter: str  # "default/mine"
    index: int  # in configPatches
    apply_to: str
    place: str  # file:line
    resources: dict[str, int] = {}  # how many it acts on, by type: {"CDS": 6}
    note: str = ""  # of BOOTSTRAP, which acts on no resource


class ProxyInfo(_Message, frozen=True, kw_only=True):
    name: str  # workload's name
    node: str  # Envoy's node id
    namespace: str
    version: str  # Envoy's
    connected: str  # since, RFC 3339
    types: dict[str, TypeInfo]  # by short name: CDS EDS LDS RDS SDS ECDS NDS
    patches: tuple[PatchInfo, ...] = ()  # all that are for it, in order


class QuarantineInfo(_Message, frozen=True, kw_only=True):
    """One resource that Envoy would refuse, and that is therefore not served."""

    type: str  # CDS EDS LDS RDS SDS ECDS
    resource: str
    proxies: tuple[str, ...]  # connected ones that it is meant for
    error: str  # Envoy's words
    instead: str  # what is served, for people
    shaped_by: tuple[str, ...]  # "VirtualService default/reviews (mesh/reviews.yaml:12)"


class ProxyReport(_Message, frozen=True, kw_only=True):
    proxies: tuple[ProxyInfo, ...]
    quarantined: tuple[QuarantineInfo, ...] = ()


class MetricsReport(_Message, frozen=True, kw_only=True):
    text: str  # Prometheus' text format
