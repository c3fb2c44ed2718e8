"""Quotas in a real Redis, shared by several Mixers."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import eventually
from tests.e2e.servers import redis_server
from tests.fakes.ports import free_port
from tests.mixer.test_engine import HERE, bag, rules

from lateen.errors import BadInput
from lateen.mixer.court import RuleCourt, make_court
from lateen.mixer.means import Means

LIMIT = 500
QUOTA = f"{{timeout: 2s, quota: {{limit: {LIMIT}, per: 1h, by: ['request.headers[\"x-client\"]'], shared: true}}}}"


class Redis:
    """A Redis of Debian's."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [*redis_server(folder, "--port", str(self.port), "--bind", "127.0.0.1"), *words]
        self._log = folder / "redis.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        eventually(lambda: b"Ready to accept" in self._log.read_bytes(), what="Redis is ready")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def run(self, *words: str) -> str:
        argv = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


@contextmanager
def running(folder: Path, *words: str) -> Iterator[Redis]:
    redis = Redis(folder, *words)
    try:
        redis.start()
        yield redis
    finally:
        redis.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with running(tmp_path) as found:
        yield found


async def passed(court: RuleCourt, spec: str, count: int, client: str = "a") -> int:
    """Return how many of `count` requests at the same time pass."""
    judge = court.judge(rules(spec))
    found = await asyncio.gather(*(judge.check(bag(x_client=client), HERE, tcp=False) for _ in range(count)))
    return sum(outcome.allowed for outcome in found)


CHILD = """
import asyncio, json, sys
from tests.mixer.test_shared_quotas import QUOTA, passed
from lateen.mixer.court import make_court
from lateen.mixer.means import Means
async def main():
    court = make_court(means=Means(redis=sys.argv[1]))
    found = sum([await passed(court, QUOTA, 50) for _ in range(8)])
    await court.close()
    print(json.dumps(found))
asyncio.run(main())
"""


def test_several_mixers_let_exactly_as_much_pass_as_one(redis: Redis) -> None:
    argv = [sys.executable, "-c", CHILD, redis.url]
    children = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outs = [child.communicate(timeout=60)[0] for child in children]
    each = [json.loads(out) for out in outs]
    assert sum(each) == LIMIT, each
    assert sum(each) < 3 * 400
    # What clients send is written down nowhere.
    keys = redis.run("KEYS", "*").splitlines()
    assert len(keys) == 1
    assert keys[0].startswith("lateen:quota:")
    assert redis.run("GET", keys[0]) == str(LIMIT)
    assert 3_500_000 < int(redis.run("PTTL", keys[0])) <= 3_600_000


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_each_key_and_each_rule_has_its_own_count(redis: Redis) -> None:
    async def work() -> list[int]:
        court = make_court(means=Means(redis=redis.url))
        small = QUOTA.replace(str(LIMIT), "3")
        found = [await passed(court, small, 5, client) for client in ("a", "b")]
        judge = court.judge(rules("{check: {headers: {}}}", small))  # of another name
        outcomes = [await judge.check(bag(x_client="a"), HERE, tcp=False) for _ in range(5)]
        await court.close()
        return [*found, sum(outcome.allowed for outcome in outcomes)]

    assert run(work()) == [3, 3, 3]


def test_an_amount_is_taken_whole_or_not_at_all(redis: Redis) -> None:
    spec = "{quota: {limit: 10, per: 1h, amount: size(request.method) + 1, shared: true}}"  # GET: 4

    async def work() -> int:
        court = make_court(means=Means(redis=redis.url))
        found = await passed(court, spec, 5)
        await court.close()
        return found

    assert run(work()) == 2
    assert redis.run("GET", redis.run("KEYS", "*")) == "8"


