"""Whole workloads with real Envoys: join, serve, crash, rotate, leave. In explicit mode, which every machine can do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.fakes.agent_mesh import FakeMesh, http_listener
from tests.fakes.certs import StrangeAuthority, key_pem, pem_of, uri
from tests.fakes.pki import Link, crl_of, make_link
from tests.fakes.xds import FakeSlice, make_resource, scope_of

from lateen.agent.admin import Admin
from lateen.agent.app import exit_code
from lateen.agent.drain import ACTIVE_STATS, active_work
from lateen.agent.runner import Stdio, Stop, run_workload
from lateen.agent.spec import HostListener, WorkloadSpec
from lateen.citadel.material import Material
from lateen.errors import BadInput, Refused, Unavailable
from lateen.pilot.serving.trust import trust_holders
from lateen.pilot.xds.type_urls import LDS
from lateen.wire.local import GroupInfo, Probe, ProxySettings, WorkloadPort
from lateen.wire.spiffe import SpiffeId
from lateen.wire.trust import TrustBundle, TrustUpdate

pytestmark = pytest.mark.envoy

APP = (sys.executable, str(Path(__file__).with_name("slow_app.py")))
PORT = WorkloadPort(name="http", number=9080, target=9080)
COARSE = timedelta(seconds=1)  # time(2), by which OpenSSL judges, is behind clock_gettime by up to a tick


def make_spec(**fields: Any) -> WorkloadSpec:
    return WorkloadSpec(
        **{
            "name": "reviews-v3",
            "service": "reviews",
            "version": "v3",
            "ports": (PORT,),
            "argv": APP,
            "env": dict(os.environ),
            "mode": "explicit",
            "service_account": "reviews",
            **fields,
        }
    )


@dataclass
class Running:
    """One workload in this process, and what it told."""

    mesh: FakeMesh
    log: Any
    stop: Stop = field(default_factory=Stop)
    events: list[str] = field(default_factory=list)
    task: asyncio.Task[int] | None = None

    @property
    def ip(self) -> str:
        return self.mesh.last.ip

    @property
    def folder(self) -> Path:
        return self.mesh.settings.workload_dir(self.mesh.last.name)

    async def get(self, path: str, port: int = 9080, *, ip: str = "") -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection(ip or self.ip, port)
        return await exchange(reader, writer, path)

    async def listens(self, count: int = 2) -> None:
        """Wait until Envoy has the listener that was pushed, beside its own for metrics."""
        admin = Admin(self.folder / "admin.sock")
        name = "listener_manager.total_listeners_active"
        async with asyncio.timeout(10):
            while (await admin.stats(name)).get(name) != count:  # noqa: ASYNC110  # of another process
                await asyncio.sleep(0.01)

    async def begin(self, path: str) -> asyncio.Task[tuple[int, bytes]]:
        """Begin a request, and return when Envoy has it in hand."""
        task = asyncio.create_task(self.get(path))
        admin = Admin(self.folder / "admin.sock")
        async with asyncio.timeout(10):
            while active_work(await admin.stats(ACTIVE_STATS), inbound_only=True) == 0:
                assert not task.done()
        return task

    async def end(self) -> int:
        assert self.task is not None
        return await asyncio.wait_for(self.task, 20)


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> tuple[int, bytes]:
    """Ask once and close; return status and body."""
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode().lower()
        length = re.search(r"content-length: (\d+)", head)
        # A draining Envoy closes connections only seconds after their answer.
        body = await asyncio.wait_for(reader.readexactly(int(length[1])) if length else reader.read(), 20)
        return int(head.split()[1]), body
    finally:
        writer.close()


@asynccontextmanager
async def running(
    mesh: FakeMesh, log: Any, until: Any, *, serve: bool = True, mtls: bool = False, **fields: Any
) -> AsyncIterator[Running]:
    """Run a workload; with `serve`, until its application gets requests."""
    run = Running(mesh, log)
    spec = make_spec(**fields)
    run.task = asyncio.create_task(
        run_workload(
            spec,
            mesh.settings,
            on_event=lambda event, _: run.events.append(event),
            log=log,
            stdio=Stdio(stdin=DEVNULL),
            stop=run.stop,
        )
    )
    try:
        if serve:
            await until(lambda: run.task.done() or mesh.registrations)
            if not run.task.done():
                last = mesh.last
                mesh.serve_inbound(ip=last.ip, port=9080, target=last.ports[0].target, mtls=mtls)
                await until(lambda: run.task.done() or mesh.last.ready)
            assert not run.task.done(), (await run.task, log.buffer.getvalue())
            await run.listens(3 if fields.get("annotations") else 2)
        yield run
    finally:
        run.stop.hurry()
        await asyncio.gather(run.task, return_exceptions=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_workload_joins_serves_and_leaves(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until) as run:
        # Registered before it could serve, and told ready only when it did.
        assert [(r.ready, r.app_pid > 0) for r in mesh.registrations[:1]] == [(False, False)]
        last = mesh.last
        assert (last.ready, last.mode, last.pid, last.name) == (True, "explicit", os.getpid(), "reviews-v3")
        assert last.labels["app"] == "reviews"
        assert last.http_proxy_port > 0
        assert (last.ports[0].number, last.ports[0].target != 9080) == (9080, True)
        # The proxy was there before the application.
        assert run.events.index("proxy ready") < run.events.index("application started") < run.events.index("ready")
        assert await run.get("/x") == (200, f"{last.app_pid} /x".encode())
        assert await run.get("/healthz/ready", 15021) == (200, b"")
        status, text = await run.get("/stats/prometheus", 15020)
        assert status == 200
        assert b"istio_agent_cert_expiry_seconds" in text
        assert b"envoy_server_live" in text
        assert (await run.get("/stats/prometheus", 15090))[0] == 200
        assert (await run.get("/config_dump", 15090))[0] == 404
        pids = (last.app_pid, last.envoy_pid)
        assert all(alive(pid) for pid in pids)
        folder = run.folder
        assert folder.stat().st_mode & 0o777 == 0o700
        run.stop.ask()
        assert await run.end() == 0
        assert [(goodbye.name, goodbye.pid) for goodbye in mesh.goodbyes] == [("reviews-v3", os.getpid())]
        assert not any(alive(pid) for pid in pids)
        assert not folder.exists()
        assert "PRIVATE KEY" not in log.buffer.getvalue()


async def test_the_proxy_is_started_as_the_mesh_says(mesh: FakeMesh, log: Any, until: Any) -> None:
    proxy = ProxySettings(
        concurrency=2,
        environment={"GREETING": "ahoy", "ISTIO_META_NETWORK": "docks", "ISTIO_META_NAMESPACE": "other"},
        tracing_service_name="CANONICAL_NAME_ONLY",
        mesh_id="harbour",
        drain_seconds=7.0,
        termination_drain_seconds=0.25,
        flush_seconds=2.0,
        flush_kilobytes=8,
        stats_prefixes=("cluster.inbound",),
        runtime={"envoy.reloadable_features.x": "false", "limit": "9"},
        connection_limit=1000,
    )
    mesh.joined = msgspec.structs.replace(mesh.joined, proxy=proxy)
    async with running(mesh, log, until) as run:
        admin = Admin(run.folder / "admin.sock")
        info = json.loads((await admin.request("GET", "/server_info")).body)
        options, node = info["command_line_options"], info["node"]
        assert (options["concurrency"], options["drain_time"], options["file_flush_interval"]) == (2, "7s", "2s")
        command = Path(f"/proc/{mesh.last.envoy_pid}/cmdline").read_bytes().split(b"\0")
        assert command[command.index(b"--file-flush-min-size-kb") + 1] == b"8"
        assert (node["cluster"], node["metadata"]["MESH_ID"]) == ("reviews", "harbour")
        # The mesh adds to what the agent says of the workload, and never says otherwise.
        assert (node["metadata"]["NETWORK"], node["metadata"]["NAMESPACE"]) == ("docks", "default")
        runtime = json.loads((await admin.request("GET", "/runtime")).body)["entries"]
        assert runtime["limit"]["final_value"] == "9"
        assert runtime["envoy.reloadable_features.x"]["final_value"] == "false"
        await run.get("/x")
        assert b"cluster.inbound" in (await admin.request("GET", "/stats?filter=cluster.inbound")).body
        environment = Path(f"/proc/{mesh.last.envoy_pid}/environ").read_bytes().split(b"\0")
        assert b"GREETING=ahoy" in environment


async def test_its_applications_metrics_are_told_with_its_own(mesh: FakeMesh, log: Any, until: Any) -> None:
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "9080"}
    async with running(mesh, log, until, annotations=annotations) as run:
        status, text = await run.get("/stats/prometheus", 15020)
        assert status == 200
        assert b"envoy_server_live" in text
        assert text.endswith(b"# TYPE orders_total counter\norders_total 7\n")
        assert b'istio_agent_scrape_failures_total{type="application"} 0\n' in text
        assert b"orders" not in (await run.get("/stats/mesh", 15020))[1]
        # An Envoy that is started again is asked by the same way.
        was = mesh.last.envoy_pid
        os.kill(was, signal.SIGKILL)
        await until(lambda: mesh.last.envoy_pid not in (0, was) and mesh.last.ready)
        assert b"orders_total 7\n" in (await run.get("/stats/prometheus", 15020))[1]


async def test_its_logs_do_not_grow_for_ever(mesh: FakeMesh, log: Any, until: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("lateen.agent.workload.HOUSEKEEPING_SECONDS", 0.02)
    monkeypatch.setattr("lateen.agent.workload.MAX_ACCESS_LOG_BYTES", 10_000)
    async with running(mesh, log, until) as run:
        access, older = run.folder / "access.log", run.folder / "access.log.1"
        # Envoy's standard output, which is where access logs of /dev/stdout go; its own words are elsewhere.
        fds = [Path(f"/proc/{mesh.last.envoy_pid}/fd/{number}").resolve() for number in (1, 2)]
        assert fds == [access, run.folder / "envoy.log"]
        with open(access, "ab") as out:  # as Envoy writes
            out.write(b"".join(b"line %05d\n" % number for number in range(2000)))
        await until(lambda: older.exists() and access.stat().st_size == 0)
        kept = older.read_bytes()
        assert len(kept) <= 5000
        assert kept.startswith(b"line ")
        assert kept.endswith(b"line 01999\n")


async def test_the_mesh_may_want_no_metrics_of_applications(mesh: FakeMesh, log: Any, until: Any) -> None:
    mesh.joined = msgspec.structs.replace(mesh.joined, proxy=ProxySettings(merge_metrics=False))
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": "9080"}
    async with running(mesh, log, until, serve=False, annotations=annotations) as run:
        await until(lambda: mesh.registrations and mesh.last.envoy_pid)
        assert "application_metrics" not in (run.folder / "bootstrap.json").read_text()


async def test_the_key_is_on_no_disk(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until) as run:
        files = [path for path in mesh.settings.state.rglob("*") if path.is_file() and "ca" not in path.parts[-2:]]
        assert run.folder / "bootstrap.json" in files
        assert not [path for path in files if b"PRIVATE KEY" in path.read_bytes()]


async def test_a_request_in_flight_survives_leaving(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until) as run:
        slow = await run.begin("/slow")
        run.stop.ask()
        await until(lambda: mesh.goodbyes)
        assert (await run.get("/healthz/ready", 15021))[0] == 503
        assert (await run.get("/new"))[0] == 200  # a client that has not heard yet is still served
        assert not slow.done()
        await run.get("/release")
        assert await slow == (200, f"{mesh.last.app_pid} /slow".encode())
        assert await run.end() == 0
        assert not log.said("left with work in progress")


async def test_what_takes_too_long_is_cut(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until, drain=timedelta(seconds=0.5)) as run:
        slow = await run.begin("/slow")
        run.stop.ask()
        assert await run.end() == 0
        assert log.said("left with work in progress")
        await asyncio.gather(slow, return_exceptions=True)


async def test_hurried_it_leaves_at_once(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until, drain=timedelta(seconds=60), app_grace=timedelta(seconds=60)) as run:
        slow = await run.begin("/slow")
        run.stop.ask()
        await until(lambda: mesh.goodbyes)
        run.stop.hurry()
        await asyncio.wait_for(run.end(), 5)
        await asyncio.gather(slow, return_exceptions=True)


async def test_a_crashed_envoy_comes_back(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until) as run:
        first = mesh.last.envoy_pid
        app = mesh.last.app_pid
        told = len(mesh.registrations)
        os.kill(first, signal.SIGKILL)
        await until(lambda: mesh.last.ready and mesh.last.envoy_pid not in (0, first))
        # Meanwhile nobody was sent there.
        assert any(not registration.ready for registration in mesh.registrations[told:])
        assert mesh.last.app_pid == app
        assert (await run.get("/x"))[0] == 200
        assert b"istio_agent_envoy_restarts_total 1\n" in (await run.get("/metrics", 15020))[1]


async def test_the_applications_exit_is_the_workloads(mesh: FakeMesh, log: Any, until: Any) -> None:
    argv = (sys.executable, "-c", "raise SystemExit(7)")
    async with running(mesh, log, until, serve=False, argv=argv, ports=()) as run:
        assert await run.end() == 7
        assert len(mesh.goodbyes) == 1
    argv = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    async with running(mesh, log, until, serve=False, argv=argv, ports=()) as run:
        assert await run.end() == exit_code(-9) == 137


async def test_a_command_that_is_not_there(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until, serve=False, argv=("/no/such/command",), ports=()) as run:
        with pytest.raises(BadInput, match="/no/such/command"):
            await run.end()
        assert len(mesh.goodbyes) == 1
        assert not mesh.settings.workload_dir("reviews-v3").exists()


async def test_a_name_that_is_taken(mesh: FakeMesh, log: Any, until: Any) -> None:
    mesh.refusal = Refused("a workload 'reviews-v3' runs already")
    async with running(mesh, log, until, serve=False) as run:
        with pytest.raises(Refused, match="runs already"):
            await run.end()


async def test_without_a_control_plane(mesh: FakeMesh, log: Any, until: Any) -> None:
    await mesh.stop()
    async with running(mesh, log, until, serve=False, join_timeout=timedelta(seconds=0.2)) as run:
        with pytest.raises(Unavailable, match="lateen up"):
            await run.end()


async def test_leaving_while_the_proxy_still_waits(mesh: FakeMesh, log: Any, until: Any) -> None:
    mesh.source.refusal = Unavailable("still reading")
    async with running(mesh, log, until, serve=False) as run:
        await until(lambda: mesh.registrations and mesh.last.envoy_pid)
        assert (await run.get("/healthz/ready", 15021))[0] == 503
        run.stop.ask()
        assert await run.end() == 143
        assert "application started" not in run.events


async def test_the_control_plane_away_stops_nothing(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until) as run:
        await mesh.stop()
        await until(lambda: log.said("control plane away"))
        assert (await run.get("/x"))[0] == 200
        assert (await run.get("/healthz/ready", 15021))[0] == 200
        told = len(mesh.registrations)
        await mesh.start()
        await until(lambda: len(mesh.registrations) > told)  # says again what it is
        assert mesh.last == mesh.registrations[told - 1]


async def test_garbage_and_silence_on_its_ports(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until) as run:
        writers = []
        for port in (15020, 15021):
            for data in (os.urandom(5000), b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b""):
                for _ in range(20):
                    _, writer = await asyncio.open_connection(run.ip, port)
                    writer.write(data)
                    writers.append(writer)
        assert (await run.get("/healthz/ready", 15021))[0] == 200
        assert (await run.get("/metrics", 15020))[0] == 200
        assert (await run.get("/x"))[0] == 200
        for writer in writers:
            writer.close()


async def test_a_gateway_is_reached_from_the_host(mesh: FakeMesh, log: Any, until: Any) -> None:
    async with running(mesh, log, until):
        with socket_port() as port:
            pass  # free again
        listener = http_listener("gw", ip="127.0.0.1", port=port, cluster="inbound|9080||", inbound=False)
        served = FakeSlice(LDS, make_resource(listener.name, listener))
        mesh.source.scope = scope_of(mesh.clusters, served, mesh.names)  # of proxies that come from now on
        async with running(
            mesh,
            log,
            until,
            serve=False,
            name="ingressgateway",
            service="",
            kind="gateway",
            argv=(),
            ports=(WorkloadPort(name="http-80", number=80, target=port),),
            listeners=(HostListener(port=port, gateway_port=80),),
        ) as gateway:
            await until(lambda: mesh.last.kind == "gateway" and mesh.last.ready)
            assert (await gateway.get("/page", port, ip="127.0.0.1"))[1].endswith(b" /page")
            gateway.stop.ask()
            assert await gateway.end() == 0


async def test_a_port_of_the_host_that_is_taken(mesh: FakeMesh, log: Any, until: Any) -> None:
    with socket_port() as taken:
        async with running(
            mesh,
            log,
            until,
            serve=False,
            kind="gateway",
            argv=(),
            ports=(),
            listeners=(HostListener(port=taken, gateway_port=80),),
        ) as run:
            with pytest.raises(Refused, match=f"127.0.0.1:{taken}"):
                await run.end()


@asynccontextmanager
async def client_tls(mesh: FakeMesh, folder: Path) -> AsyncIterator[ssl.SSLContext]:
    """Give a TLS client of the mesh, with an identity of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    issued = mesh.authority.issue_for_key(
        key.public_key(), SpiffeId("cluster.local", "default", "client"), timedelta(hours=1)
    )
    (folder / "chain.pem").write_bytes(issued.leaf + b"".join(issued.chain))
    (folder / "key.pem").write_bytes(key_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=mesh.authority.root_pem.decode())
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    yield context


