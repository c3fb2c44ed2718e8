"""Roots in a running control plane: whom a rotation waits for, files that are watched, what is told long before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes.certs import START, ManualClock
from tests.fakes.pki import DAY, crl_of, make_link, plug, swap

from lateen.citadel.roots import Roots
from lateen.citadel.rotation import Phase
from lateen.citadel.store import RootWish
from lateen.errors import BadInput, Refused
from lateen.pilot.serving.bundle_endpoint import BundleEndpointOptions
from lateen.pilot.serving.certificates import CertificateOptions
from lateen.pilot.serving.expiry import expiry_metrics, leaf_problems, root_problems
from lateen.pilot.serving.root_service import RootService
from lateen.pilot.serving.trust import Holding
from lateen.wire.authority import RotateOrder
from lateen.wire.local import CertificateInfo, Registration

TD = "cluster.local"


@dataclass
class Town:
    """Proxies as a test says they are."""

    people: list[Registration] = field(default_factory=list)
    holding: dict[str, Holding] = field(default_factory=dict)
    wanted: str = "v1"

    def registrations(self) -> Iterable[Registration]:
        return self.people

    def holders(self) -> dict[str, Holding]:
        return self.holding

    def connected(self) -> set[str]:
        return {*self.holding, "proxyless"}

    def version(self) -> str:
        return self.wanted

    def join(self, name: str, path: str) -> None:
        certificate = CertificateInfo(serial="1", not_before="", not_after="", signing_path=path)
        self.people.append(Registration(name=name, ip="10.77.0.2", pid=1, start_ticks=1, certificate=certificate))
        self.holding[name] = Holding(self.wanted)

    def renew(self, path: str) -> None:
        for number, one in enumerate(self.people):
            assert one.certificate is not None
            certificate = msgspec.structs.replace(one.certificate, signing_path=path)
            self.people[number] = msgspec.structs.replace(one, certificate=certificate)


class Mesh:
    def __init__(self, folder: Path, plugged: Path | None = None, wish: RootWish | None = None) -> None:
        self.clock = ManualClock()
        self.roots = Roots.open(folder / "ca", TD, plugged=plugged, wish=wish, clock=self.clock)
        self.service = RootService(self.roots, clock=self.clock)
        self.town = Town()
        self.service.census = self.town
        self.roots.on_change = self._told

    def _told(self) -> None:
        self.town.wanted = f"{self.roots.authority.signing_path}{len(self.roots.trusted)}"

    @property
    def phase(self) -> Phase:
        self.service.look()
        return self.roots.state.phase

    def waits(self) -> list[tuple[str, str]]:
        return [(each.workload, each.reason) for each in self.service.tell().rotation.waits_for]


async def test_every_registered_workload_is_waited_for_and_named(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    town, old = mesh.town, mesh.roots.authority.signing_path
    for name in ("proves", "slow", "refuses", "away"):
        town.join(name, old)
    await mesh.service.rotate(RotateOrder(action="root"))
    town.holding = {
        "proves": Holding(town.wanted),
        "slow": Holding("v1"),
        "refuses": Holding("v1", "no good"),
        "stranger": Holding("v1"),
    }
    assert mesh.phase is Phase.DISTRIBUTING
    assert mesh.waits() == [
        ("slow", "has not taken the bundle yet"),
        ("refuses", "refuses the bundle: no good"),
        ("away", "its agent is not connected"),
    ]
    report = mesh.service.tell()
    assert (report.trusting, report.workloads, report.unproven) == (1, 4, ("proxyless", "stranger"))
    town.people = [one for one in town.people if one.name != "away"]  # its agent has ended: no obstacle any more
    town.holding["slow"] = Holding(town.wanted)
    assert mesh.phase is Phase.DISTRIBUTING
    with pytest.raises(BadInput, match="no workload 'refuse' is registered"):
        await mesh.service.rotate(RotateOrder(action="without", without=("refuse",)))
    await mesh.service.rotate(RotateOrder(action="without", without=("refuses",)))
    assert mesh.phase is Phase.REISSUING

    assert {name for name, _ in mesh.waits()} == {"proves", "slow"}
    with pytest.raises(Refused, match=r"2 workloads still use certificates of the old root \(proves, slow\)"):
        await mesh.service.rotate(RotateOrder(action="finish"))
    assert "refuses" in mesh.service.tell().rotation.without
    town.renew(mesh.roots.authority.signing_path)
    assert mesh.waits() == []
    await mesh.service.rotate(RotateOrder(action="finish"))
    assert mesh.phase is Phase.STEADY


async def test_a_new_root_is_believed_for_a_while_before_it_signs(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    mesh.service = RootService(mesh.roots, settle=timedelta(seconds=30), clock=mesh.clock)
    mesh.service.census = mesh.town
    report = await mesh.service.rotate(RotateOrder(action="root"))
    assert report.rotation.settles_until == "2026-06-01T12:00:30Z"
    mesh.clock.advance(timedelta(seconds=29))
    assert mesh.phase is Phase.DISTRIBUTING  # though nobody is waited for
    mesh.clock.advance(timedelta(seconds=1))
    assert mesh.phase is Phase.REISSUING


async def test_a_full_disk_stops_nothing_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh(tmp_path, wish=RootWish(lifetime=10 * DAY))
    mesh.clock.advance(9 * DAY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lateen.citadel.keystore.write_atomically", full)
    running = asyncio.create_task(mesh.service.run())
    async with asyncio.timeout(10):
        while not mesh.service.fault:  # noqa: ASYNC110  # of a task that looks every second
            await asyncio.sleep(0.01)
    assert "No space left" in mesh.service.fault
    assert mesh.roots.state.phase is Phase.STEADY
    monkeypatch.undo()
    async with asyncio.timeout(10):
        while mesh.roots.state.phase is Phase.STEADY:  # noqa: ASYNC110  # the same
            await asyncio.sleep(0.01)
    assert mesh.service.fault == ""
    running.cancel()


def test_who_fetches_bundles_has_the_time_to() -> None:
    endpoint = BundleEndpointOptions(address="127.0.0.1", port=1, refresh=timedelta(minutes=5))
    assert CertificateOptions().settle_time == timedelta(seconds=30)
    assert CertificateOptions(bundle_endpoint=endpoint).settle_time == timedelta(minutes=15)
    assert CertificateOptions(bundle_endpoint=endpoint, settle=timedelta(1)).settle_time == timedelta(1)


async def test_before_anything_is_known_of_proxies_nothing_moves(tmp_path: Path) -> None:
    roots = Roots.open(tmp_path / "ca", TD)
    service = RootService(roots)
    await service.rotate(RotateOrder(action="root"))
    service.look()
    assert roots.state.phase is Phase.DISTRIBUTING


@pytest.mark.parametrize("action", ["intermediate", "abort", "finish", "without", "nonsense"])
async def test_orders_that_cannot_be(tmp_path: Path, action: str) -> None:
    mesh = Mesh(tmp_path)
    with pytest.raises((Refused, BadInput)):
        await mesh.service.rotate(RotateOrder(action=action))
    assert mesh.phase is Phase.STEADY


async def test_a_set_is_read_once_it_has_stopped_changing(tmp_path: Path) -> None:
    root = make_link("root", now=START)
    folder = tmp_path / "plugged"
    plug(folder, [make_link("one", root, now=START)], [root])
    mesh = Mesh(tmp_path, folder)
    other = make_link("two", root, now=START)
    plug(tmp_path / "new", [other], [root])
    for name in ("ca-key.pem", "ca-cert.pem", "cert-chain.pem"):  # between two of them the set is faulty
        (tmp_path / "new" / name).replace(folder / name)
        mesh.service.look()
        assert mesh.roots.problem == ""
        assert mesh.roots.signing.certificate != other.certificate
    mesh.service.look()
    assert mesh.roots.signing.certificate == other.certificate
    with pytest.raises(Refused, match=r"put the new ca-cert\.pem, ca-key\.pem"):
        await mesh.service.rotate(RotateOrder(action="intermediate"))


async def test_a_set_that_could_not_be_kept_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_link("root", now=START)
    folder = tmp_path / "plugged"
    plug(folder, [make_link("one", root, now=START)], [root])
    mesh = Mesh(tmp_path, folder)
    other = make_link("two", root, now=START)
    swap(folder, [other], [root])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lateen.citadel.keystore.write_atomically", full)
    for _ in range(3):
        mesh.service.look()
    assert "No space left" in mesh.roots.problem
    monkeypatch.undo()
    mesh.clock.advance(timedelta(minutes=1))
    mesh.service.look()
    assert mesh.roots.problem == ""
    assert mesh.roots.signing.certificate == other.certificate


def told(mesh: Mesh, **fields: Any) -> list[tuple[str, str]]:
    return [(p.level, p.message) for p in root_problems(mesh.roots, mesh.clock.now, **fields)]


def test_what_ends_is_told_long_before(tmp_path: Path) -> None:
    root = make_link("root", now=START, life=1000 * DAY)
    signer = make_link("signer", root, now=START, life=100 * DAY)
    plug(tmp_path / "plugged", [signer], [root])
    mesh = Mesh(tmp_path, tmp_path / "plugged")
    values = {name: value for name, _, value in expiry_metrics(mesh.roots, mesh.clock.now)}
    assert values["citadel_server_root_cert_expiry_seconds"] == 1000 * 86400
    assert values["citadel_server_cert_chain_expiry_seconds"] == 100 * 86400
    assert values["citadel_server_cert_chain_expiry_timestamp"] == int((START + 100 * DAY).timestamp())
    assert told(mesh) == []
    mesh.clock.advance(79 * DAY)
    assert told(mesh) == []
    mesh.clock.advance(2 * DAY)
    ((level, text),) = told(mesh)
    assert level == "warning"
    assert text.startswith("signing certificate 'CN=signer' expires at 2026-09-09")
    assert str(tmp_path / "plugged") in text
    mesh.clock.advance(timedelta(days=18, hours=23, minutes=55))
    ((level, text),) = told(mesh)
    assert level == "error"
    assert "no certificate outlives it" in text
    mesh.clock.advance(timedelta(minutes=10))
    ((level, text),) = told(mesh)
    assert level == "error"
    assert "nothing can be issued" in text
    values = {name: value for name, _, value in expiry_metrics(mesh.roots, mesh.clock.now)}
    assert values["citadel_server_cert_chain_expiry_seconds"] == -300
    swap(tmp_path / "plugged", [make_link("fresh", root, now=mesh.clock.now)], [root])
    mesh.roots.look_at_plugged()
    assert told(mesh) == []


def test_a_workload_that_does_not_renew_is_told() -> None:
    def said(left: timedelta) -> list[tuple[str, str]]:
        end = START + left
        times = [(end - DAY).strftime("%Y-%m-%dT%H:%M:%SZ"), end.strftime("%Y-%m-%dT%H:%M:%SZ")]
        certificate = CertificateInfo(serial="1", not_before=times[0], not_after=times[1])
        one = Registration(name="web", ip="10.77.0.2", pid=1, start_ticks=1, certificate=certificate)
        two = Registration(name="new", ip="10.77.0.3", pid=2, start_ticks=1)
        return [(problem.level, problem.message) for problem in leaf_problems([one, two], START)]

    assert said(timedelta(hours=6)) == []
    ((level, text),) = said(timedelta(hours=5, minutes=59))
    assert (level, text[:60]) == ("warning", "certificate of workload 'web' expires at 2026-06-01T17:59:00Z"[:60])
    ((level, text),) = said(-timedelta(minutes=1))
    assert level == "error"
    assert "new connections are refused" in text


def test_lists_that_go_out_of_date_are_told(tmp_path: Path) -> None:
    root = make_link("root", now=START)
    plug(tmp_path / "plugged", [root], [root], crl=crl_of(root, now=START))
    mesh = Mesh(tmp_path, tmp_path / "plugged")
    mesh.clock.advance(27 * DAY)
    assert told(mesh) == []
    mesh.clock.advance(1.5 * DAY)
    ((level, text),) = told(mesh)
    assert level == "error"
    assert text.startswith("revocation lists will be out of date at 2026-07-01 12:00:00 UTC")


def test_an_intermediate_of_five_minutes_is_told_at_once(tmp_path: Path) -> None:
    root = make_link("root", now=START)
    plug(tmp_path / "plugged", [make_link("short", root, now=START, life=timedelta(minutes=5))], [root])
    mesh = Mesh(tmp_path, tmp_path / "plugged")
    ((level, text),) = told(mesh)
    assert (level, "no certificate outlives it" in text) == ("warning", True)
    assert told(mesh, longest_leaf=timedelta(seconds=10)) == []


async def test_a_rotation_that_does_not_get_on_is_told(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    mesh.town.join("a", mesh.roots.authority.signing_path)
    await mesh.service.rotate(RotateOrder(action="root"))
    assert told(mesh) == []
    mesh.clock.advance(timedelta(hours=2))
    assert mesh.phase is Phase.DISTRIBUTING
    ((level, text),) = told(mesh)
    assert level == "warning"
    assert "distributing since 2026-06-01 12:00 UTC" in text


async def test_a_self_signed_root_is_renewed_without_anybody(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, wish=RootWish(lifetime=10 * DAY))
    first = mesh.roots.signing.certificate
    mesh.town.join("a", mesh.roots.authority.signing_path)
    mesh.clock.advance(timedelta(days=8.1))
    assert mesh.phase is Phase.DISTRIBUTING
    mesh.town.holding = {"a": Holding(mesh.town.wanted)}
    assert mesh.phase is Phase.REISSUING
    mesh.town.renew(mesh.roots.authority.signing_path)
    mesh.clock.advance(timedelta(hours=24))
    assert mesh.phase is Phase.STEADY
    assert mesh.roots.trusted == (mesh.roots.signing.certificate,)
    assert mesh.roots.signing.certificate != first
    assert mesh.roots.signing.certificate.not_valid_after_utc > first.not_valid_after_utc + 7 * DAY
