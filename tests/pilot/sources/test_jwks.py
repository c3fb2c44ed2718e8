"""Keys of issuers fetched over real sockets: assurance 15, sharing, discovery, the file, what people are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.certs import StrangeAuthority
from tests.fakes.tokens import jwk, jwks, private_jwk
from tests.fakes.web import Drip, Web, json_answer

from lateen.api.base import Object, ResourceKey
from lateen.api.decode import decode_documents
from lateen.fetch import Fetcher, Guard
from lateen.fetch.guard import parse_networks
from lateen.pilot.model.jwks import JwksSource, parse_key_set
from lateen.pilot.model.request_auth import JwksWants
from lateen.pilot.sources.jwks import OF_ONE_NAMESPACE, KeyKeeper
from lateen.pilot.sources.jwks_book import Book, Times

HERE = Guard(allowed=parse_networks(["127.0.0.1"], "--allow-fetch"))
HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A keeper that runs, the rules that it serves, and what it told."""

    def __init__(self, *, file: Path | None = None, ca_file: Path | None = None, guard: Guard = HERE) -> None:
        self.clock = Clock()
        self.keys: dict[JwksSource, str] = {}
        self.told = 0
        self.wants = JwksWants()
        self.objects: dict[ResourceKey, Object] = {}
        self.keeper = KeyKeeper(
            Fetcher(guard, ca_file=ca_file),
            Book(Times(), rng=random.Random(1)),
            file=file,
            clock=self.clock,
            on_keys=self._take,
        )

    def _take(self, keys: Mapping[JwksSource, str]) -> None:
        self.told += 1
        self.keys.update(keys)

    def use(self, *rules: Mapping[str, Any], name: str = "tokens", namespace: str = "default") -> None:
        """Have one RequestAuthentication with these rules."""
        document = {
            "apiVersion": "security.istio.io/v1",
            "kind": "RequestAuthentication",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"jwtRules": list(rules)},
        }
        decoded = decode_documents(json.dumps(document, indent=1).encode(), f"{name}.yaml")
        assert not decoded.problems
        for obj in decoded.objects:
            self.objects[obj.key] = obj
            self.wants.replace(obj.key, obj)
        self.keeper.want(self.wants.all())

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110  # what is waited for is seen through public reads, which set no event
                await asyncio.sleep(0.005)

    async def ended(self, count: int) -> None:
        """Return when so many fetches have ended."""
        await self.until(lambda: self.keeper.outcomes.total() >= count)

    async def later(self, seconds: float) -> None:
        """Let time pass, and whatever is due by then be fetched."""
        count = self.keeper.outcomes.total()
        self.clock.now += seconds
        self.keeper.wake()
        await self.ended(count + 1)

    def problems(self) -> list[str]:
        return [f"{problem.level} {problem}" for problem in self.keeper.problems(self.objects.get)]


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Bench]:
    bench = Bench(**options)
    task = asyncio.create_task(bench.keeper.run())
    try:
        yield bench
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def uri(web: Web, path: str = "/jwks") -> JwksSource:
    return JwksSource("uri", web.url(path))


async def test_keys_are_fetched_once_for_all_rules_that_name_their_place() -> None:
    with Web({"/jwks": json_answer(jwks("ec"))}) as web:
        async with running() as bench:
            bench.use(*({"issuer": f"i{n}", "jwksUri": web.url("/jwks")} for n in range(5)))
            bench.use({"issuer": "other", "jwksUri": web.url("/jwks")}, name="second")
            await bench.ended(1)
            assert bench.keys == {uri(web): parse_key_set(jwks("ec").encode()).text}
            assert bench.problems() == []
            assert bench.keeper.states() == {uri(web): "fresh"}
    assert web.paths == ["/jwks"]


async def test_rotated_keys_are_told_and_equal_ones_are_not() -> None:
    with Web({"/jwks": json_answer(jwks("ec"))}) as web:
        async with running() as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks")})
            await bench.ended(1)
            await bench.later(20 * 60)
            assert bench.told == 1
            web.answers["/jwks"] = json_answer(jwks("ec", "ec-2"))
            await bench.later(20 * 60)
            assert bench.told == 2
            assert bench.keys == {uri(web): parse_key_set(jwks("ec", "ec-2").encode()).text}