async def test_rotation_under_load_fails_no_handshake(log: Any, until: Any, tmp_path: Path) -> None:
    async with (
        FakeMesh(lifetime=timedelta(seconds=4)) as mesh,
        client_tls(mesh, tmp_path) as tls,
        running(mesh, log, until, mtls=True) as run,
    ):
        serials: dict[int, int] = {}
        loop = asyncio.get_running_loop()

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection(run.ip, 9080, ssl=tls, server_hostname="")

        kept_reader, kept_writer = await connect()  # from before the first rotation
        end = loop.time() + 5.0

        async def load() -> None:
            while loop.time() < end:
                reader, writer = await connect()
                der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                serial = x509.load_der_x509_certificate(der).serial_number
                serials[serial] = serials.get(serial, 0) + 1
                assert (await exchange(reader, writer, "/x"))[0] == 200
                await asyncio.sleep(0.005)

        await asyncio.gather(*(load() for _ in range(4)))
        assert len(serials) >= 2, serials
        assert sum(serials.values()) > 100
        assert (await exchange(kept_reader, kept_writer, "/kept"))[0] == 200


async def test_a_root_is_in_force_when_it_is_acknowledged_and_out_of_force_later(
    log: Any, until: Any, tmp_path: Path
) -> None:
    strange = StrangeAuthority()
    key = ec.generate_private_key(ec.SECP256R1())
    peer = strange.certify(key, names=[uri("spiffe://cluster.local/ns/default/sa/client")])
    (tmp_path / "chain.pem").write_bytes(pem_of(peer))
    (tmp_path / "key.pem").write_bytes(key_pem(key))

    async with FakeMesh(lifetime=timedelta(seconds=60)) as mesh:
        own = TrustUpdate(TrustBundle.of({"cluster.local": mesh.authority.roots}), mesh.authority.signing_path)
        both = TrustBundle.of({"cluster.local": [*mesh.authority.roots, strange.root_pem.decode()]})
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False
        tls.load_verify_locations(cadata=mesh.authority.root_pem.decode())
        tls.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
        mesh.tell_trust(own)

        def proven(version: str) -> bool:
            assert mesh.ads is not None
            return [h.version for h in trust_holders(mesh.ads.hub.streams).values()] == [version]

        async def ask(run: Running) -> int:
            connection = await asyncio.open_connection(run.ip, 9080, ssl=tls, server_hostname="")
            return (await exchange(*connection, "/x"))[0]

        async with running(mesh, log, until, mtls=True) as run:
            await until(lambda: proven(mesh.trust.all()["trust"].version))
            with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
                await ask(run)
            mesh.tell_trust(TrustUpdate(both, own.signing_path))
            await until(lambda: proven(mesh.trust.all()["trust"].version))
            # At once: what is acknowledged is in force, in every worker.
            assert [await ask(run) for _ in range(5)] == [200] * 5
            before = mesh.last.certificate
            assert before is not None
            assert before.signing_path == own.signing_path
            # The authority signs by another way now: the certificate is replaced, once, though this one does not.
            mesh.tell_trust(TrustUpdate(own.bundle, "another way"))
            await until(lambda: proven(mesh.trust.all()["trust"].version))
            with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
                await ask(run)
            await until(lambda: mesh.last.certificate is not None and mesh.last.certificate != before)


