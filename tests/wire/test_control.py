"""The control service over a real Unix socket: errors come back as they were, garbage hurts nobody."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from lateen.errors import BadInput, LateenError, Refused, Unavailable, Unsupported
from lateen.settings import Settings
from lateen.wire.access import AccessReport
from lateen.wire.control import MAX_MESSAGE_BYTES, ControlClient, call_control, control_handlers
from lateen.wire.local import (
    SERVICE,
    ControlPlaneInfo,
    Goodbye,
    GroupInfo,
    GroupQuery,
    MetricsReport,
    Probe,
    ProxyReport,
    Query,
    Registered,
    Registration,
    StatusReport,
    WorkloadPort,
)

REGISTRATION = Registration(
    name="reviews-v3",
    service="reviews",
    version="v3",
    labels={"app": "reviews"},
    ip="10.77.0.3",
    ports=(WorkloadPort(name="http", number=9080, target=9080),),
    pid=4711,
    start_ticks=99,
)
MESH = Registered(trust_domain="cluster.local", cluster_domain="cluster.local", mesh_id="m", cluster_id="c")
REPORT = StatusReport(
    control_plane=ControlPlaneInfo(
        pid=1,
        version="0.1.0",
        started="2026-06-01T12:00:00Z",
        config="/c",
        trust_domain="cluster.local",
        root_expires="2036-06-01T12:00:00Z",
        network="rootless",
        resources=1,
        services=2,
        proxies=3,
    ),
    workloads=(),
    errors=(),
    warnings=(),
)


class FakeControl:
    """Keeps registrations; raises `fault` when there is one."""

    def __init__(self) -> None:
        self.registered: dict[str, Registration] = {}
        self.asked: list[str] = []
        self.fault: Exception | None = None
        self.hold = asyncio.Event()
        self.hold.set()

    async def register(self, message: Registration) -> Registered:
        self.registered[message.name] = message
        return MESH

    async def deregister(self, message: Goodbye) -> Registered:
        if message.name not in self.registered:
            raise Refused(f"no workload {message.name!r}")
        del self.registered[message.name]
        return MESH

    async def status(self, message: Query) -> StatusReport:
        self.asked.append(message.workload)
        await self.hold.wait()
        if self.fault is not None:
            raise self.fault
        return REPORT

    async def proxy_status(self, message: Query) -> ProxyReport:
        return ProxyReport(proxies=())

    async def group(self, message: GroupQuery) -> GroupInfo:
        probe = Probe(kind="tcp", port=8080)
        return GroupInfo(name=message.name, namespace=message.namespace, service_account="vm", probe=probe)

    async def metrics(self, message: Query) -> MetricsReport:
        return MetricsReport(text="up 1\n")

    async def access(self, message: Query) -> AccessReport:
        raise Unsupported(f"not in tests: {message.workload}")


class Mesh:
    """A service on `settings.ca_socket` with a client."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.control = FakeControl()
        self.channel = grpc.aio.insecure_channel(f"unix:{settings.ca_socket}")
        self.client = ControlClient(self.channel, timeout=20)

    async def raw(self, method: str, data: bytes) -> bytes:
        answer: bytes = await self.channel.unary_unary(f"/{SERVICE}/{method}")(data, timeout=20)
        return answer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(state=tmp_path)
    settings.run.mkdir()
    return settings


@pytest.fixture
async def mesh(settings: Settings) -> AsyncIterator[Mesh]:
    mesh = Mesh(settings)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((control_handlers(mesh.control),))
    server.add_insecure_port(f"unix:{settings.ca_socket}")
    await server.start()
    yield mesh
    await mesh.channel.close()
    await server.stop(None)


async def test_every_method(mesh: Mesh) -> None:
    assert await mesh.client.register(REGISTRATION) == MESH
    assert mesh.control.registered == {"reviews-v3": REGISTRATION}
    assert await mesh.client.status(Query(workload="reviews-v3")) == REPORT
    assert mesh.control.asked == ["reviews-v3"]
    assert await mesh.client.proxy_status(Query()) == ProxyReport(proxies=())
    group = await mesh.client.group(GroupQuery(namespace="other", name="vms"))
    assert (group.namespace, group.name, group.probe) == ("other", "vms", Probe(kind="tcp", port=8080))
    assert await mesh.client.deregister(Goodbye(name="reviews-v3", pid=4711)) == MESH
    with pytest.raises(Refused, match="no workload 'reviews-v3'"):
        await mesh.client.deregister(Goodbye(name="reviews-v3", pid=4711))


