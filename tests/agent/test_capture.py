"""A workload in a network of its own: what its application sees there. Real namespaces, real Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.agent_mesh import FakeMesh, http_cluster, http_listener
from tests.fakes.xds import FakeSlice, make_resource, scope_of

from lateen.agent.runner import Stdio, Stop, run_workload
from lateen.agent.spec import HostListener, WorkloadSpec
from lateen.errors import Unsupported
from lateen.net.client import ensure_holder
from lateen.pilot.xds.type_urls import LDS
from lateen.wire.local import WorkloadPort

pytestmark = [pytest.mark.envoy, pytest.mark.netns]

LOOK_AROUND = """
import json, os, socket, urllib.request
seen = {
    "resolv": open("/etc/resolv.conf").read(),
    "short": socket.gethostbyname("ratings"),
    "full": socket.gethostbyname("ratings.default.svc.cluster.local"),
    "ready": urllib.request.urlopen("http://127.0.0.1:15021/healthz/ready").status,
    "istio": b"istio_build" in urllib.request.urlopen("http://127.0.0.1:15020/metrics").read(),
    "interfaces": sorted(name for _, name in socket.if_nameindex()),
}
try:
    socket.getaddrinfo("nosuch.default.svc.cluster.local", 80)
except socket.gaierror as error:
    seen["nosuch"] = error.errno == socket.EAI_NONAME
print(json.dumps(seen), flush=True)
"""


@pytest.fixture
async def mesh() -> AsyncIterator[FakeMesh]:
    async with FakeMesh() as fake:
        try:
            lease = await asyncio.to_thread(ensure_holder, fake.settings, outside=False)
        except Unsupported as error:
            pytest.skip(str(error))
        try:
            yield fake
        finally:
            await asyncio.to_thread(lease.close_and_stop)


def make_spec(*argv: str, **fields: Any) -> WorkloadSpec:
    return WorkloadSpec(**{"name": "looker", "argv": argv, "env": dict(os.environ), **fields})


async def test_what_an_application_sees(mesh: FakeMesh, log: Any, tmp_path: Path) -> None:
    with open(tmp_path / "out", "w+") as out:
        code = await asyncio.wait_for(
            run_workload(
                make_spec(sys.executable, "-c", LOOK_AROUND),
                mesh.settings,
                log=log,
                stdio=Stdio(stdin=subprocess.DEVNULL, stdout=out),
                stop=Stop(),
            ),
            30,
        )
        out.seek(0)
        assert code == 0, log.buffer.getvalue()
        seen = json.load(out)
    interfaces = seen.pop("interfaces")
    assert seen == {
        "resolv": "nameserver 127.0.0.1\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n"
        "options ndots:5\n",
        "short": "10.96.0.7",
        "full": "10.96.0.7",
        "ready": 200,
        "istio": True,
        "nosuch": True,
    }
    assert "lo" in interfaces
    assert len(interfaces) == 2
    assert (mesh.last.mode, mesh.last.http_proxy_port) == ("capture", 0)
    assert not mesh.settings.workload_dir("looker").exists()


async def test_a_name_is_taken_while_its_agent_lives(mesh: FakeMesh, log: Any, until: Any) -> None:
    stop = Stop()
    first = asyncio.create_task(
        run_workload(make_spec("sleep", "60"), mesh.settings, log=log, stdio=Stdio(stdin=subprocess.DEVNULL), stop=stop)
    )
    try:
        await until(lambda: mesh.registrations and mesh.last.app_pid)
        with pytest.raises(Exception, match="looker"):
            await run_workload(make_spec("sleep", "60"), mesh.settings, log=log, stop=Stop())
        assert mesh.last.ready  # the first one was not disturbed
    finally:
        stop.ask()
        assert await asyncio.wait_for(first, 20) == 143


async def test_a_gateway_in_its_network_is_reached_from_the_host(mesh: FakeMesh, log: Any, until: Any) -> None:
    listener = http_listener("0.0.0.0_80", ip="0.0.0.0", port=80, cluster="admin", inbound=False)
    mesh.source.push((mesh.clusters, [make_resource("admin", http_cluster("admin", 15090))]))
    served = FakeSlice(LDS, make_resource(listener.name, listener))
    mesh.source.scope = scope_of(mesh.clusters, served, mesh.names)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    stop = Stop()
    spec = make_spec(
        name="ingressgateway",
        kind="gateway",
        ports=(WorkloadPort(name="http-80", number=80, target=port),),
        listeners=(HostListener(port=port, gateway_port=80),),
        drain=timedelta(seconds=1),
    )
    task = asyncio.create_task(run_workload(spec, mesh.settings, log=log, stop=stop))
    try:
        await until(lambda: mesh.registrations and mesh.last.ready)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /stats/prometheus HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)).startswith(b"HTTP/1.1 200")
        writer.close()
    finally:
        stop.ask()
        assert await asyncio.wait_for(task, 20) == 0
