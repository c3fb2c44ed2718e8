"""What the kernel does with a workload's traffic under the capture rules, in a real mesh network.

Two workloads `a` and `b`. In each, `tests/fakes/inside.py` stands for Envoy on 15001 and 15006, telling what it was
reached for, and for an application on 9080.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from lateen.net.capture import Capture
from lateen.net.client import Attachment, Lease, ensure_holder

from .conftest import check_nothing_left, make_settings, run_inside, start_inside, stop

pytestmark = [pytest.mark.netns, pytest.mark.asyncio(loop_scope="module")]

MARK = "1337"


@dataclass(frozen=True)
class World:
    lease: Lease
    a: Attachment
    b: Attachment
    gateway: Attachment


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    settings = make_settings()
    processes: list[Process] = []
    with ensure_holder(settings, outside=False) as lease:
        capture = Capture(exclude_outbound_cidrs=("10.77.0.1/32",), exclude_outbound_ports=(4444,))
        made = World(lease, lease.attach("a", capture), lease.attach("b", Capture()), lease.attach("gateway", None))
        for attachment in (made.a, made.b):
            processes.append(await start_inside(attachment, "proxy", "15001", "15006", role="proxy"))
            processes.append(await start_inside(attachment, "app", "9080"))
        processes.append(await start_inside(made.gateway, "app", "80", role="proxy"))
        yield made
        for process in processes:
            await stop(process)
        for attachment in (made.a, made.b, made.gateway):
            attachment.close()
    check_nothing_left(settings)


@pytest.mark.parametrize(
    ("target", "port", "said"),
    [
        pytest.param("10.96.0.10", "80", "15001 for 10.96.0.10:80", id="service-address"),
        pytest.param("240.240.0.1", "443", "15001 for 240.240.0.1:443", id="service-entry-address"),
        pytest.param("b", "9080", "15001 for b:9080", id="other-workload"),
        pytest.param("198.51.100.1", "81", "15001 for 198.51.100.1:81", id="outside"),
        pytest.param("a", "9080", "app", id="itself"),
        pytest.param("127.0.0.1", "9080", "app", id="localhost"),
        pytest.param("10.77.0.1", "81", "ECONNREFUSED", id="excluded-range"),
        pytest.param("10.96.0.10", "4444", "EHOSTUNREACH", id="excluded-port"),
    ],
)
async def test_an_application_calls(world: World, target: str, port: str, said: str) -> None:
    ip = {"a": world.a.ip, "b": world.b.ip}.get(target, target)
    assert await run_inside(world.a, "call", ip, port) == said.replace("b:", f"{world.b.ip}:")


async def test_what_a_proxy_sends_is_not_captured_where_it_leaves_but_where_it_arrives(world: World) -> None:
    said = await run_inside(world.a, "call", world.b.ip, "9080", MARK, role="proxy")
    assert said == f"15006 for {world.b.ip}:9080"


async def test_a_service_that_calls_itself_passes_its_own_inbound_policy(world: World) -> None:
    said = await run_inside(world.a, "call", world.a.ip, "9080", MARK, role="proxy")
    assert said == f"15006 for {world.a.ip}:9080"


async def test_a_proxy_hands_on_to_its_application(world: World) -> None:
    assert await run_inside(world.a, "call", world.a.ip, "9080", MARK, "127.0.0.6", role="proxy") == "app"
    assert await run_inside(world.a, "call", "127.0.0.1", "9080", MARK, role="proxy") == "app"


async def test_an_application_cannot_pass_for_the_proxy(world: World) -> None:
    assert await run_inside(world.a, "call", world.b.ip, "9080", MARK) == "EPERM"


async def test_no_port_of_the_proxy_is_a_way_around_it(world: World) -> None:
    for port in ("9080", "15001", "15006", "15008", "15053"):
        assert (
            await run_inside(world.gateway, "call", world.b.ip, port, role="proxy") == f"15006 for {world.b.ip}:{port}"
        )


async def test_a_gateway_is_reached_as_it_is_and_calls_as_it_is(world: World) -> None:
    assert await run_inside(world.a, "call", world.gateway.ip, "80", MARK, role="proxy") == "app"
    said = await run_inside(world.gateway, "call", world.b.ip, "9080", role="proxy")
    assert said == f"15006 for {world.b.ip}:9080"


@pytest.mark.parametrize("name", ["a", "gateway"])
@pytest.mark.parametrize("resolver", ["8.8.8.8", "127.0.0.53", "127.0.0.1"])
async def test_a_lookup_is_answered_by_the_agent(world: World, name: str, resolver: str) -> None:
    attachment = world.a if name == "a" else world.gateway
    sock = attachment.sockets["dns-udp"]
    asking = asyncio.create_task(run_inside(attachment, "ask", resolver, "53"))
    async with asyncio.timeout(10):
        question, client = await asyncio.get_running_loop().sock_recvfrom(sock, 100)
        await asyncio.get_running_loop().sock_sendto(sock, b"agent", client)
    assert question == b"who?"
    assert await asking == "agent"


async def test_a_lookup_by_tcp_is_answered_by_the_agent(world: World) -> None:
    asking = asyncio.create_task(run_inside(world.a, "call", "8.8.8.8", "53"))
    async with asyncio.timeout(10):
        sock, _ = await asyncio.get_running_loop().sock_accept(world.a.sockets["dns-tcp"])
    with sock:
        await asyncio.get_running_loop().sock_sendall(sock, b"agent")
    assert await asking == "agent"


@pytest.mark.parametrize(("name", "port"), [("health", "15021"), ("metrics", "15020")])
async def test_the_agents_ports_are_reached_from_other_workloads(world: World, name: str, port: str) -> None:
    calling = asyncio.create_task(run_inside(world.b, "call", world.a.ip, port, MARK, role="proxy"))
    async with asyncio.timeout(10):
        sock, (caller, _) = await asyncio.get_running_loop().sock_accept(world.a.sockets[name])
    with sock:
        await asyncio.get_running_loop().sock_sendall(sock, b"agent")
    assert (await calling, caller) == ("agent", world.b.ip)


@pytest.mark.parametrize("target", ["198.51.100.1", "10.96.0.10", "240.240.0.9"])
async def test_what_leads_nowhere_is_refused_at_once(world: World, target: str) -> None:
    said, seconds = (await run_inside(world.a, "seconds", target, "81", MARK, role="proxy")).split()
    assert said in ("ENETUNREACH", "EHOSTUNREACH")
    assert float(seconds) < 1.0


async def test_there_is_no_way_around_by_ipv6(world: World) -> None:
    assert world.lease.outside is False
    process = await start_inside(world.a, "app", "9099")
    with open(f"/proc/{process.pid}/net/if_inet6") as file:
        links = {line.split()[-1] for line in file}
    await stop(process)
    assert links == {"lo"}