class Special(BadInput):
    """An error that only the service's side knows."""


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(BadInput("a.yaml:3: wrong"), BadInput, id="bad-input"),
        pytest.param(Special("wrong"), BadInput, id="a-kind-of-bad-input"),
        pytest.param(Refused("not yours"), Refused, id="refused"),
        pytest.param(Unavailable("Envoy does not answer"), Unavailable, id="unavailable"),
        pytest.param(Unsupported("no namespaces here"), Unsupported, id="unsupported"),
        pytest.param(LateenError("odd"), LateenError, id="base"),
        pytest.param(BadInput("größer als\nerlaubt: \u2717 50%"), BadInput, id="unicode-and-newline"),
    ],
)
async def test_errors_come_back_as_they_were(mesh: Mesh, fault: LateenError, kind: type[LateenError]) -> None:
    mesh.control.fault = fault
    with pytest.raises(LateenError) as caught:
        await mesh.client.status(Query())
    assert type(caught.value) is kind
    assert str(caught.value) == str(fault)
    with pytest.raises(LateenError) as caught:
        await asyncio.to_thread(call_control, mesh.settings, "Status", Query())
    assert (type(caught.value), str(caught.value)) == (kind, str(fault))


@pytest.mark.parametrize("character", ["x", "%", "\n", "\u2717", "\U0001f6a2"])
async def test_long_messages_arrive_cut(mesh: Mesh, character: str) -> None:
    mesh.control.fault = BadInput(character * 100_000)
    for _ in range(20):  # between gRPC's soft and hard limit of headers it is chance whether a call gets through
        with pytest.raises(BadInput) as caught:
            await mesh.client.status(Query())
        assert str(caught.value).startswith(character * 500)
        assert str(caught.value).endswith(character + "...")


@pytest.mark.parametrize(
    ("method", "data"),
    [
        pytest.param("Register", b"", id="empty"),
        pytest.param("Register", b"\xff\xfe\0", id="binary"),
        pytest.param("Register", b"{", id="cut"),
        pytest.param("Register", b"[]", id="other-type"),
        pytest.param("Register", b"{}", id="fields-missing"),
        pytest.param("Register", b'{"name":1}', id="wrong-type"),
        pytest.param("Status", b'{"workload":"x","extra":1}', id="unknown-field"),
        pytest.param("Status", b'{"workload":"\xff"}', id="no-utf8"),
        pytest.param("Status", b"[" * 200_000, id="deep"),
        pytest.param("Status", b'{"workload":' + b"[" * 100_000, id="deep-inside"),
        pytest.param("Status", b'{"workload":"' + b"x" * MAX_MESSAGE_BYTES + b'"}', id="too-large"),
    ],
)
async def test_garbage(mesh: Mesh, method: str, data: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.raw(method, data)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert mesh.control.registered == {}
    assert mesh.control.asked == []
    assert await mesh.client.status(Query()) == REPORT


async def test_the_field_is_named(mesh: Mesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"no Registration in JSON: Expected `int`.*`\$\.pid`"):
        await mesh.raw("Register", b'{"name":"a","ip":"b","pid":"c","startTicks":1}')


async def test_oversized(mesh: Mesh) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.raw("Status", b"x" * 5_000_000)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await mesh.client.status(Query()) == REPORT


async def test_bytes_that_are_no_grpc(mesh: Mesh) -> None:
    _, writer = await asyncio.open_unix_connection(str(mesh.settings.ca_socket))
    writer.write(b"GET / HTTP/1.1\r\n\r\n" * 1000)
    await writer.drain()
    assert await mesh.client.status(Query()) == REPORT
    writer.transport.abort()


async def test_an_unknown_method(mesh: Mesh) -> None:
    with pytest.raises(Unsupported, match="is of another version"):
        await mesh.client._call("Explode", Query())


async def test_an_answer_of_another_version(settings: Settings) -> None:
    async def answer(data: bytes, context: Any) -> bytes:
        return b'{"controlPlane":{}}'

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Status": method}),))
    server.add_insecure_port(f"unix:{settings.ca_socket}")
    await server.start()
    with pytest.raises(Unsupported, match="another version: its answer to Status"):
        await asyncio.to_thread(call_control, settings, "Status", Query())
    await server.stop(None)


async def test_from_a_program_without_loop(mesh: Mesh) -> None:
    assert await asyncio.to_thread(call_control, mesh.settings, "Register", REGISTRATION) == MESH
    assert await asyncio.to_thread(call_control, mesh.settings, "Status", Query()) == REPORT


def test_nobody_there(settings: Settings) -> None:
    wanted = f"no control plane answers at {settings.ca_socket}: start one with 'lateen up DIR'"
    with pytest.raises(Unavailable) as caught:
        call_control(settings, "Status", Query())
    assert str(caught.value) == wanted
    settings.ca_socket.touch()  # what a killed control plane leaves
    with pytest.raises(Unavailable) as caught:
        call_control(settings, "Status", Query())
    assert str(caught.value) == wanted


async def test_no_answer_in_time(mesh: Mesh) -> None:
    mesh.control.hold.clear()
    with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
        await ControlClient(mesh.channel, timeout=0.05, where="x").status(Query())
    with pytest.raises(Unavailable, match=r"ca\.sock did not answer within 0\.05 s"):
        await asyncio.to_thread(call_control, mesh.settings, "Status", Query(), 0.05)
    mesh.control.hold.set()
    assert await mesh.client.status(Query()) == REPORT
