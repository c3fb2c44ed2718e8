"""The identity's life: first certificate, renewal at half life, Citadel away, answers that are wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from tests.fakes.agent_mesh import FakeMesh
from tests.fakes.pki import Link, make_link

from lateen.agent.identity import CitadelClient, Identity
from lateen.citadel.authority import Authority
from lateen.citadel.material import Material
from lateen.errors import LateenError, Refused, Unavailable
from lateen.wire.spiffe import SpiffeId

START = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
ME = SpiffeId("cluster.local", "default", "reviews")


@dataclass
class World:
    """A clock that moves when somebody sleeps, and an authority that can be made to misbehave."""

    folder: Path
    lifetime: timedelta = timedelta(hours=24)
    now: datetime = START
    answers: list[LateenError | Callable[[Sequence[str]], Sequence[str]]] = field(default_factory=list)
    asked: list[datetime] = field(default_factory=list)
    csrs: list[bytes] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    stop_after: int = 10**6
    identity: SpiffeId = ME

    def __post_init__(self) -> None:
        self.authority = Authority.load_or_create(self.folder / "ca", "cluster.local", lambda: self.now)

    async def sign(self, csr: bytes, seconds: int) -> Sequence[str]:
        self.asked.append(self.now)
        self.csrs.append(csr)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, LateenError):
            raise answer
        lifetime = timedelta(seconds=seconds) if seconds else self.lifetime
        pems = [pem.decode() for pem in self.authority.issue(csr, self.identity, lifetime).pems]
        return answer(pems) if answer else pems

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)
        if len(self.asked) >= self.stop_after:
            raise asyncio.CancelledError
        await asyncio.sleep(0)

    def identity_of(self, log: Any, **kwargs: Any) -> Identity:
        return Identity(
            self.sign,
            namespace="default",
            service_account="reviews",
            lifetime=kwargs.pop("lifetime", None),
            log=log,
            trust_domain=kwargs.pop("trust_domain", ""),
            now=lambda: self.now,
            sleep=self.sleep,
            rng=random.Random(7),
        )


async def live(identity: Identity) -> None:
    with pytest.raises(asyncio.CancelledError):
        await identity.run()


async def test_the_csr_names_the_identity_where_it_is_known(tmp_path: Path, log: Any) -> None:
    named, nameless = World(tmp_path / "a", stop_after=1), World(tmp_path / "b", stop_after=1)
    await live(named.identity_of(log, trust_domain="cluster.local"))
    await live(nameless.identity_of(log))
    csr = x509.load_pem_x509_csr(named.csrs[0])
    assert list(csr.subject) == []
    (extension,) = csr.extensions
    assert list(extension.value) == [x509.UniformResourceIdentifier(str(ME))]
    assert list(x509.load_pem_x509_csr(nameless.csrs[0]).extensions) == []


async def test_the_first_certificate(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, stop_after=1)
    identity = world.identity_of(log)
    seen: list[Any] = []
    identity.listen(seen.append)
    await live(identity)
    svid = await identity.wait()
    assert seen == [svid]
    assert svid.spiffe_id == ME
    assert x509.load_pem_x509_certificate(svid.roots) == x509.load_pem_x509_certificate(world.authority.root_pem)
    key = serialization.load_pem_private_key(svid.key, None)
    assert key.public_key() == x509.load_pem_x509_certificate(svid.chain).public_key()


async def test_renewal_comes_at_half_life_with_a_new_key(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, stop_after=4)
    identity = world.identity_of(log)
    keys: list[bytes] = []
    identity.listen(lambda svid: keys.append(svid.key))
    await live(identity)
    gaps = [(b - a) / timedelta(hours=24) for a, b in zip(world.asked, world.asked[1:], strict=False)]
    assert all(0.39 <= gap <= 0.61 for gap in gaps)
    assert len(set(gaps)) == len(gaps)  # spread
    assert len(set(keys)) == 4


async def test_a_machine_that_slept_renews_when_it_wakes(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, stop_after=2)
    identity = world.identity_of(log)
    assert identity.current is None
    original = world.sleep

    async def sleep(seconds: float) -> None:
        world.now += timedelta(hours=20)  # suspended: far more passes than was slept
        await original(seconds)

    identity._sleep = sleep
    await live(identity)
    assert world.asked[1] - world.asked[0] < timedelta(hours=21)


async def test_citadel_away_keeps_the_old_certificate(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, stop_after=7)
    identity = world.identity_of(log)
    seen: list[Any] = []
    identity.listen(seen.append)
    world.answers = [lambda pems: pems, *[Unavailable("away")] * 5]
    await live(identity)
    assert len(seen) == 2
    assert seen[0].serial != seen[1].serial
    waits = [b - a for a, b in zip(world.asked[1:], world.asked[2:], strict=False)]
    assert waits == sorted(waits)
    assert waits[0] < timedelta(seconds=0.06)
    assert identity.failures == 5
    assert len(log.said("certificate not received")) == 5


async def test_short_lives_are_not_waited_away(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, stop_after=40)
    world.answers = [lambda pems: pems, *[Unavailable("away")] * 30]
    identity = world.identity_of(log, lifetime=timedelta(seconds=10))
    await live(identity)
    asked_before_expiry = [moment for moment in world.asked if moment < START + timedelta(seconds=10)]
    assert len(asked_before_expiry) > 8


async def test_the_first_refusal_is_final(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, answers=[Refused("no such account")])
    with pytest.raises(Refused, match="no such account"):
        await world.identity_of(log).run()
    assert len(world.asked) == 1


async def test_later_refusals_are_not(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, answers=[lambda pems: pems, Refused("not now")], stop_after=3)
    identity = world.identity_of(log)
    await live(identity)
    assert len(world.asked) == 3
    assert identity.current is not None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(lambda pems: pems[:1], "leaf and root wanted, got 1", id="no root"),
        pytest.param(lambda pems: ["garbage", pems[1]], "no certificate in PEM", id="garbage"),
        pytest.param(lambda pems: [pems[1], pems[1]], "a certificate of default/reviews wanted", id="no identity"),
    ],
)
async def test_wrong_answers_are_asked_again(tmp_path: Path, log: Any, answer: Any, reason: str) -> None:
    world = World(tmp_path, answers=[answer], stop_after=2)
    identity = world.identity_of(log)
    await live(identity)
    assert reason in log.said("certificate not received")[0]
    assert identity.current is not None


async def test_another_identity_is_not_taken(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, identity=SpiffeId("cluster.local", "default", "ratings"), stop_after=3)
    identity = world.identity_of(log)
    await live(identity)
    assert identity.current is None
    assert "got spiffe://cluster.local/ns/default/sa/ratings" in log.said("certificate not received")[0]


async def test_a_certificate_of_another_key_is_not_taken(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, stop_after=3)
    kept: list[Sequence[str]] = []

    def first_one_again(pems: Sequence[str]) -> Sequence[str]:
        kept.append(pems)
        return kept[0]

    world.answers = [lambda pems: first_one_again(pems)[:1], first_one_again]
    identity = world.identity_of(log)
    await live(identity)
    assert "a certificate of another key" in "".join(log.said("certificate not received"))


async def test_keys_are_in_no_log_and_no_repr(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, stop_after=1)
    identity = world.identity_of(log)
    await live(identity)
    assert identity.current is not None
    assert "PRIVATE" not in repr(identity.current) + log.buffer.getvalue()


async def test_over_the_socket(mesh: FakeMesh, log: Any) -> None:
    client = CitadelClient(mesh.settings.ca_socket, namespace="shop", service_account="reviews")
    try:
        identity = Identity(
            client.sign, namespace="shop", service_account="reviews", lifetime=timedelta(minutes=5), log=log
        )
        task = asyncio.create_task(identity.run())
        svid = await asyncio.wait_for(identity.wait(), 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert str(svid.spiffe_id) == "spiffe://cluster.local/ns/shop/sa/reviews"
        wrong = CitadelClient(mesh.settings.ca_socket, namespace="NO", service_account="reviews")
        with pytest.raises(Refused, match="NO/reviews"):
            await wrong.sign(b"csr", 0)
        await wrong.close()
    finally:
        await client.close()


async def test_nobody_at_the_socket(tmp_path: Path) -> None:
    client = CitadelClient(tmp_path / "ca.sock", namespace="default", service_account="reviews")
    with pytest.raises(Unavailable, match=r"certificate for default/reviews from .*ca\.sock"):
        await client.sign(b"csr", 0)
    await client.close()


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_a_clock_that_is_off_neither_spins_nor_oversleeps(tmp_path: Path, log: Any, minutes: int) -> None:
    world = World(tmp_path, stop_after=9)
    identity = world.identity_of(log)
    identity._now = lambda: world.now + timedelta(minutes=minutes)
    ends: list[datetime] = []
    identity.listen(lambda svid: ends.append(svid.not_after))
    await live(identity)
    gaps = [b - a for a, b in zip(world.asked, world.asked[1:], strict=False)]
    assert all(timedelta(hours=9) < gap < timedelta(hours=15) for gap in gaps), gaps
    # Also by a clock that is ahead by as much, each was replaced before it ended.
    assert all(asked + timedelta(minutes=10) < end for asked, end in zip(world.asked[1:], ends, strict=False))


async def test_a_signer_that_ends_in_five_minutes_is_not_asked_without_a_pause(tmp_path: Path, log: Any) -> None:
    root = make_link("root", now=START)
    short = make_link("short", root, now=START, life=timedelta(minutes=5))
    fresh = make_link("fresh", root, now=START)
    world = World(tmp_path, stop_after=10**6)
    world.authority.use(material(short, root))
    identity = world.identity_of(log)
    seen: list[Any] = []
    identity.listen(seen.append)
    original = world.sleep

    async def sleep(seconds: float) -> None:
        if world.now > START + timedelta(minutes=6) and world.stop_after == 10**6:
            # For a minute nothing could be issued; now it is replaced.
            world.authority.use(material(fresh, root))
            world.stop_after = len(world.asked) + 1
        await original(seconds)

    identity._sleep = sleep
    await live(identity)
    end = short.certificate.not_valid_after_utc
    before = [moment for moment in world.asked if moment < end - timedelta(seconds=5)]
    assert 2 <= len(before) <= 12, "certificates get shorter, asking does not run away"
    assert all(svid.not_after <= end for svid in seen[:-1])
    # While nothing was issued it went on asking, and has the new one at once.
    assert identity.failures > 0
    assert seen[-1].signing_path == world.authority.signing_path
    assert seen[-1].not_after > end


def material(signer: Link, root: Link) -> Material:
    return Material(
        certificate=signer.certificate,
        key=signer.key,
        intermediates=(signer.certificate,),
        root=root.certificate,
        roots=(root.certificate,),
    )


async def test_a_certificate_is_replaced_soon_when_it_would_be_signed_another_way(tmp_path: Path, log: Any) -> None:
    root = make_link("root", now=START)
    one, two = make_link("one", root, now=START), make_link("two", root, now=START)
    world = World(tmp_path, stop_after=3)
    world.authority.use(material(one, root))
    identity = world.identity_of(log)
    original = world.sleep

    async def sleep(seconds: float) -> None:
        if len(world.asked) == 1 and world.now > START + timedelta(minutes=1):
            world.authority.use(material(two, root))
            identity.expect(world.authority.signing_path)
        await original(seconds)

    identity._sleep = sleep
    await live(identity)
    gaps = [b - a for a, b in zip(world.asked, world.asked[1:], strict=False)]
    assert gaps[0] < timedelta(minutes=3)
    assert gaps[1] > timedelta(hours=9)
    assert identity.current is not None
    assert identity.current.signing_path == world.authority.signing_path


async def test_an_authority_that_signs_by_several_ways_is_asked_once_for_each(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, stop_after=4)
    identity = world.identity_of(log)
    identity.listen(lambda _: identity.expect("a way that no certificate has"))
    await live(identity)
    gaps = [b - a for a, b in zip(world.asked, world.asked[1:], strict=False)]
    assert gaps[0] < timedelta(minutes=2)
    assert all(gap > timedelta(hours=9) for gap in gaps[1:])


async def test_an_answer_that_was_on_its_way_when_the_way_changed_is_replaced(tmp_path: Path, log: Any) -> None:
    root = make_link("root", now=START)
    one, two = make_link("one", root, now=START), make_link("two", root, now=START)
    world = World(tmp_path, stop_after=3)
    world.authority.use(material(one, root))
    identity = world.identity_of(log)

    def changed_meanwhile(pems: Sequence[str]) -> Sequence[str]:
        world.authority.use(material(two, root))
        identity.expect(world.authority.signing_path)
        return pems

    world.answers = [changed_meanwhile]
    await live(identity)
    assert world.asked[1] - world.asked[0] < timedelta(minutes=2)
    assert world.asked[2] - world.asked[1] > timedelta(hours=9)


async def test_assurance_18_an_authority_that_fails_is_let_be(tmp_path: Path, log: Any) -> None:
    """Attempts of one agent while the authority is away from the first renewal on, by how long: a count, not a time."""
    world = World(tmp_path, stop_after=10_000)
    world.answers = [lambda pems: pems, *[Unavailable("away")] * 9_000]
    identity = world.identity_of(log)
    original = world.sleep

    async def until_day_two(seconds: float) -> None:
        if world.now > START + timedelta(hours=48):
            raise asyncio.CancelledError
        await original(seconds)

    identity._sleep = until_day_two
    await live(identity)
    expiry = START + timedelta(hours=24)
    began = world.asked[1]

    def attempts(first: datetime, last: datetime) -> int:
        return sum(first <= moment < last for moment in world.asked)

    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    assert 8 <= attempts(began, began + minute) <= 14, "at once, a few times"
    assert 12 <= attempts(began + 2 * minute, began + 2 * minute + hour) <= 28, "then every few minutes"
    assert attempts(began, expiry - hour) <= 14 + 28 * 13
    near = attempts(expiry - 10 * minute, expiry)
    assert 20 <= near <= 60, "more often as its end comes near, never more than a new agent does"
    assert 230 <= attempts(expiry + hour, expiry + 2 * hour) <= 500, "expired: as a new agent"
    assert log.said("certificate not received")[-1].count("rarely=True")


async def test_assurance_18_recovery_closes_the_breaker(tmp_path: Path, log: Any) -> None:
    world = World(tmp_path, stop_after=45)
    world.answers = [lambda pems: pems, *[Unavailable("away")] * 20, lambda pems: pems, *[Unavailable("away")] * 20]
    identity = world.identity_of(log)
    await live(identity)
    second = world.asked[22]  # the first attempt of the renewal after that
    waits = [(b - a).total_seconds() for a, b in zip(world.asked[22:], world.asked[23:], strict=False)]
    assert waits[0] < 0.06, "it begins anew"
    assert second - world.asked[21] > timedelta(hours=9)
