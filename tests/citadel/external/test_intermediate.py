"""An intermediate that somebody else signs: got, kept over restarts, renewed in time, and never a wrong one."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs
from tests.fakes.certs import ManualClock, pem_of
from tests.fakes.signing import CsrSigner

from lateen.citadel.external.guard import Guard
from lateen.citadel.external.interface import ExternalAuthority, Order
from lateen.citadel.external.intermediate import IntermediateKeeper
from lateen.errors import BadInput, Unavailable

DAY = timedelta(days=1)
LIFE = 30 * DAY


@dataclass
class Elsewhere(ExternalAuthority):
    """Signs intermediates; does what the test says instead."""

    root: CsrSigner
    profiles = frozenset({"intermediate"})
    lies: dict[str, Any] = field(default_factory=dict)
    answer: Callable[[], bytes] | None = None
    orders: list[Order] = field(default_factory=list)

    async def sign(self, order: Order) -> bytes:
        self.orders.append(order)
        if self.answer is not None:
            return self.answer()
        return pem_of(self.root.certify_authority(order.csr, order.lifetime, **self.lies)) + self.root.pem


@dataclass
class Bench:
    folder: Path
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.root = CsrSigner("the root", clock=self.clock)
        self.authority = Elsewhere(self.root)
        self.news: list[int] = []
        self.sleeps: list[float] = []

    def keeper(self, roots: tuple[CsrSigner, ...] = ()) -> IntermediateKeeper:
        guard = Guard(self.authority, name="acme", timeout=timedelta(seconds=5), concurrency=2, clock=self._seconds)
        keeper = IntermediateKeeper(
            guard,
            [root.certificate for root in roots or (self.root,)],
            self.folder,
            lifetime=LIFE,
            clock=self.clock,
            sleep=self._sleep,
            draw=lambda: 0.0,
        )
        keeper.on_new = lambda: self.news.append(len(self.authority.orders))
        return keeper

    def _seconds(self) -> float:
        return self.clock.now.timestamp()

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.clock.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def certificate_in(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "ca-cert.pem").read_bytes())


async def test_it_is_got_checked_and_kept(bench: Bench) -> None:
    keeper = bench.keeper()
    await keeper.ensure()
    (order,) = bench.authority.orders
    assert (order.profile, order.lifetime, order.spiffe_id, order.dns_names) == ("intermediate", LIFE, None, ())
    assert {path.name for path in keeper.material.iterdir()} == {
        "ca-cert.pem",
        "ca-key.pem",
        "cert-chain.pem",
        "root-cert.pem",
    }
    assert stat.S_IMODE((keeper.material / "ca-key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(keeper.material.stat().st_mode) == 0o700
    assert (keeper.material / "root-cert.pem").read_bytes() == bench.root.pem
    assert bench.news == [1]
    assert "PRIVATE" not in repr(keeper.current)


async def test_a_restart_needs_no_authority(bench: Bench) -> None:
    await bench.keeper().ensure()

    def away() -> bytes:
        raise Unavailable("connection refused")

    bench.authority.answer = away
    again = bench.keeper()
    await again.ensure()
    assert again.current is not None
    assert again.current.certificate == certificate_in(again.material)
    assert len(bench.authority.orders) == 1


async def test_the_first_start_does(bench: Bench) -> None:
    def away() -> bytes:
        raise Unavailable("connection refused")

    bench.authority.answer = away
    with pytest.raises(Unavailable, match="acme cannot sign now: connection refused"):
        await bench.keeper().ensure()
    assert list(bench.folder.iterdir()) == []


async def test_it_is_renewed_at_two_thirds_of_its_life_with_another_key(bench: Bench) -> None:
    keeper = bench.keeper()
    await keeper.ensure()
    first = keeper.current
    assert first is not None
    begin = first.certificate.not_valid_before_utc
    assert keeper.renew_at == begin + (first.certificate.not_valid_after_utc - begin) * 2 / 3
    due = keeper.renew_at
    task = asyncio.create_task(keeper.run())
    while len(bench.authority.orders) < 2:  # noqa: ASYNC110 the clock moves with each look
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert timedelta(0) <= bench.clock.now - due < timedelta(minutes=1)
    second = keeper.current
    assert second is not None
    assert second.key.public_key() != first.key.public_key()
    assert certificate_in(keeper.material) == second.certificate
    # The key that signs nothing any more is gone.
    assert len([path for path in bench.folder.iterdir() if path.is_dir() and not path.is_symlink()]) == 1
    assert bench.news == [1, 2]


async def test_an_outage_is_sat_out_with_the_one_there_is(bench: Bench) -> None:
    keeper = bench.keeper()
    await keeper.ensure()
    first = keeper.current
    down = 10

    def away() -> bytes:
        raise Unavailable("connection refused")

    bench.authority.answer = away
    assert keeper.renew_at is not None
    bench.clock.now = keeper.renew_at
    bench.sleeps.clear()
    with capture_logs() as logs:
        task = asyncio.create_task(keeper.run())
        while len(bench.sleeps) < down:  # noqa: ASYNC110 as above
            await asyncio.sleep(0)
        assert keeper.current is first
        assert "connection refused" in keeper.fault
        assert bench.sleeps[:6] == [1, 2, 4, 8, 16, 30]
        bench.authority.answer = None
        while keeper.current is first:  # noqa: ASYNC110 as above
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert keeper.fault == ""
    told = [line["event"] for line in logs if line["event"].startswith("intermediate")]
    assert set(told[:-1]) == {"intermediate not renewed"}
    assert told[-1] == "intermediate received"


@pytest.mark.parametrize(
    ("lies", "told"),
    [
        pytest.param({"authority": False}, "it is no authority", id="a leaf"),
        pytest.param({"key": ec.generate_private_key(ec.SECP256R1())}, "its key is not the requested one", id="key"),
    ],
)
async def test_a_lie_is_caught_and_nothing_is_kept(bench: Bench, lies: dict[str, Any], told: str) -> None:
    bench.authority.lies = lies
    with pytest.raises(Unavailable, match=f"acme gave a certificate that must not be used: {told}"):
        await bench.keeper().ensure()
    assert list(bench.folder.iterdir()) == []
    assert bench.news == []


async def test_another_root_is_caught(bench: Bench) -> None:
    bench.authority.root = CsrSigner("the root", clock=bench.clock)
    with pytest.raises(Unavailable, match="none of the trusted roots"):
        await bench.keeper().ensure()


async def test_a_life_that_is_too_long_is_caught(bench: Bench) -> None:
    def longer() -> bytes:
        order = bench.authority.orders[-1]
        return pem_of(bench.root.certify_authority(order.csr, LIFE + DAY))

    bench.authority.answer = longer
    with pytest.raises(Unavailable, match="it holds until"):
        await bench.keeper().ensure()


@pytest.mark.parametrize("what", ["over", "damaged", "of other roots"])
async def test_what_is_kept_and_of_no_use_is_replaced(bench: Bench, what: str) -> None:
    keeper = bench.keeper()
    await keeper.ensure()
    roots: tuple[CsrSigner, ...] = ()
    if what == "over":
        bench.clock.advance(LIFE)
    elif what == "damaged":
        (keeper.material / "ca-key.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n")
    else:
        bench.authority.root = CsrSigner("another root", clock=bench.clock)
        roots = (bench.authority.root,)
    again = bench.keeper(roots)
    with capture_logs() as logs:
        await again.ensure()
    assert len(bench.authority.orders) == 2
    assert logs[0]["event"] == "kept intermediate is not used"
    assert "AAAA" not in str(logs)


async def test_a_root_that_is_pinned_besides_is_written_beside_the_old_key(bench: Bench) -> None:
    keeper = bench.keeper()
    await keeper.ensure()
    held = certificate_in(keeper.material)
    other = CsrSigner("another root", clock=bench.clock)
    again = bench.keeper((bench.root, other))
    await again.ensure()
    assert len(bench.authority.orders) == 1
    assert certificate_in(again.material) == held
    assert (again.material / "root-cert.pem").read_bytes() == bench.root.pem + other.pem


async def test_a_key_that_others_may_read_is_not_used_in_silence(bench: Bench) -> None:
    keeper = bench.keeper()
    await keeper.ensure()
    (keeper.material / "ca-key.pem").chmod(0o644)
    with pytest.raises(BadInput, match=r"ca-key\.pem: mode 0644 lets others in, 0600 wanted"):
        await bench.keeper().ensure()