@pytest.mark.parametrize("algorithm", ["FIXED", "ROLLING"])
def test_a_window_ends_by_the_clock_of_redis(redis: Redis, algorithm: str) -> None:
    spec = f"{{quota: {{limit: 5, per: 400ms, algorithm: {algorithm}, shared: true}}}}"

    async def work() -> list[int]:
        court = make_court(means=Means(redis=redis.url))
        found = [await passed(court, spec, 8)]
        found.append(await passed(court, spec, 3))
        await asyncio.sleep(0.6)
        found.append(await passed(court, spec, 8))
        await court.close()
        return found

    assert run(work()) == [5, 0, 5]
    eventually(lambda: redis.run("KEYS", "*") == "", what="keys go by themselves", seconds=3)


@pytest.mark.parametrize("policy", ["closed", "open"])
def test_a_redis_that_is_away_is_known_at_once_and_taken_back(redis: Redis, policy: str) -> None:
    spec = QUOTA.replace("{timeout: 2s", f"{{failurePolicy: {policy}, timeout: 2s")

    async def work() -> None:
        court = make_court(means=Means(redis=redis.url))
        judge = court.judge(rules(spec))
        assert (await judge.check(bag(x_client="a"), HERE, tcp=False)).allowed
        redis.stop()
        found = [await judge.check(bag(x_client="a"), HERE, tcp=False) for _ in range(50)]
        assert [outcome.allowed for outcome in found] == [policy == "open"] * 50
        if policy == "closed":
            assert {outcome.status for outcome in found} == {503}
        assert court.stats.results["shop/r0", "failed"] == 50
        (problem,) = court.problems()
        assert problem.field == "spec.quota.shared"
        assert "Redis does not answer" in problem.message
        redis.start()
        for _ in range(100):
            outcome = await judge.check(bag(x_client="a"), HERE, tcp=False)
            if not court.problems() and outcome.allowed:
                break
            await asyncio.sleep(0.05)
        assert court.problems() == []
        await court.close()

    run(work())


def test_a_redis_that_hangs_is_waited_for_by_three_and_no_more(redis: Redis) -> None:
    """With the patience that rules have unless they say otherwise."""

    async def work() -> None:
        court = make_court(means=Means(redis=redis.url))
        judge = court.judge(rules(QUOTA.replace("timeout: 2s, ", "")))
        assert (await judge.check(bag(x_client="a"), HERE, tcp=False)).allowed
        assert redis.process is not None
        redis.process.send_signal(signal.SIGSTOP)
        try:
            asked = []
            for _ in range(30):
                waited = asyncio.get_running_loop().time()
                assert (await judge.check(bag(x_client="a"), HERE, tcp=False)).status == 503
                asked.append(asyncio.get_running_loop().time() - waited > 0.05)
            assert asked[:3] == [True] * 3
            assert sum(asked) == 3
        finally:
            redis.process.send_signal(signal.SIGCONT)
        await court.close()

    run(work())


def test_a_redis_with_a_password(tmp_path: Path) -> None:
    with running(tmp_path, "--requirepass", "geheim") as redis:

        async def work(url: str) -> tuple[int, list[str]]:
            court = make_court(means=Means(redis=url))
            found = await passed(court, QUOTA, 2)
            told = [str(problem) for problem in court.problems()]
            await court.close()
            return found, told

        assert run(work(redis.url.replace("//", "//:geheim@"))) == (2, [])
        found, (told,) = run(work(redis.url.replace("//", "//:falsch@")))
        assert found == 0
        assert "falsch" not in told


def test_without_a_redis_a_shared_quota_is_told_and_fails_as_it_says() -> None:
    async def work() -> None:
        court = make_court()
        assert await passed(court, QUOTA, 1) == 0
        assert await passed(court, QUOTA.replace("{timeout", "{failurePolicy: open, timeout"), 1) == 1
        assert "there is no Redis" in str(court.problems()[0])

    run(work())


def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(BadInput) as told:
        make_court(means=Means(redis="http://:geheim@host"))
    assert "geheim" not in str(told.value)