async def test_citadel_away_for_a_whole_life_of_certificates(log: Any, until: Any, tmp_path: Path) -> None:
    async with (
        FakeMesh(lifetime=timedelta(seconds=3)) as mesh,
        client_tls(mesh, tmp_path) as tls,
        running(mesh, log, until, mtls=True) as run,
    ):
        reader, writer = await asyncio.open_connection(run.ip, 9080, ssl=tls, server_hostname="")
        await mesh.stop()
        held = mesh.last.certificate
        assert held is not None
        end = datetime.fromisoformat(held.not_after)
        await until(lambda: datetime.now(UTC) > end + COARSE)
        # What stands goes on: TLS looks at certificates when a connection is made. What is new is refused.
        writer.write(b"GET /kept HTTP/1.1\r\nHost: reviews\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 200")
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
            await asyncio.open_connection(run.ip, 9080, ssl=tls, server_hostname="")
        assert run.task is not None
        assert not run.task.done()
        # And all by itself it recovers.
        await mesh.start()
        await until(lambda: mesh.last.certificate is not None and mesh.last.certificate != held, seconds=5)
        connection = await asyncio.open_connection(run.ip, 9080, ssl=tls, server_hostname="")
        assert (await exchange(*connection, "/new"))[0] == 200
        writer.close()


