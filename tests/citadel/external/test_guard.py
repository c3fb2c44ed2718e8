"""Calls to an authority that is slow, dead, wrong or somebody else's: nobody waits longer than said, none is lost."""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.fakes.certs import p256_csr

from lateen.citadel.external.guard import LONGEST_PAUSE_SECONDS, THRESHOLD, Breaker, Guard
from lateen.citadel.external.interface import Context, ExternalAuthority, NoParameters, Order
from lateen.errors import BadInput, LateenError, Refused, Unavailable

ORDER = Order(profile="leaf", csr=p256_csr(), lifetime=timedelta(hours=1))
CONTEXT = Context(trust_domain="td", folder=Path(), timeout=timedelta(seconds=5), concurrency=4)


class Scripted(ExternalAuthority):
    """Does what the test says."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__(NoParameters(), CONTEXT)
        self.act = act
        self.calls = 0
        self.at_once = self.most_at_once = 0
        self.closed = False

    async def sign(self, order: Order) -> bytes:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            result = self.act()
            answer: bytes = await result if asyncio.iscoroutine(result) else result
            return answer
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        self.closed = True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def guard_of(act: Callable[[], Any], *, seconds: float = 5.0, concurrency: int = 4) -> tuple[Guard, Scripted, Clock]:
    authority, clock = Scripted(act), Clock()
    guard = Guard(authority, name="acme", timeout=timedelta(seconds=seconds), concurrency=concurrency, clock=clock)
    return guard, authority, clock


def failing(error: Exception) -> Callable[[], Any]:
    def act() -> bytes:
        raise error

    return act


async def refusal(guard: Guard) -> LateenError:
    with pytest.raises(LateenError) as caught:
        await guard.sign(ORDER)
    return caught.value


async def test_an_answer_comes_through() -> None:
    guard, authority, _ = guard_of(lambda: b"pem")
    assert await guard.sign(ORDER) == b"pem"
    report = guard.report()
    assert (report.working, report.orders, report.failed, report.waiting) == (True, 1, 0, 0)
    await guard.close()
    assert authority.closed


async def test_a_dead_authority_is_left_alone_and_asked_again_by_itself() -> None:
    with capture_logs() as logs:
        guard, authority, clock = guard_of(failing(Unavailable("connection refused")))
        for _ in range(THRESHOLD):
            assert str(await refusal(guard)) == "acme cannot sign now: connection refused"
        error = await refusal(guard)
        assert isinstance(error, Unavailable)
        assert "acme is not asked for another" in str(error)
        assert "connection refused" in str(error)
        assert authority.calls == THRESHOLD
        assert guard.report().working is False

        clock.now += 1.0
        await refusal(guard)  # the one that looks
        assert authority.calls == THRESHOLD + 1
        await refusal(guard)
        assert authority.calls == THRESHOLD + 1  # and the pause is longer now
        clock.now += 1.0
        await refusal(guard)
        assert authority.calls == THRESHOLD + 1

        authority.act = lambda: b"pem"
        clock.now += 1.0
        assert await guard.sign(ORDER) == b"pem"
        assert await guard.sign(ORDER) == b"pem"
    assert guard.report().working is True
    assert [line["event"] for line in logs] == [
        "external authority does not work",
        "external authority works again",
    ]


async def test_one_order_at_a_time_looks_whether_it_works_again() -> None:
    gate = asyncio.Event()
    guard, authority, clock = guard_of(failing(Unavailable("away")))
    for _ in range(THRESHOLD):
        await refusal(guard)

    async def late() -> bytes:
        await gate.wait()
        return b"pem"

    authority.act = late
    clock.now += 1.0
    probe = asyncio.create_task(guard.sign(ORDER))
    await asyncio.sleep(0)
    assert "is not asked" in str(await refusal(guard))
    gate.set()
    assert await probe == b"pem"
    assert await guard.sign(ORDER) == b"pem"


async def test_a_cancelled_probe_lets_another_look() -> None:
    guard, authority, clock = guard_of(failing(Unavailable("away")))
    for _ in range(THRESHOLD):
        await refusal(guard)
    authority.act = asyncio.Event().wait
    clock.now += 1.0
    probe = asyncio.create_task(guard.sign(ORDER))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    authority.act = lambda: b"pem"
    assert await guard.sign(ORDER) == b"pem"


def test_pauses_grow_to_a_bound() -> None:
    breaker, now, pauses = Breaker(draw=lambda: 0.0), 0.0, []
    for _ in range(THRESHOLD - 1):
        breaker.failed(now)
    for _ in range(8):
        breaker.failed(now)
        pauses.append(breaker.closed_again_at - now)
        now = breaker.closed_again_at
        assert breaker.admit(now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize("error", [Refused("the role says no"), BadInput("the CSR is odd")])
async def test_a_refusal_is_an_answer(error: LateenError) -> None:
    guard, authority, _ = guard_of(failing(error))
    for _ in range(THRESHOLD + 2):
        told = await refusal(guard)
        assert type(told) is type(error)
        assert str(told) == f"acme refuses: {error}"
    assert authority.calls == THRESHOLD + 2
    assert guard.report().refused == THRESHOLD + 2
    assert guard.report().working is True


async def test_lies_do_not_keep_others_from_their_certificates() -> None:
    guard, authority, _ = guard_of(lambda: b"pem")
    for _ in range(THRESHOLD + 1):
        await guard.sign(ORDER)
        assert "must not be used: another root" in str(guard.lied("another root"))
    assert await guard.sign(ORDER) == b"pem"
    assert guard.report().lies == THRESHOLD + 1
    assert authority.calls == THRESHOLD + 2


async def test_orders_go_few_at_a_time_and_none_is_lost() -> None:
    gate = asyncio.Event()

    async def late() -> bytes:
        await gate.wait()
        return b"pem"

    guard, authority, _ = guard_of(late, concurrency=3)
    tasks = [asyncio.create_task(guard.sign(ORDER)) for _ in range(50)]
    await asyncio.sleep(0.01)
    assert guard.report().waiting == 47
    gate.set()
    assert await asyncio.gather(*tasks) == [b"pem"] * 50
    assert authority.most_at_once == 3


async def test_an_authority_that_says_nothing_is_given_up() -> None:
    guard, authority, _ = guard_of(asyncio.Event().wait, seconds=0.05, concurrency=1)
    assert str(await refusal(guard)) == "acme gave no answer within 0.05 s"
    assert authority.at_once == 0
    assert guard.report().failed == 1


async def test_who_waited_too_long_for_a_place_says_nothing_of_the_authority() -> None:
    gate = asyncio.Event()

    async def late() -> bytes:
        await gate.wait()
        return b"pem"

    guard, authority, _ = guard_of(late, seconds=0.2, concurrency=1)
    await guard._places.acquire()  # as by an order that is under way
    assert str(await refusal(guard)) == "acme is busy: no order could be sent within 0.2 s"
    assert (authority.calls, guard.report().failed, guard.report().waiting) == (0, 0, 0)
    guard._places.release()
    gate.set()
    assert await guard.sign(ORDER) == b"pem"


@pytest.mark.parametrize(
    ("act", "told"),
    [
        pytest.param(failing(KeyError("token-abc")), "it raised KeyError", id="it raises"),
        pytest.param(lambda: "text", "wanted as bytes, got str", id="text"),
        pytest.param(lambda: None, "wanted as bytes, got NoneType", id="nothing"),
    ],
)
async def test_somebody_elses_faults_stay_theirs(act: Callable[[], Any], told: str) -> None:
    guard, _, _ = guard_of(act)
    error = await refusal(guard)
    assert isinstance(error, Unavailable)
    assert told in str(error)
    assert "token-abc" not in str(error)


async def test_a_plain_function_runs_in_a_thread() -> None:
    class Plain(ExternalAuthority):
        def sign(self, order: Order) -> bytes:
            return threading.current_thread().name.encode()

    guard = Guard(Plain(NoParameters(), CONTEXT), name="plain", timeout=timedelta(seconds=5), concurrency=2)
    name = await guard.sign(ORDER)
    assert name.startswith(b"authority")
    await guard.close()
