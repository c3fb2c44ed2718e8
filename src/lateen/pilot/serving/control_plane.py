"""`lateen up`: sources, Pilot, Citadel and their sockets in one process, from the first scan to the last drain."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO, cast

import grpc
import grpc.aio
import msgspec
import structlog

from lateen import __version__
from lateen.api.base import Problem, ResourceKey
from lateen.citadel.service import SERVER_OPTIONS, Lifetimes
from lateen.errors import BadInput, LateenError, Refused, Unsupported
from lateen.folders.folder import Change, Folder
from lateen.folders.watch import read_changes, scan, watch_folder
from lateen.logs import configure_logging
from lateen.net.client import Lease, ensure_holder
from lateen.net.process import start_ticks
from lateen.pilot.model.policy import age_key
from lateen.pilot.model.ties import Ties, service_tie
from lateen.pilot.registry.registrations import Registrations, to_workload
from lateen.pilot.registry.services import implied_rows
from lateen.pilot.registry.values import Workload
from lateen.pilot.registry.vips import load_vips, save_vips
from lateen.pilot.serving.access import access_report
from lateen.pilot.serving.certificates import CertificateOptions, Certificates
from lateen.pilot.serving.elsewhere import elsewhere_listener
from lateen.pilot.serving.federation import Federation
from lateen.pilot.serving.groups import group_info
from lateen.pilot.serving.halves import WaitingRoom
from lateen.pilot.serving.keys import FetchOptions, make_key_keeper
from lateen.pilot.serving.memory import Memory
from lateen.pilot.serving.metrics import metrics_text
from lateen.pilot.serving.metrics_endpoint import MetricsEndpoint, MetricsEndpointOptions
from lateen.pilot.serving.mixer import MixerKeeper, rule_text
from lateen.pilot.serving.pilot import Pilot
from lateen.pilot.serving.reports import Reporter
from lateen.pilot.serving.tasting import Tasting
from lateen.pilot.serving.trust import Proxies
from lateen.pilot.sources.last_good import LastGood
from lateen.pilot.sources.secrets import decode_with_secrets, folder_problems
from lateen.pilot.taste.taster import Taster
from lateen.pilot.xds.batching import Batcher
from lateen.pilot.xds.node import Trust
from lateen.pilot.xds.server import GRPC_OPTIONS, AdsServer, connection_age
from lateen.settings import Settings
from lateen.wire.access import AccessReport
from lateen.wire.control import control_handlers
from lateen.wire.doors import CONNECTIONS_OF_ONE, local_door
from lateen.wire.envoy import find_envoy
from lateen.wire.files import write_atomically
from lateen.wire.join import JoinTokenCreated, JoinTokenList, JoinTokenName, JoinTokenRequest
from lateen.wire.local import (
    AGENTS_CHOICE,
    Goodbye,
    GroupInfo,
    GroupQuery,
    MetricsReport,
    ProxyReport,
    Query,
    Registered,
    Registration,
    StatusReport,
)
from lateen.wire.mixer import REDIS_VARIABLE

__all__ = ["ControlPlane", "ControlPlaneOptions", "run_control_plane"]

log = structlog.get_logger(__name__)

MESH_ID = "lateen"
CLUSTER_ID = "lateen"
DRAIN_SECONDS = 2.0
NETWORK_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlaneOptions:
    """What one run is asked to do."""

    config: Path
    secrets: Path | None = None  # folder of Secrets; None: `secrets` in the state folder
    certificates: CertificateOptions = field(default_factory=CertificateOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    adapters: Path | None = None  # folder of adapters of one's own, for Mixer
    redis: str = ""  # URL of the server for quotas that Mixers share; it may hold a password
    network: str = "auto"  # "auto" | "capture" | "explicit"
    listen: tuple[str, int] | None = None  # IP and port for agents elsewhere; None: there are none
    metrics: MetricsEndpointOptions | None = None  # where a Prometheus reads the mesh; None: nowhere
    log_json: bool = False

    @property
    def trust_domain(self) -> str:
        return self.certificates.trust_domain


async def run_control_plane(settings: Settings, options: ControlPlaneOptions) -> int:
    """Serve the mesh until SIGINT or SIGTERM; return the exit code.

    Raises `Unavailable` when a control plane of this state folder runs already, `BadInput` for a folder that is none.
    """
    configure_logging(json=options.log_json)
    _raise_descriptor_limit()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # keys are in this memory: the authority's, those of Secrets
    if not options.config.is_dir():
        raise BadInput(f"{options.config} is not a folder; 'lateen up' wants the folder of the mesh's YAML")
    if options.secrets is not None and not options.secrets.is_dir():
        raise BadInput(f"{options.secrets} is not a folder; --secrets wants the folder of the mesh's Secrets")
    secrets = _secrets_folder(settings, options)
    if secrets.resolve().is_relative_to(options.config.resolve()):
        raise BadInput(f"{secrets} is inside of {options.config}; secrets want a folder apart from configuration")
    async with ControlPlane(settings, options) as plane:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await plane.serve(stop)
    return 0


class ControlPlane:
    """All parts of one control plane. Entering starts them, leaving stops them and frees what they hold."""

    def __init__(self, settings: Settings, options: ControlPlaneOptions) -> None:
        self.settings = settings
        self.options = options
        self.started = datetime.now(UTC)
        self.network = "explicit"
        self.listens_at = ""  # for agents elsewhere: "10.0.0.1:15012"
        self._stack = contextlib.AsyncExitStack()
        self._missing: dict[Path, Problem] = {}  # of folders that cannot be read
        self._lease: Lease | None = None
        # What is not applied yet: resources by key, workloads by name (None: gone).
        self._batcher: Batcher[ResourceKey | str, Change | Workload | None] = Batcher()
        self._waiting = WaitingRoom(
            clock=time.monotonic,
            wake_later=lambda seconds: asyncio.get_running_loop().call_later(seconds, self._batcher.wake),
        )
        self._shown: frozenset[Problem] = frozenset()
        self.taster: Taster | None = None
        self.tasting: Tasting | None = None

    async def __aenter__(self) -> ControlPlane:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        settings, options = self.settings, self.options
        for folder in (settings.state, settings.run, settings.registrations, settings.state / "w"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        self._stack.enter_context(_only_one(settings))
        # What a killed control plane left: agents that start now must not follow it.
        settings.mesh_file.unlink(missing_ok=True)
        self.certificates = await self._stack.enter_async_context(Certificates(settings, options.certificates))
        self.mixer = MixerKeeper(
            settings.mixer_socket,
            self.certificates.sign_for_mixer,
            self.certificates.trust_for_mixer,
            trust_domain=options.trust_domain,
            arguments=(
                *("--logs", str(settings.mixer_logs), *options.fetch.arguments()),
                *(("--adapters", str(options.adapters.absolute())) if options.adapters is not None else ()),
            ),
            environment={REDIS_VARIABLE: options.redis} if options.redis else {},
            json=options.log_json,
            on_change=self._show_problems,
        )
        self.vips = load_vips(settings.vips_file)
        self.pilot = Pilot(trust_domain=options.trust_domain, vips=self.vips, mixer_socket=str(settings.mixer_socket))
        self.keys = make_key_keeper(settings, options.fetch, self.pilot, self._show_problems)
        self._secrets = _secrets_folder(settings, options)
        if options.secrets is None:
            self._secrets.mkdir(mode=0o700, exist_ok=True)
        # One bookkeeping for both folders, so that a resource that both hold is told.
        last_good = LastGood(settings.last_good_dir)
        self.folder = Folder(decode_with_secrets(self._secrets), last_good)
        self._snapshots = {folder: scan(folder) for folder in (options.config, self._secrets)}
        files = {path: data for seen in self._snapshots.values() for path, data in read_changes({}, seen).items()}
        last_good.only(files)
        changes = self.folder.write(files)
        self.registrations = Registrations(settings.registrations, self._registration_changed)
        self.registrations.load()
        self._stack.callback(self.registrations.close)
        for registration in self.registrations:
            self.pilot.note_bootstrap(registration.name, registration.bootstrap)
        standing = {registration.name: to_workload(registration) for registration in self.registrations}
        self._apply({**{change.key: change for change in changes}, **cast("dict[Any, Any]", standing)})
        await self._start_tasting()
        self.pilot.source.ready = True
        self.pilot.source.on_rejections = self._show_problems
        self.ads = AdsServer(self.pilot.source)
        self.certificates.follow(
            Proxies(self.pilot.source.trust, lambda: self.ads.hub.streams, lambda: self.registrations)
        )
        self.certificates.federation = Federation(
            options.fetch.fetcher(),
            settings.federation_file,
            options.trust_domain,
            on_change=self._federation_changed,
        )
        self._stack.push_async_callback(self.certificates.federation.stop)
        self._follow_federation()
        self._tell_mixer()
        self.reporter = Reporter(self)
        await self._stack.enter_async_context(self._servers())
        if options.metrics is not None:
            await self._serve_metrics(options.metrics)
        self._stack.callback(self._leave_network)
        self.network = await asyncio.to_thread(self._join_network)
        mesh = {
            "pid": os.getpid(),
            "startTicks": start_ticks(os.getpid()),
            "config": str(options.config.resolve()),
            "network": self.network,  # agents follow it
        }
        write_atomically(settings.mesh_file, msgspec.json.encode(mesh))
        self._stack.callback(lambda: settings.mesh_file.unlink(missing_ok=True))
        log.info(
            "control plane ready",
            version=__version__,
            config=str(options.config),
            network=self.network,
            resources=len(list(self.pilot.mesh.objects.items())),
            workloads=len(list(self.registrations)),
        )
        self._show_problems()
        # What stands now stays: the collector need not look through it at every change.
        gc.collect()
        gc.freeze()

    async def _start_tasting(self) -> None:
        """Have what proxies are served judged by an Envoy first, where there is one."""
        try:
            find_envoy()
        except Unsupported as error:
            log.error("resources are served untasted", reason=str(error))
            return
        self.taster = await self._stack.enter_async_context(Taster(self.settings.taste_dir))
        memory = Memory(self.settings.tasted_file, self.pilot.gate)
        memory.load()
        self._stack.callback(memory.save)
        self.tasting = Tasting(
            self.pilot.source,
            self.pilot.scopes,
            self.pilot.gate,
            self.taster,
            on_verdicts=self._show_problems,
            on_served=memory.save_soon,
        )
        self._stack.push_async_callback(self.tasting.close)
        # It comes up while the rest does; whoever needs its word waits for it.
        warming = asyncio.create_task(self._warm_taster(self.taster), name="tasting envoy starts")
        self._stack.push_async_callback(_ended, warming)

    async def _serve_metrics(self, options: MetricsEndpointOptions) -> None:
        endpoint = MetricsEndpoint(
            options,
            own=lambda: metrics_text(self),
            registrations=lambda: self.registrations,
            folder=self.settings.workload_dir,
        )
        await endpoint.start()
        self._stack.push_async_callback(endpoint.stop)
        log.info("metrics of the mesh are served", address=endpoint.here)

    @staticmethod
    async def _warm_taster(taster: Taster) -> None:
        try:
            await taster.start()
        except LateenError as error:
            log.error("tasting envoy not started", reason=str(error))  # tried again when something is to be tasted

    def _join_network(self) -> str:
        if self.options.network == "explicit":
            return "explicit"
        try:
            lease: Lease = ensure_holder(self.settings)
        except LateenError as error:
            if self.options.network == "capture":
                raise
            log.warning("no namespaces on this machine; workloads use loopback and an HTTP proxy", reason=str(error))
            return "explicit"
        self._lease = lease
        return lease.mode

    @contextlib.asynccontextmanager
    async def _servers(self) -> AsyncIterator[None]:
        """Listen on the three sockets; stop the streams before the servers, so that each ends in order."""
        options = list(GRPC_OPTIONS)
        local = grpc.aio.server(options=SERVER_OPTIONS)
        local.add_generic_rpc_handlers((*self.certificates.handlers(), control_handlers(self)))
        aged = connection_age(self.certificates.options.lifetime or Lifetimes().default)
        secure, plain = grpc.aio.server(options=[*options, *aged]), grpc.aio.server(options=options)
        self.ads.add_to_server(secure, trust=Trust.MUTUAL_TLS, admit=self.certificates.check_client)
        self.ads.add_to_server(plain, trust=Trust.LOCAL)
        servers = [local, secure, plain]
        self.settings.xds_socket.unlink(missing_ok=True)
        secure.add_secure_port(f"unix:{self.settings.xds_socket}", self.certificates.server_credentials())
        turned_away = self.certificates.turned_away
        async with contextlib.AsyncExitStack() as doors:
            await doors.enter_async_context(
                local_door(local, self.settings.ca_socket, turned_away, connections_of_one=CONNECTIONS_OF_ONE)
            )
            await doors.enter_async_context(local_door(plain, self.settings.xds_local_socket, turned_away))
            if self.options.listen is not None:
                door = await doors.enter_async_context(elsewhere_listener(self, self.options.listen))
                self.listens_at = door.address
            for server in servers:
                await server.start()
            self.settings.xds_socket.chmod(0o600)
            try:
                yield
            finally:
                await self.ads.close()
                await asyncio.gather(*(server.stop(DRAIN_SECONDS) for server in servers))

    async def serve(self, stop: asyncio.Event) -> None:
        """Follow the config folder until `stop` is set; the first failure of a part ends all and is raised."""
        async with asyncio.TaskGroup() as tasks:
            parts = [
                *(tasks.create_task(self._watch(folder), name=f"folder {folder}") for folder in self._snapshots),
                tasks.create_task(self._batcher.run(self._apply), name="batches"),
                tasks.create_task(self._keep_network(), name="network"),
                tasks.create_task(self.keys.run(), name="keys of issuers"),
                tasks.create_task(self.mixer.run(), name="mixer"),
            ]
            await stop.wait()
            log.info("control plane stops")
            for part in parts:
                part.cancel()

    async def _keep_network(self) -> None:
        """Bring the network holder back when it dies; workloads that lived in its network start again in the new."""
        loop = asyncio.get_running_loop()
        while self._lease is not None:
            gone = asyncio.Event()
            loop.add_reader(self._lease.fileno(), gone.set)
            try:
                await gone.wait()
            finally:
                loop.remove_reader(self._lease.fileno())
            log.error("network holder is gone; starting another", pid=self._lease.holder_pid)
            self._leave_network()
            while self._lease is None:
                try:
                    await asyncio.to_thread(self._join_network)
                except LateenError as error:
                    log.error("no network", reason=str(error))
                if self._lease is None:
                    await asyncio.sleep(NETWORK_RETRY_SECONDS)

    def _leave_network(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.close()

    # ---- changes

    async def _watch(self, folder: Path) -> None:
        missing = partial(self._folder_missing, folder)
        async for files in watch_folder(folder, self._snapshots[folder], missing):
            changes = self.folder.write(files)
            for change in changes:
                self._batcher.put(change.key, change)
            if not changes:  # else told once they are applied: what a resource leads to is not known before
                self._show_problems()

    def _folder_missing(self, folder: Path, error: OSError | None) -> None:
        self._missing.pop(folder, None)
        if error is not None:
            message = f"cannot be read: {error.strerror}; what was read last stays in force"
            self._missing[folder] = Problem(str(folder), 1, "", message)
        self._show_problems()

    def _registration_changed(self, name: str, registration: Registration | None) -> None:
        self._batcher.put(name, to_workload(registration) if registration is not None else None)
        self.pilot.note_bootstrap(name, registration.bootstrap if registration is not None else {})

    def _apply(self, batch: Mapping[ResourceKey | str, Change | Workload | None]) -> None:
        workloads = cast(
            "dict[str, Workload | None]", {key: value for key, value in batch.items() if isinstance(key, str)}
        )
        for name, workload in workloads.items():
            implied = implied_rows(workload) if workload is not None else ()
            self._waiting.runs(name, Ties(gives=frozenset(service_tie(row.hostname) for row, _ in implied)))
        written = (change for change in batch.values() if isinstance(change, Change))
        changes = self._waiting.whole(written, at_once=not self.pilot.source.ready)
        self.pilot.apply(changes, workloads)
        if any(change.key.kind == "RequestAuthentication" for change in changes):
            self.keys.want(self.pilot.key_wants.all())
        if any(change.key.kind == "MeshConfig" for change in changes):
            self._follow_federation()
        if any(change.key.kind == "Rule" for change in changes):
            self._tell_mixer()
        try:
            save_vips(self.settings.vips_file, self.vips)
        except OSError as error:
            # Served all the same: after a restart another address may be chosen, which is told here.
            log.error("virtual ips not saved", file=str(self.settings.vips_file), error=str(error))
        if changes:
            log.info("configuration applied", changed=[str(change.key) for change in changes[:20]], count=len(changes))
            self._show_problems()

    def _follow_federation(self) -> None:
        """Believe the trust domains that the MeshConfig in force names."""
        if self.certificates.federation is not None:
            configs = [obj for key, obj in self.pilot.mesh.objects.items() if key.kind == "MeshConfig"]
            self.certificates.federation.configure(min(configs, key=age_key, default=None))

    def _tell_mixer(self) -> None:
        """Have Mixer decide by the rules in force that proxies cannot."""
        rules = [obj for key, obj in self.pilot.mesh.objects.items() if key.kind == "Rule"]
        self.mixer.want([rule_text(obj) for obj in sorted(rules, key=lambda obj: obj.key)])

    def _federation_changed(self) -> None:
        self.certificates.publish_trust()
        self._show_problems()

    def problems(self) -> list[Problem]:
        """Return everything that is wrong with the configuration now, by file and line."""
        found = [*self.folder.problems(), *self.pilot.problems()]
        if self.tasting is not None and self.tasting.fault:
            found.append(Problem("", 0, "", f"resources are served untasted: {self.tasting.fault}", "warning"))
        found.extend(self._missing.values())
        found.extend(self.keys.problems(self.pilot.mesh.objects.get))
        found.extend(self.certificates.problems())
        found.extend(folder_problems(self._secrets))
        found.extend(self.mixer.problems())
        found.extend(self._far_from_mixer())
        return sorted(set(found), key=lambda p: (p.file, p.line, p.field, p.message))

    def _far_from_mixer(self) -> Iterator[Problem]:
        """Yield workloads elsewhere where Mixer would be asked: its socket is this machine's."""
        for one in self.registrations:
            if not one.remote:
                continue
            labels = tuple(sorted(one.labels.items()))
            calls = self.pilot.mixer.calls_at(kind=one.kind, namespace=one.namespace, labels=labels)
            refused = sorted({*calls.closed, *calls.tcp_closed})
            passed = sorted({*calls.open, *calls.tcp_open})
            for rules, what in ((refused, "refused"), (passed, "let in")):
                if rules:
                    text = f"workload {one.name} is elsewhere and does not reach mixer"
                    told = f"{text}: what it would ask by {', '.join(rules)} is {what}"
                    yield Problem("", 0, "", told, "warning")

    def _show_problems(self) -> None:
        """Log each problem once, when it appears, and once when it is mended."""
        now = frozenset(self.problems())
        for problem in sorted(now - self._shown):
            tell = log.error if problem.level == "error" else log.warning
            tell("configuration problem", problem=str(problem))
        for problem in sorted(self._shown - now):
            log.info("configuration problem mended", problem=str(problem))
        self._shown = now

    # ---- the local service (`lateen.wire.local`)

    async def register(self, message: Registration) -> Registered:
        # Whoever calls on the local socket has its process here.
        self.registrations.put(msgspec.structs.replace(message, remote=False))
        return self.registered(to_workload(message))

    async def deregister(self, message: Goodbye) -> Registered:
        self.registrations.remove(message.name, message.pid)
        return self.registered()

    async def status(self, message: Query) -> StatusReport:
        return self.reporter.status(message)

    async def proxy_status(self, message: Query) -> ProxyReport:
        return self.reporter.proxies(message)

    async def group(self, message: GroupQuery) -> GroupInfo:
        return group_info(self.pilot.mesh, message)

    async def metrics(self, message: Query) -> MetricsReport:
        return MetricsReport(text=metrics_text(self))

    async def access(self, message: Query) -> AccessReport:
        return access_report(self.pilot, message.workload)

    async def create_join_token(self, message: JoinTokenRequest) -> JoinTokenCreated:
        return self.certificates.create_join_token(message, self.listens_at)

    async def list_join_tokens(self, message: JoinTokenName) -> JoinTokenList:
        return JoinTokenList(tokens=self.certificates.join_tokens.listed())

    async def revoke_join_token(self, message: JoinTokenName) -> JoinTokenList:
        return JoinTokenList(tokens=(self.certificates.join_tokens.revoke(message.name),))

    def registered(self, workload: Workload | None = None) -> Registered:
        """Return what an agent must know of the mesh; `workload`: the one that it has just registered."""
        return Registered(
            trust_domain=self.options.trust_domain,
            cluster_domain="cluster.local",
            mesh_id=MESH_ID,
            cluster_id=CLUSTER_ID,
            bootstrap=self.pilot.bootstrap_for(workload) if workload is not None else (),
            proxy=self.pilot.proxy_for(workload) if workload is not None else AGENTS_CHOICE,
        )


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _secrets_folder(settings: Settings, options: ControlPlaneOptions) -> Path:
    return settings.secrets if options.secrets is None else options.secrets


def _raise_descriptor_limit() -> None:
    """Take as many descriptors as the system allows: each workload takes two, and a shell's default is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _only_one(settings: Settings) -> Any:
    """Hold the state folder's lock; the kernel frees it however the process ends. Raises `Refused`."""
    file: TextIO = open(settings.state / "lock", "w")  # noqa: SIM115  # open as long as the lock is held
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Refused(
            f"a control plane runs already on state folder {settings.state}; stop it, or name another with --state"
        ) from None
    try:
        yield
    finally:
        file.close()