async def test_a_workload_that_missed_a_rotation_comes_back(log: Any, until: Any, tmp_path: Path) -> None:
    root = make_link("next root")
    material = Material(certificate=root.certificate, key=root.key, root=root.certificate, roots=(root.certificate,))
    async with FakeMesh(lifetime=timedelta(seconds=6)) as mesh:
        mesh.tell_trust(TrustUpdate(TrustBundle.of({"cluster.local": mesh.authority.roots})))
        async with running(mesh, log, until, mtls=True) as run:
            await until(lambda: log.said("trust bundle in use"))
            await mesh.stop()
            mesh.authority.use(material)  # without the old root, and without a word to this workload
            await mesh.start()
            mesh.tell_trust(TrustUpdate(TrustBundle.of({"cluster.local": mesh.authority.roots})))
            await until(lambda: log.said("roots taken from the authority"))
            await until(lambda: len(log.said("trust bundle in use")) == 2)
            async with client_tls(mesh, tmp_path) as tls:
                connection = await asyncio.open_connection(run.ip, 9080, ssl=tls, server_hostname="")
                assert (await exchange(*connection, "/x"))[0] == 200


async def test_a_revoked_authority_is_believed_no_more(log: Any, until: Any, tmp_path: Path) -> None:
    root = make_link("root")
    good, bad = make_link("good", root), make_link("bad", root)

    def material(signer: Link) -> Material:
        own = (signer.certificate,)
        return Material(
            certificate=own[0], key=signer.key, intermediates=own, root=root.certificate, roots=(root.certificate,)
        )

    async with FakeMesh() as mesh:
        mesh.authority.use(material(bad))
        async with client_tls(mesh, tmp_path) as of_bad:
            mesh.authority.use(material(good))
        bundle = TrustBundle.of({"cluster.local": mesh.authority.roots})
        mesh.tell_trust(TrustUpdate(bundle))
        async with running(mesh, log, until, mtls=True) as run, client_tls(mesh, tmp_path) as of_good:

            async def ask(tls: ssl.SSLContext) -> int:
                connection = await asyncio.open_connection(run.ip, 9080, ssl=tls, server_hostname="")
                return (await exchange(*connection, "/x"))[0]

            await until(lambda: log.said("trust bundle in use"))
            assert [await ask(of_good), await ask(of_bad)] == [200, 200]
            lists = crl_of(root, revoked=[bad.certificate.serial_number]) + crl_of(good) + crl_of(bad)
            mesh.tell_trust(TrustUpdate(bundle, revoked=lists.decode()))
            await until(lambda: len(log.said("trust bundle in use")) == 2)
            assert await ask(of_good) == 200
            with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
                await ask(of_bad)