async def test_an_issuer_is_asked_where_its_keys_are() -> None:
    with Web({"/keys": json_answer(jwks("ec"))}) as web:
        document = json.dumps({"issuer": web.url(""), "jwks_uri": web.url("/keys")})
        web.answers["/.well-known/openid-configuration"] = json_answer(document)
        async with running() as bench:
            bench.use({"issuer": web.url("")})
            await bench.ended(1)
            assert list(bench.keys.values()) == [parse_key_set(jwks("ec").encode()).text]
        assert web.paths == ["/.well-known/openid-configuration", "/keys"]


async def test_keys_come_over_tls_that_proves_the_name(tmp_path: Path) -> None:
    authority = StrangeAuthority()
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority.root_pem)
    with Web({"/jwks": json_answer(jwks("ec"))}, authority=authority, names=["localhost"]) as web:
        async with running(ca_file=roots) as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks", "localhost")})
            await bench.ended(1)
            assert bench.problems() == []
        async with running() as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks", "localhost")})
            await bench.ended(1)
            assert bench.keeper.outcomes == {"tls": 1}
            assert bench.keys == {}


# ---------------------------------------------------------------- assurance 15

PRIVATE_INSIDE = json.dumps({"keys": [private_jwk("ec")]})
BAD = {
    "404": (json_answer("{}", status="404 Not Found"), "status", "status 404, 200 wanted"),
    "html": (json_answer("<html>Sign in</html>", "text/html"), "unusable", "; this is HTML or XML"),
    "huge": (json_answer(json.dumps({"keys": [], "pad": "x" * 1024 * 1024})), "too-large", "more than 1048576 bytes"),
    "cut": (b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{", "malformed", "cut off"),
    "slow": (Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", 0.02), "timeout", "within 0.3 s"),
}


@pytest.mark.parametrize("kind", BAD)
async def test_assurance_15_a_bad_answer_gives_no_key_and_costs_none(kind: str) -> None:
    """First there is no key at all; once there was one, a bad answer leaves it for its time, and nothing after that."""
    answer, outcome, words = BAD[kind]
    with Web({"/jwks": answer}) as web:
        async with running() as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks"), "timeout": "0.3s"})
            await bench.ended(1)
            assert bench.keeper.outcomes == {outcome: 1}
            assert bench.keys == {}
            (problem,) = bench.problems()
            assert problem.startswith("error tokens.yaml:")
            assert "spec.jwtRules[0].jwksUri: no keys are had, so every token is refused: " in problem
            assert words in problem
            assert "Sign in" not in problem

            web.answers["/jwks"] = json_answer(jwks("ec"))
            await bench.later(2)
            known = bench.keys[uri(web)]
            assert known

            web.answers["/jwks"] = answer
            await bench.later(20 * 60)
            assert bench.keys[uri(web)] == known
            (problem,) = bench.problems()
            assert problem.startswith("warning tokens.yaml:")
            assert "those known are kept until" in problem
            await bench.later(6 * HOUR)
            assert bench.keys[uri(web)] == ""
            assert bench.keeper.states() == {uri(web): "none"}


async def test_assurance_15_nobody_there_gives_no_key() -> None:
    with Web() as web:
        url = web.url("/jwks")
    async with running() as bench:
        bench.use({"issuer": "i", "jwksUri": url})
        await bench.ended(1)
        assert bench.keeper.outcomes == {"connect": 1}
        assert bench.keys == {}


async def test_assurance_15_a_set_with_a_private_key_inside_gives_none() -> None:
    with Web({"/jwks": json_answer(PRIVATE_INSIDE)}) as web:
        async with running() as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks")})
            await bench.ended(1)
            assert bench.keys == {}
            error, warning = bench.problems()
            assert "the set holds no usable key, so every token is refused" in error
            assert "key 0 holds private or symmetric material" in warning
            assert private_jwk("ec")["d"] not in error + warning
            web.answers["/jwks"] = json_answer(jwks("ec-2"))
            await bench.later(20 * 60)
            assert json.loads(bench.keys[uri(web)]) == {"keys": [jwk("ec-2")]}


async def test_assurance_15_a_key_whose_private_half_is_published_is_dropped_at_once() -> None:
    with Web({"/jwks": json_answer(jwks("ec"))}) as web:
        async with running() as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks")})
            await bench.ended(1)
            assert bench.keys[uri(web)]
            web.answers["/jwks"] = json_answer(PRIVATE_INSIDE)
            await bench.later(20 * 60)
            assert bench.keys[uri(web)] == ""


async def test_assurance_16_a_set_inside_is_not_fetched_and_the_rule_is_told() -> None:
    with Web({"/jwks": json_answer(jwks("ec"))}) as web:
        async with running(guard=Guard()) as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks")})
            await bench.ended(1)
            (problem,) = bench.problems()
            assert bench.keeper.outcomes == {"refused": 1}
            assert "leads to 127.0.0.1, which is loopback" in problem
    assert web.asked == []


async def test_assurance_16_discovery_leads_nowhere_inside_either() -> None:
    with Web(host="127.0.0.2") as inner, Web() as web:
        document = json.dumps({"jwks_uri": inner.url("/jwks")})
        web.answers["/.well-known/openid-configuration"] = json_answer(document)
        async with running() as bench:
            bench.use({"issuer": web.url("")})
            await bench.ended(1)
            assert bench.keeper.outcomes == {"refused": 1}
        assert inner.asked == []


# ---------------------------------------------------------------- life


async def test_a_slow_issuer_holds_up_no_other() -> None:
    drip = Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", 0.02)
    with Web({"/slow": drip, "/jwks": json_answer(jwks("ec"))}) as web:
        async with running() as bench:
            bench.use({"issuer": "a", "jwksUri": web.url("/slow")}, {"issuer": "b", "jwksUri": web.url("/jwks")})
            await bench.until(lambda: uri(web) in bench.keys)
            assert bench.keeper.outcomes == {"ok": 1}


async def test_a_namespace_with_many_slow_issuers_holds_up_no_other() -> None:
    drip = Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", 0.02)
    with Web({"/slow": drip, "/jwks": json_answer(jwks("ec"))}) as web:
        async with running() as bench:
            slow = [{"issuer": f"i{n}", "jwksUri": web.url(f"/slow?{n}"), "timeout": "60s"} for n in range(100)]
            bench.use(*slow, name="slow", namespace="crowd")
            await bench.until(lambda: len(web.paths) == OF_ONE_NAMESPACE)
            bench.use({"issuer": "b", "jwksUri": web.url("/jwks")})
            await bench.until(lambda: uri(web) in bench.keys)
            assert sum(path.startswith("/slow") for path in web.paths) == OF_ONE_NAMESPACE


async def test_a_restart_knows_what_was_known_before_anything_is_fetched(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    with Web({"/jwks": json_answer(jwks("ec"))}) as web:
        async with running(file=file) as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks")})
            await bench.ended(1)
            await bench.until(file.exists)
            known = dict(bench.keys)
    assert file.stat().st_mode & 0o777 == 0o600
    again = Bench(file=file)  # which does not run
    again.use({"issuer": "i", "jwksUri": next(iter(known)).url})
    assert again.keys == known
    old = Bench(file=file)
    old.clock.now += 6 * HOUR + 1
    old.use({"issuer": "i", "jwksUri": next(iter(known)).url})
    assert old.keys == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b'[{"kind": "uri"}]', b"\xff"])
async def test_a_file_that_is_none_is_as_good_as_no_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(content)
    with Web({"/jwks": json_answer(jwks("ec"))}) as web:
        async with running(file=file) as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks")})
            await bench.ended(1)
            assert bench.keys[uri(web)]
            await bench.until(lambda: file.read_bytes() != content)


async def test_a_fault_in_one_fetch_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web({"/jwks": json_answer(jwks("ec"))}) as web:
        async with running() as bench:
            original = bench.keeper._fetcher.get

            async def get(url: str, *args: Any) -> Any:
                if url.endswith("/broken"):
                    raise ZeroDivisionError
                return await original(url, *args)

            monkeypatch.setattr(bench.keeper._fetcher, "get", get)
            bench.use({"issuer": "a", "jwksUri": web.url("/broken")}, {"issuer": "b", "jwksUri": web.url("/jwks")})
            await bench.ended(2)
            assert bench.keeper.outcomes == {"fault": 1, "ok": 1}
            assert len(bench.problems()) == 1


async def test_rules_that_go_take_their_keys_with_them() -> None:
    with Web({"/jwks": json_answer(jwks("ec"))}) as web:
        async with running() as bench:
            bench.use({"issuer": "i", "jwksUri": web.url("/jwks")})
            await bench.ended(1)
            bench.use({"issuer": "i", "jwks": jwks("ec")})
            assert bench.keys == {uri(web): ""}
            assert bench.keeper.states() == {}
