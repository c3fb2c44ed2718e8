"""The tasting Envoy: what it takes, what it refuses and how that is told, and what happens when something kills it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.address_pb2 import Address, Pipe
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.duration_pb2 import Duration
from tests.pilot.translate.cases import CASES

from lateen.errors import Unavailable
from lateen.pilot.taste.probe import JUDGED, Probe, needs_no_taste
from lateen.pilot.taste.taster import Taster
from lateen.pilot.translate.pack import TYPE_PREFIX, resource_of
from lateen.pilot.translate.parts import address
from lateen.pilot.xds.source import Resource
from lateen.pilot.xds.type_urls import CDS, EDS, LDS, RDS

pytestmark = pytest.mark.envoy

Wanted = tuple[str, Resource]


@pytest.fixture
async def taster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Taster]:
    async with Taster(tmp_path_factory.mktemp("t")) as one:
        yield one


def cluster(name: str, **fields: object) -> Wanted:
    values: dict[str, object] = {"type": Cluster.STATIC, "connect_timeout": Duration(seconds=1), **fields}
    return CDS, resource_of(Cluster(name=name, **values))


def of_no_type(name: str) -> Wanted:
    # Refused cluster by cluster, each with its name: a DNS cluster wants endpoints of its own.
    return cluster(name, type=Cluster.LOGICAL_DNS)


def beyond_bounds(name: str) -> Wanted:
    # Refused with the whole response, and nobody is named: the field's own rule.
    return cluster(name, connect_timeout=Duration(seconds=-1))


async def test_what_translation_makes_is_taken(taster: Taster) -> None:
    made = [
        (TYPE_PREFIX + message.DESCRIPTOR.full_name, resource_of(message)) for message in (c() for c in CASES.values())
    ]
    verdicts = await taster.taste(made)
    assert {verdicts[resource.version] for _, resource in made} == {""}
    assert taster.stats.starts == 1


async def test_the_refused_are_told_apart_in_envoys_words(taster: Taster) -> None:
    good = [cluster(f"good-{number}") for number in range(40)]
    bad = [of_no_type("outbound|80||a"), beyond_bounds("outbound|80||b"), of_no_type("outbound|80||c, d: e")]
    verdicts = await taster.taste([*good[:20], *bad, *good[20:]])
    assert [verdicts[resource.version] for _, resource in good] == [""] * 40
    first, second, third = (verdicts[resource.version] for _, resource in bad)
    assert first == third
    assert first == "LOGICAL_DNS clusters must have a single host"
    assert "Invalid duration" in second
    assert "~" not in first + second
    assert taster.stats.starts == 1
    assert (taster.stats.tasted, taster.stats.refused) == (43, 3)


async def test_each_type_is_judged_where_it_would_be_used(taster: Taster) -> None:
    endpoints = ClusterLoadAssignment(cluster_name="c")
    endpoints.endpoints.add().lb_endpoints.add().endpoint.address.CopyFrom(address("not-an-ip", 80))
    routes = RouteConfiguration(name="9080")
    for number in (1, 2):
        routes.virtual_hosts.add(name=f"v{number}", domains=["same.example.com"])
    listener = Listener(name="0.0.0.0_80", address=address("0.0.0.0", 80))  # bound by nobody
    listener.filter_chains.add().filters.add(name="nothing").typed_config.type_url = "type.googleapis.com/no.Such"
    wrong = Listener(name="wrong", address=address("10.0.0.300", 80))
    status = RouteConfiguration(name="80")
    route = status.virtual_hosts.add(
        name="long", domains=[f"{number}.example.com" for number in range(99)]
    ).routes.add()
    route.match.prefix = "/"
    route.direct_response.status = 600
    wanted = [(EDS, endpoints), (RDS, routes), (LDS, listener), (LDS, wrong), (RDS, status)]
    resources = [(type_url, resource_of(message)) for type_url, message in wanted]
    verdicts = await taster.taste(resources)
    told = [verdicts[resource.version] for _, resource in resources]
    places = (
        "malformed IP",
        "same.example.com",
        "no.Such",
        "malformed IP",
        "DirectResponseActionValidationError.Status",
    )
    for words, expected in zip(told, places, strict=True):
        assert expected in words, told
    assert told[-1].startswith("Proto constraint validation failed (")


async def test_listeners_of_one_address_do_not_meet(taster: Taster) -> None:
    make = next(name for name in CASES if name.startswith("outbound/"))
    listeners = []
    for number in range(3):
        message = CASES[make]()
        assert isinstance(message, Listener)
        message.stat_prefix = f"n{number}"
        listeners.append((LDS, resource_of(message)))
    verdicts = await taster.taste(listeners)
    assert list(verdicts.values()) == ["", "", ""]


async def test_a_listener_on_a_unix_socket_makes_no_file(taster: Taster, tmp_path: Path) -> None:
    paths = (tmp_path / "out.sock", tmp_path / ("x" * 120))
    listeners = [Listener(name=str(path), address=Address(pipe=Pipe(path=str(path)))) for path in paths]
    for listener in listeners:
        listener.filter_chains.add()
    resources = [(LDS, resource_of(listener)) for listener in listeners]
    verdicts = await taster.taste(resources)
    good, long = (verdicts[resource.version] for _, resource in resources)
    assert good == ""
    assert "more than 107 bytes" in long
    assert list(tmp_path.iterdir()) == []


async def test_nobody_forgets_an_envoy_that_is_being_ended(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with Taster(tmp_path_factory.mktemp("t")) as taster:
        await taster.start()
        child = taster._child
        assert child is not None
        ending = asyncio.create_task(taster._stop())
        await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
        assert ending.cancelled()
    assert child.returncode == -signal.SIGKILL  # None: its end was waited for by nobody


async def test_what_kills_envoy_is_found_and_the_rest_goes_on(taster: Taster, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = taster._stream.ask

    async def killed_by(type_url: str, probes: Sequence[Probe]) -> str:
        if any(probe.shown == "deadly" for probe in probes):
            os.kill(taster.pid, signal.SIGKILL)  # at once, while a handler of SEGV would let it answer meanwhile
        return await ask(type_url, probes)

    monkeypatch.setattr(taster._stream, "ask", killed_by)
    wanted = [cluster(f"good-{number}") for number in range(7)]
    wanted.insert(5, cluster("deadly"))
    verdicts = await taster.taste(wanted)
    words = {resource.name: verdicts[resource.version] for _, resource in wanted}
    assert words.pop("deadly").startswith("envoy was ended by SIGKILL")
    assert set(words.values()) == {""}
    assert taster.stats.starts == 5  # the first, and after 8, 4, 2 and 1 of them
    assert await taster.taste([cluster("after")]) == {cluster("after")[1].version: ""}


async def test_an_envoy_that_was_ended_is_started_again(taster: Taster) -> None:
    await taster.start()
    os.kill(taster.pid, signal.SIGKILL)
    (words,) = (await taster.taste([cluster("a")])).values()
    assert words == "" or "SIGKILL" in words  # ended under its eyes: it cannot tell by whom
    assert await taster.taste([cluster("b")]) == {cluster("b")[1].version: ""}


async def test_no_verdict_is_given_in_place_of_one_that_does_not_come(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with Taster(tmp_path_factory.mktemp("t"), deadline_seconds=0.05) as taster:
        await taster.start()
        os.kill(taster.pid, signal.SIGSTOP)
        assert await taster.taste([cluster("a")]) == {}
        assert taster.stats.untasted == 1


async def test_without_an_envoy_there_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lateen.pilot.taste.taster.START_SECONDS", 0.5)
    monkeypatch.setattr(Taster, "_arguments", lambda self: ["sleep", "60"])
    async with Taster(tmp_path_factory.mktemp("t")) as taster:
        with pytest.raises(Unavailable, match="no stream after"):
            await taster.taste([cluster("a")])


async def test_it_leaves_nothing_running_and_sees_no_network(taster: Taster) -> None:
    await taster.start()
    pid = taster.pid
    own = os.stat("/proc/self/ns/net").st_ino
    theirs = os.stat(f"/proc/{pid}/ns/net").st_ino
    devices = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    assert theirs == own or [line.split(":")[0].strip() for line in devices] == ["lo"]
    await taster.__aexit__()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("host", "port", "weight", "safe"),
    [
        ("10.0.0.1", 80, 1, True),
        ("2001:db8::1", 80, None, True),
        ("web.example.com", 80, 1, False),
        ("10.0.0.1%eth0", 80, 1, False),
        ("10.0.0.1", 80, 2**32 - 1, False),  # with its neighbour's more than Envoy adds up
    ],
)
def test_endpoints_that_are_addresses_need_no_taste(host: str, port: int, weight: int | None, safe: bool) -> None:
    endpoints = ClusterLoadAssignment(cluster_name="c")
    locality = endpoints.endpoints.add()
    for place in (host, "10.0.0.9"):
        entry = locality.lb_endpoints.add()
        entry.endpoint.address.CopyFrom(address(place, port))
        if weight is not None:
            entry.load_balancing_weight.value = weight
    assert needs_no_taste(EDS, resource_of(endpoints)) is safe


def test_only_endpoints_may_need_no_taste() -> None:
    assert not any(needs_no_taste(type_url, cluster("a")[1]) for type_url in JUDGED - {EDS})