async def test_sigkill_of_the_agent_leaves_nothing(mesh: FakeMesh, log: Any, until: Any) -> None:
    script = (
        "import asyncio, os, sys; from pathlib import Path;"
        "from lateen.agent.runner import run_workload; from lateen.agent.spec import WorkloadSpec;"
        "from lateen.settings import Settings;"
        "spec = WorkloadSpec(name='victim', argv=('sleep', '60'), env=dict(os.environ), mode='explicit');"
        "sys.exit(asyncio.run(run_workload(spec, Settings(state=Path(sys.argv[1])))))"
    )
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(mesh.settings.state), stderr=DEVNULL, stdin=DEVNULL
    )
    await until(lambda: mesh.registrations and mesh.last.app_pid and mesh.last.envoy_pid)
    pids = (mesh.last.app_pid, mesh.last.envoy_pid)
    status = dict(line.split(":", 1) for line in Path(f"/proc/{agent.pid}/status").read_text().splitlines())
    assert int(status["VmHWM"].split()[0]) < 64 * 1024  # kB: 57 MB where nothing else runs
    agent.kill()
    await agent.wait()
    await until(lambda: not any(alive(pid) for pid in pids))


def _take_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def test_a_signal_to_the_agent_is_handed_on(mesh: FakeMesh, log: Any, until: Any, tmp_path: Path) -> None:
    app = "import signal, sys; signal.signal(2, lambda *_: sys.exit(5)); print('up', flush=True); signal.pause()"
    script = (
        "import asyncio, os, sys; from pathlib import Path;"
        "from lateen.agent.runner import run_workload; from lateen.agent.spec import WorkloadSpec;"
        "from lateen.settings import Settings;"
        "argv = (sys.executable, '-c', sys.argv[2]);"
        "spec = WorkloadSpec(name='polite', argv=argv, env=dict(os.environ), mode='explicit');"
        "sys.exit(asyncio.run(run_workload(spec, Settings(state=Path(sys.argv[1])))))"
    )
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(mesh.settings.state), app),
        stdout=asyncio.subprocess.PIPE,
        stderr=DEVNULL,
        stdin=DEVNULL,
        # A shell's background job ignores it, and so would all that it starts.
        preexec_fn=_take_sigint,
    )
    assert agent.stdout is not None
    assert await asyncio.wait_for(agent.stdout.readline(), 15) == b"up\n"
    agent.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(agent.wait(), 15) == 5
    assert not list((mesh.settings.state / "w").iterdir())


