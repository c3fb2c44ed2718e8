"""One workload while it runs: its parts, what each tells the others, and the order in which they end.

Owned by `lateen.agent.runner`, which has found it a place and registered it.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Any, Final

import msgspec

from lateen.agent.admin import Admin
from lateen.agent.app import Application, app_environment
from lateen.agent.app_door import AppDoor
from lateen.agent.bootstrap import BootstrapInput, build_bootstrap, encode_bootstrap
from lateen.agent.bootstrap_patches import patched_bootstrap
from lateen.agent.dns import DnsServer, DnsStats, Resolve, resolv_conf_text
from lateen.agent.drain import drain
from lateen.agent.envoy import Child, EnvoySupervisor, envoy_arguments, find_envoy, validate_arguments
from lateen.agent.eviction import eviction_seconds
from lateen.agent.identity import Identity, Svid
from lateen.agent.link import Link
from lateen.agent.log import Log, last_line, shorten_log
from lateen.agent.monitor import ProxyMonitor
from lateen.agent.names import Entry, build_names
from lateen.agent.nds import MeshClient
from lateen.agent.on_demand import OnDemand
from lateen.agent.place import Grounds
from lateen.agent.probe import Health, at_the_workload, run_probe
from lateen.agent.proxy_settings import CONCURRENCY, DRAIN, node_with, spec_with
from lateen.agent.readiness import ProxyState, Readiness
from lateen.agent.registration import Registrar
from lateen.agent.resolvers import HostResolvers
from lateen.agent.scraping import LISTENER_SOCKET, Scraper, application_metrics
from lateen.agent.sds import SdsServer
from lateen.agent.secret_store import SecretStore
from lateen.agent.spec import build_node, effective_labels
from lateen.agent.status import Facts, StatusHandler
from lateen.agent.stop import Stop
from lateen.agent.trust import TrustKeeper
from lateen.agent.workload_api import WorkloadApi
from lateen.errors import Unavailable
from lateen.net.capture import MARK, PROXY_DNS_ADDRESS
from lateen.net.spawn import spawn
from lateen.settings import Settings
from lateen.wire.files import write_atomically
from lateen.wire.http_server import HttpServer
from lateen.wire.local import Registered, Registration
from lateen.wire.peer_env import peer_environment, peer_fields
from lateen.wire.readers import metrics_readers
from lateen.wire.svid import read_certificate

__all__ = ["Events", "Stdio", "Workload"]

WORKLOAD_API: Final = "SPIFFE_ENDPOINT_SOCKET"  # to the application; what the user says of it stays
PROXY_RESOLV_CONF: Final = "proxy-resolv.conf"
DNS_ADDRESS: Final = "127.0.0.1"  # of the application's resolver; port 53 is redirected to the agent's
TRIAL_SECONDS: Final = 10.0  # for Envoy to judge a patched bootstrap; it takes a tenth of one
TRIAL_WORDS: Final = 500  # characters of what it says
HOUSEKEEPING_SECONDS: Final = 5.0  # as long a busy access log grows beyond its limit
ACCESS_LOG: Final = "access.log"  # what `lateen logs` reads
ENVOY_LOG: Final = "envoy.log"
MAX_ACCESS_LOG_BYTES: Final = 16 << 20
PATIENCE_SECONDS: Final = 5.0  # how often is told what a workload that does not get ready waits for

# (event, its facts); events are listed in docs/design/0005-agent.md
Events = Callable[[str, dict[str, object]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    """The application's standard streams; None: the agent's own."""

    stdin: int | IO[Any] | None = None
    stdout: int | IO[Any] | None = None
    stderr: int | IO[Any] | None = None


class Workload:
    """Makes the parts of one agent and ties them. `run` is its life."""

    def __init__(
        self,
        grounds: Grounds,
        settings: Settings,
        *,
        link: Link,
        identity: Identity,
        registration: Registration,
        registrar: Registrar,
        mesh: Registered,
        on_event: Events,
        log: Log,
        stdio: Stdio,
        began: float,
    ) -> None:
        """`began` is when the agent was started, on the loop's clock."""
        spec = self._spec = spec_with(grounds.spec, mesh.proxy)
        self._grounds = grounds
        self._folder = settings.workload_dir(spec.name)
        self._mesh = mesh
        self._registration = registration
        self._registrar = registrar
        self._on_event = on_event
        self._log = log
        self._stdio = stdio
        self._began = began
        self._startup_seconds = 0.0
        self._captured = grounds.attachment is not None
        # Only a captured application asks this agent for names; and a gateway has none.
        self._readiness = Readiness(
            names=not (self._captured and spec.kind == "sidecar"),
            listening=not spec.ports or spec.kind == "gateway",
            ill="not probed yet" if spec.probe is not None else "",
        )
        self._proxy_ready = asyncio.Event()
        self._app_runs = asyncio.Event()
        self._node = node_with(build_node(spec, grounds.place, mesh), spec, mesh.proxy)

        self._admin = Admin(self._folder / "admin.sock")
        self._xds = str(link.xds)
        self._identity = identity
        self._citadel = link.citadel(spec.namespace, spec.service_account)
        self._secrets = SecretStore(log)
        link.trust(lambda svid: self._secrets.roots(svid, mesh.trust_domain))
        self._workload_api = WorkloadApi(
            self._on_demand,
            self._citadel.issue_jwt,
            spiffe_id=f"spiffe://{mesh.trust_domain}/ns/{spec.namespace}/sa/{spec.service_account}",
            trust_domain=mesh.trust_domain,
            log=log,
        )
        self._app_door = AppDoor(self._folder / "svid.sock", self._workload_api.handler(), log, folder=settings.state)
        self._sds = SdsServer(self._secrets, self._folder / "sds.sock", log)
        self._monitor = ProxyMonitor(self._admin, self._proxy_changed)
        self._envoy = EnvoySupervisor(
            self._start_envoy,
            on_pid=self._envoy_pid,
            last_words=lambda: last_line(self._folder / ENVOY_LOG),
            log=log,
            draw=random.random,
        )
        resolvers = HostResolvers(servers=spec.resolvers)
        waits = spec.kind == "sidecar"
        self._resolve = Resolve(resolvers, wait_for_table=waits, log=log)
        self._proxy_resolve = Resolve(resolvers, wait_for_table=waits, log=log, for_proxy=True)
        self._proxy_resolve.stats = self._resolve.stats  # told as one
        self._dns = DnsServer(self._resolve) if self._captured else None
        self._proxy_dns = DnsServer(self._proxy_resolve) if self._captured else None
        self._new_svid = asyncio.Event()
        self._trust = TrustKeeper(
            self._secrets,
            self._identity,
            trust_domain=mesh.trust_domain,
            on_taken=self._workload_api.set_trust,
            log=log,
        )
        self._names = MeshClient(
            socket=link.xds,
            node=self._node,
            identity=self._identity,
            on_table=self._table_received,
            trust=self._trust,
            on_connect=registrar.again,
            log=log,
        )
        ready = StatusHandler(lambda: self._readiness, self._admin, None)
        self._readers = metrics_readers(grounds.place.ip, spec.metrics_from)
        asked = application_metrics(spec.annotations, spec.ports) if mesh.proxy.merge_metrics and spec.argv else None
        self._scraper = None if asked is None else Scraper(asked, self._folder / LISTENER_SOCKET)
        everything = StatusHandler(
            lambda: self._readiness,
            self._admin,
            self._facts,
            readers=self._readers,
            scraper=self._scraper,
            log=log,
        )
        self._health = HttpServer(ready, log)
        self._metrics = HttpServer(everything, log)
        self._app = Application(
            self._start_app,
            targets=frozenset(port.target for port in spec.ports),
            # Where the application listens at another port than clients dial, it is reached on loopback, too.
            loopback=frozenset(p.target for p in spec.ports if not self._captured or p.target != p.number),
            on_pid=self._app_pid,
            on_listening=self._app_listening,
            log=log,
        )

        # Last, since whoever has joined from elsewhere has a certificate already.
        identity.listen(self._secrets.set_svid)
        identity.listen(self._trust.certificate_received)
        identity.listen(self._certificate_received)

    async def run(self, stop: Stop) -> int:
        """Serve until the application ends or `stop` asks, then leave; return the exit code.

        Raises what makes the workload impossible: Citadel's refusal, a command that is not there, a network that is
        gone. Whatever happens, nothing that was started here runs on.
        """
        await self._write_files()
        await self._serve_sockets()
        try:
            async with asyncio.TaskGroup() as tasks:
                parts = {
                    "identity": self._identity.run(),
                    "envoy": self._envoy.run(),
                    "proxy monitor": self._monitor.run(),
                    "names and trust": self._names.run(),
                    "certificate": self._tell_certificates(),
                    "registration": self._registrar.run(),
                    "secret files": self._secrets.run(),
                    "housekeeping": self._housekeeping(),
                    "network": self._watch_network(),
                }
                background = [tasks.create_task(part, name=name) for name, part in parts.items()]
                code = await self._foreground(stop)
                for task in background:
                    task.cancel()
        finally:
            await self._close()
        return code

    # ------------------------------------------------------------ start

    async def _write_files(self) -> None:
        spec, grounds = self._spec, self._grounds
        bootstrap = BootstrapInput(
            node=self._node,
            xds=self._xds,
            sds_socket=str(self._folder / "sds.sock"),
            admin_socket=str(self._admin.path),
            prometheus_address="0.0.0.0" if self._captured else grounds.place.ip,  # noqa: S104  # a network of its own
            metrics_readers=self._readers,
            mark=MARK if self._captured and spec.kind == "sidecar" else None,
            own_service=f"{spec.service}.{spec.namespace}.svc.{self._mesh.cluster_domain}"
            if spec.service and self._node.metadata.get("ENABLE_SELF_DISCOVERY") == "true"
            else "",
            proxy=self._mesh.proxy,
            eviction_seconds=eviction_seconds(spec.annotations),
            application_metrics=None
            if self._scraper is None
            else (str(self._scraper.socket), self._scraper.target.port),
        )
        document, verdicts = await patched_bootstrap(
            build_bootstrap(bootstrap), self._mesh.bootstrap, self._judge_bootstrap
        )
        for patch, reason in verdicts.items():
            if reason:
                self._log.error("bootstrap patch left out", patch=patch, reason=reason)
        self._registration = _with(self._registration, bootstrap=verdicts)
        write_atomically(self._folder / "bootstrap.json", encode_bootstrap(document))
        for name, server in (("resolv.conf", DNS_ADDRESS), (PROXY_RESOLV_CONF, PROXY_DNS_ADDRESS)):
            text = resolv_conf_text(spec.namespace, self._mesh.cluster_domain, server=server)
            write_atomically(self._folder / name, text.encode(), mode=0o644)

    async def _judge_bootstrap(self, document: dict[str, Any]) -> str:
        """Ask Envoy whether it would start with a document; return its last words when it would not."""
        trial = self._folder / "bootstrap-trial.json"
        write_atomically(trial, encode_bootstrap(document))
        process = await asyncio.create_subprocess_exec(
            *validate_arguments(find_envoy(), trial),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            env={"PATH": os.defpath},
            cwd=self._folder,
        )
        try:
            async with asyncio.timeout(TRIAL_SECONDS):
                _, said = await process.communicate()
        except TimeoutError:
            return f"Envoy did not judge it within {TRIAL_SECONDS:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            trial.unlink(missing_ok=True)
        if process.returncode == 0:
            return ""
        lines = said.decode(errors="replace").strip().splitlines()
        return lines[-1][:TRIAL_WORDS] if lines else f"Envoy ended with {process.returncode}"

    async def _serve_sockets(self) -> None:
        await self._sds.start()
        await self._health.serve_socket(self._grounds.health)
        await self._metrics.serve_socket(self._grounds.metrics)
        await self._metrics.serve_path(self._folder / "agent.sock")
        if self._spec.kind == "sidecar":
            attachment = self._grounds.attachment
            await self._app_door.start(
                app_pid=self._running_app,
                network=None if attachment is None else attachment.netns_fd,
            )
        if self._dns is not None and self._grounds.attachment is not None:
            sockets = self._grounds.attachment.sockets
            await self._dns.start(sockets["dns-udp"], sockets["dns-tcp"])
            assert self._proxy_dns is not None
            await self._proxy_dns.start(sockets["proxy-dns-udp"], sockets["proxy-dns-tcp"])

    async def _start_envoy(self) -> Child:
        spec = self._spec
        self._admin.path.unlink(missing_ok=True)
        if self._scraper is not None:
            self._scraper.socket.unlink(missing_ok=True)
        argv = envoy_arguments(
            find_envoy(),
            self._folder / "bootstrap.json",
            concurrency=spec.concurrency or CONCURRENCY,
            log_level=spec.envoy_log_level,
            proxy=self._mesh.proxy,
        )
        peer = peer_environment(**self._who())
        # What its spans are of, for OpenTelemetry: the tracer's configuration is one for many proxies.
        resource = {"OTEL_RESOURCE_ATTRIBUTES": f"service.name={self._node.cluster}"}
        self._shorten_logs()
        # What its access logs write to /dev/stdout, and what Envoy itself has to say.
        with open(self._folder / ACCESS_LOG, "ab") as out, open(self._folder / ENVOY_LOG, "ab") as err:  # noqa: ASYNC230  # system calls on a local folder
            return await spawn(
                argv,
                attachment=self._grounds.attachment,
                # Nothing of the user's; what the agent says stands before what the mesh says.
                env={**resource, **self._mesh.proxy.environment, "PATH": spec.env.get("PATH", os.defpath), **peer},
                cwd=self._folder,
                role="proxy",
                resolv_conf=self._folder / PROXY_RESOLV_CONF,
                stdin=DEVNULL,
                stdout=out,
                stderr=err,
            )

    def _who(self) -> dict[str, Any]:
        """Return what decides the workload's labels in metrics."""
        spec = self._spec
        return {
            "workload": spec.name,
            "namespace": spec.namespace,
            "cluster": self._mesh.cluster_id,
            "labels": effective_labels(spec),
        }

    async def _running_app(self) -> int:
        await self._app_runs.wait()
        return self._registration.app_pid

    def _on_demand(self, on_renewed: Callable[[], None]) -> OnDemand:
        spec = self._spec

        def make() -> Identity:
            return Identity(
                self._citadel.sign,
                namespace=spec.namespace,
                service_account=spec.service_account,
                lifetime=spec.certificate_lifetime,
                log=self._log.bind(of="application"),
            )

        return OnDemand(make, on_renewed)

    async def _start_app(self) -> Child:
        return await spawn(
            self._spec.argv,
            attachment=self._grounds.attachment,
            env={WORKLOAD_API: self._app_door.address, **app_environment(self._spec, self._grounds.place)},
            cwd=self._spec.cwd,
            role="app",
            core_limit=self._spec.core_limit,
            resolv_conf=self._folder / "resolv.conf",
            stdin=self._stdio.stdin,
            stdout=self._stdio.stdout,
            stderr=self._stdio.stderr,
        )

    # ------------------------------------------------------------ what the parts tell

    def _certificate_received(self, svid: Svid) -> None:
        self._on_event("certificate received", {"identity": str(svid.spiffe_id), "not_after": svid.not_after})
        self._new_svid.set()

    async def _tell_certificates(self) -> None:
        """Tell the control plane of each certificate once Envoy uses it, until cancelled."""
        while True:
            await self._new_svid.wait()
            self._new_svid.clear()
            svid = await self._identity.wait()
            if await self._secrets.taken("default"):
                continue  # refused, which is logged; it goes on with the one that the control plane knows
            info = msgspec.structs.replace(read_certificate(svid.chain).info(), signing_path=svid.signing_path)
            self._registration = _with(self._registration, certificate=info)
            self._publish()

    def _table_received(self, entries: dict[str, Entry]) -> None:
        names = build_names(entries, namespace=self._spec.namespace, domain=self._mesh.cluster_domain)
        self._resolve.names = self._proxy_resolve.names = names
        tell = self._log.debug if self._readiness.names else self._log.info  # it changes with every service
        tell("name table received", names=len(entries))
        self._changed(replace(self._readiness, names=True))

    def _proxy_changed(self, state: ProxyState) -> None:
        self._changed(replace(self._readiness, proxy=state))

    def _envoy_pid(self, pid: int) -> None:
        self._registration = _with(self._registration, envoy_pid=pid)
        self._monitor.restarted()
        self._publish()

    def _app_pid(self, pid: int) -> None:
        self._registration = _with(self._registration, app_pid=pid)
        if pid:
            self._app_runs.set()
        self._publish()
        if pid:
            self._on_event("application started", {"pid": pid})

    def _app_listening(self, listening: bool) -> None:
        self._changed(replace(self._readiness, listening=listening or not self._spec.ports))

    def _health_changed(self, health: Health) -> None:
        if health.ill != self._readiness.ill:
            tell = self._log.warning if health.ill else self._log.info
            tell("application's health changed", healthy=not health.ill, reason=health.ill or "probe succeeded")
            self._on_event("health changed", {"healthy": not health.ill, "reason": health.ill})
            self._changed(replace(self._readiness, ill=health.ill))

    def _changed(self, readiness: Readiness) -> None:
        was = self._readiness.ready
        self._readiness = readiness
        if readiness.ready and not self._proxy_ready.is_set():
            self._startup_seconds = asyncio.get_running_loop().time() - self._began
            self._log.info("proxy ready", seconds=self._startup_seconds)
            self._on_event("proxy ready", {"seconds": self._startup_seconds})
            self._proxy_ready.set()
        elif readiness.ready != was:
            self._log.info("readiness changed", ready=readiness.ready, waits_for=readiness.waits_for() or "nothing")
        self._publish()

    def _publish(self) -> None:
        """Tell the control plane what the workload is now; only what serves gets traffic."""
        ready, waits_for = self._readiness.serves, self._readiness.keeps_back()
        if ready != self._registration.ready:
            self._on_event("ready" if ready else "not ready", {"waits_for": waits_for})
        self._registration = _with(self._registration, ready=ready, waits_for=waits_for)
        self._registrar.want(self._registration)

    def _facts(self) -> Facts:
        stats: DnsStats | None = None if self._dns is None else self._resolve.stats
        return Facts(
            identity=self._identity,
            dns=stats,
            envoy_restarts=self._envoy.restarts,
            labels=peer_fields(**self._who()),
            startup_seconds=self._startup_seconds,
            now=time.time(),
        )

    # ------------------------------------------------------------ life and leaving

    async def _foreground(self, stop: Stop) -> int:
        if not await stop.unless_asked(self._until_proxy_ready()):
            return await self._leave(stop, None)
        if self._spec.kind == "gateway":
            await stop.asked.wait()
            return await self._leave(stop, None)
        # Only now: its first connection already finds names, identity and policy (an application never sees a mesh
        # that is half there).
        app = asyncio.create_task(self._app.run(), name="application")
        probe = asyncio.create_task(self._probe_app(), name="probe")
        try:
            await stop.unless_asked(asyncio.shield(app))
            return await self._leave(stop, app)
        finally:
            probe.cancel()
            app.cancel()
            await asyncio.gather(app, probe, return_exceptions=True)

    async def _probe_app(self) -> None:
        """Ask the application how it is, as its WorkloadGroup says, until cancelled."""
        spec, place = self._spec, self._grounds.place
        if spec.probe is None:
            return
        probe = at_the_workload(spec.probe, ip=place.ip if self._captured else "", ports=spec.ports)
        await run_probe(
            probe,
            lambda argv: spawn(
                argv,
                attachment=self._grounds.attachment,
                env=app_environment(spec, place),
                cwd=spec.cwd,
                role="app",
                core_limit=spec.core_limit,
                resolv_conf=self._folder / "resolv.conf",
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=DEVNULL,
            ),
            on_health=self._health_changed,
            log=self._log,
            draw=random.random,
        )

    async def _until_proxy_ready(self) -> bool:
        while not self._proxy_ready.is_set():
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._proxy_ready.wait()
            except TimeoutError:
                waits_for = self._readiness.waits_for()
                self._log.warning("not ready yet", waits_for=waits_for)
                self._on_event("waiting", {"waits_for": waits_for})
        return True

    async def _leave(self, stop: Stop, app: asyncio.Task[int] | None) -> int:
        """Leave in order; a second request to stop cuts every wait short."""
        ended = app is not None and app.done()
        self._on_event("leaving", {})
        self._changed(replace(self._readiness, draining=True))
        await self._registrar.leave(name=self._spec.name, pid=os.getpid())
        # An application that ended by itself has nothing in flight but answers on their way through Envoy.
        seconds = (
            (self._spec.drain or DRAIN).total_seconds() if self._spec.ports and self._readiness.proxy.ready else 0.0
        )
        inbound_only = self._spec.kind == "sidecar"
        left = await stop.unless_hurried(drain(self._admin, inbound_only=inbound_only, seconds=seconds))
        if left:
            self._log.warning("left with work in progress", requests=left)
        if app is not None and not ended:
            grace = self._spec.app_grace.total_seconds()
            await stop.unless_hurried(self._app.stop(stop.signal, seconds=grace))
            await self._app.stop(stop.signal, seconds=0.0)
        # Last: until here the application could call others.
        await self._envoy.stop()
        code = await app if app is not None else 0 if self._spec.kind == "gateway" else 128 + stop.signal
        self._on_event("left", {"code": code})
        return code

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            self._shorten_logs()

    def _shorten_logs(self) -> None:
        shorten_log(self._folder / ENVOY_LOG)
        shorten_log(self._folder / ACCESS_LOG, limit_bytes=MAX_ACCESS_LOG_BYTES)

    async def _watch_network(self) -> None:
        """Wait until the network is gone. Raises `Unavailable` then; returns at once where there is none."""
        lease = self._grounds.lease
        if lease is None:
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(lease.fileno(), gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(lease.fileno())
        raise Unavailable("the mesh network is gone: its holder ended")

    async def _close(self) -> None:
        if self._scraper is not None:
            await self._scraper.close()
        await self._workload_api.stop()
        await self._app_door.stop()
        for part in (self._dns, self._proxy_dns, self._health, self._metrics, self._sds):
            if part is not None:
                await part.stop()


def _with(registration: Registration, **fields: Any) -> Registration:
    return msgspec.structs.replace(registration, **fields)