async def test_an_agent_loads_nothing_heavy() -> None:
    script = (
        "import sys, lateen.agent.runner;"
        "heavy = ('envoy', 'structlog', 'rich', 'pyroute2', 'yaml', 'email.message', 'lateen.pilot', 'lateen.citadel');"
        "print([name for name in heavy if name in sys.modules])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out == b"[]\n"


class socket_port:  # reads as a function
    """A port of 127.0.0.1 that is taken inside the block."""

    def __enter__(self) -> int:
        import socket

        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen()
        port: int = self.sock.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self.sock.close()


async def test_a_workload_of_a_group_gets_traffic_while_its_probe_succeeds(
    mesh: FakeMesh, log: Any, until: Any, tmp_path: Path
) -> None:
    well = tmp_path / "well"
    mesh.groups["vms"] = GroupInfo(
        name="vms",
        namespace="default",
        service_account="vm",
        labels={"app": "quotes", "version": "v3"},
        annotations={"team": "quotes"},
        ports={"http": 9080},
        locality="eu/eu-1",
        network="dc-east",
        weight=3,
        probe=Probe(kind="exec", command=("test", "-e", str(well)), period_seconds=1, failure_threshold=1),
    )
    fields = {"group": "vms", "service": "", "version": "", "ports": (), "labels": {"version": "v4"}}
    async with running(mesh, log, until, serve=False, **fields) as run:
        assert run.task is not None
        await until(lambda: run.task.done() or (mesh.registrations and "exit code 1" in mesh.last.waits_for))
        assert not run.task.done(), await run.task
        last = mesh.last
        assert (last.ready, last.group, last.service_account, last.network) == (False, "vms", "vm", "dc-east")
        assert (last.labels["app"], last.labels["version"], last.locality, last.weight) == (
            "quotes",
            "v4",
            "eu/eu-1",
            3,
        )
        assert [(port.name, port.number) for port in last.ports] == [("http", 9080)]
        well.touch()
        await until(lambda: mesh.last.ready)
        assert mesh.last.waits_for == ""
        well.unlink()
        await until(lambda: not mesh.last.ready)
        assert mesh.last.waits_for == "exec test: exit code 1"
        run.stop.ask()
        assert await run.end() == 0


async def test_a_group_that_is_not_there_is_told(mesh: FakeMesh, log: Any) -> None:
    with pytest.raises(BadInput, match="no WorkloadGroup 'nothing'"):
        await run_workload(make_spec(group="nothing"), mesh.settings, log=log, stop=Stop())
    assert mesh.registrations == []
