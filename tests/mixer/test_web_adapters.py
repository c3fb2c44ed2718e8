"""Rules that ask other servers, and lists that are fetched: real servers on loopback, and Mixer's own engine."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from typing import Any

import pytest
from tests.mixer.test_engine import HERE, bag, rules

from lateen.adapters import Verdict
from lateen.fetch import Guard
from lateen.mixer.cache import DecisionCache
from lateen.mixer.court import RuleCourt, make_court
from lateen.mixer.engine import Engine
from lateen.mixer.means import Means
from lateen.mixer.services.answers import Outcome
from lateen.wire.mixer import Asker

LOOPBACK = Means(guard=Guard(allowed=(ip_network("127.0.0.0/8"),)))


@dataclass
class Web:
    """A server that answers each path as it is told to, and notes what it was asked."""

    port: int = 0
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    connections: int = 0
    wait: float = 0.0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
def web() -> Iterator[Web]:
    told = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            told.connections += 1
            super().setup()

        def do_POST(self) -> None:  # http.server's name
            body = self.rfile.read(int(self.headers["content-length"]))
            told.asked.append((self.path, json.loads(body)))
            self.do_GET()

        def do_GET(self) -> None:  # http.server's name
            time.sleep(told.wait)
            status, headers, body = told.answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with closing(server.socket):
        yield told
        server.shutdown()


class Bench:
    """A court with rules, in one event loop."""

    def __init__(self, *specs: str, means: Means = LOOPBACK) -> None:
        self.court: RuleCourt = make_court(means=means)
        self.judge: Engine = self.court.judge(rules(*specs))

    async def check(self, what: dict[str, Any], *, tcp: bool = False, asker: Asker = HERE) -> Outcome:
        return await self.judge.check(what, asker, tcp=tcp)

    def results(self, rule: str = "shop/r0") -> dict[str, int]:
        return {result: count for (name, result), count in self.court.stats.results.items() if name == rule}


def asked(*bags: dict[str, Any], specs: tuple[str, ...], means: Means = LOOPBACK) -> tuple[list[Outcome], Bench]:
    async def run() -> tuple[list[Outcome], Bench]:
        bench = Bench(*specs, means=means)
        found = [await bench.check(what) for what in bags]
        await bench.court.close()
        return found, bench

    return asyncio.run(run())


def webhook(web: Web, more: str = "") -> str:
    asked = f"{{url: '{web.url('/decide')}', fields: {{who: source.principal, m: request.method}}}}"
    return f"{{timeout: 2s, check: {{webhook: {asked}}}{more}}}"


@pytest.mark.parametrize(
    ("answer", "allowed", "status", "body"),
    [
        ((200, {}, b"yes"), True, 403, ""),
        ((204, {}, b""), True, 403, ""),
        ((401, {}, b"who are you"), False, 401, "who are you"),
        ((429, {}, b"slowly"), False, 429, "slowly"),
        ((418, {}, b"no status of Envoy's"), False, 403, "no status of Envoy's"),
        ((302, {"location": "/elsewhere"}, b""), False, 302, ""),
        ((500, {}, b"broken"), False, 503, "mixer cannot decide, and the rule fails closed\n"),
        ((200, {}, b"x" * 70_000), False, 503, "mixer cannot decide, and the rule fails closed\n"),
    ],
)
def test_a_webhook_decides(
    web: Web, answer: tuple[int, dict[str, str], bytes], allowed: bool, status: int, body: str
) -> None:
    web.answers["/decide"] = answer
    (found,), _ = asked(bag(), specs=(webhook(web),))
    assert (found.allowed, found.status, found.body) == (allowed, status, body)
    who = "spiffe://cluster.local/ns/shop/sa/web"
    assert web.asked == [("/decide", {"who": who, "m": "GET"})]


def test_a_rule_that_fails_open_passes_where_its_webhook_fails(web: Web) -> None:
    web.answers["/decide"] = (500, {}, b"")
    (found,), bench = asked(bag(), specs=(webhook(web, ", failurePolicy: open"),))
    assert found.allowed
    assert bench.results() == {"failed": 1, "allowed": 1}
    (problem,) = bench.court.problems()
    assert (problem.field, problem.level) == ("spec.check.webhook", "warning")
    assert "the webhook answered 500" in problem.message


@pytest.mark.parametrize(
    ("result", "allowed", "status", "body"),
    [
        ({"result": True}, True, 403, ""),
        ({"result": False}, False, 403, ""),
        ({"result": {"allow": False, "status": 404, "body": "gone", "headers": {"X-Why": "p"}}}, False, 404, "gone"),
        ({"result": {"allow": False, "http_status": 401}}, False, 401, ""),
        ({"result": {"allow": True, "headers": {"X-User": "ann"}}}, True, 403, ""),
        ({}, False, 503, ""),
        ({"result": None}, False, 503, ""),
        ({"result": {"allow": "yes"}}, False, 503, ""),
        ({"result": {"allow": True, "headers": {"host": "evil"}}}, False, 503, ""),
        ({"result": {"allow": True, "headers": {"x-a": "a\r\nb: c"}}}, False, 503, ""),
        ({"result": {"allow": False, "headers": {"x-envoy-upstream-service-time": "1"}}}, False, 503, ""),
        ({"result": {"allow": False, "status": 200}}, False, 503, ""),
        ({"result": {"allow": False, "status": [403]}}, False, 503, ""),
        ([], False, 503, ""),
    ],
)
def test_a_server_decides_as_opa_does(web: Web, result: Any, allowed: bool, status: int, body: str) -> None:
    web.answers["/v1/data/shop/allow"] = (200, {}, json.dumps(result).encode())
    spec = f"{{timeout: 2s, check: {{opa: {{url: '{web.url('/v1/data/shop/allow')}', input: {{m: request.method}}}}}}}}"
    (found,), _ = asked(bag(), specs=(spec,))
    assert (found.allowed, found.status) == (allowed, status)
    assert found.body == (body or found.body)
    assert web.asked == [("/v1/data/shop/allow", {"input": {"m": "GET"}})]
    if status == 404:
        assert found.headers == (("x-why", "p"),)
    if allowed and isinstance(result["result"], dict):
        assert found.request_set == (("x-user", "ann"),)


def test_connections_are_kept(web: Web) -> None:
    web.answers["/decide"] = (200, {}, b"")
    found, _ = asked(*[bag()] * 20, specs=(webhook(web),))
    assert all(one.allowed for one in found)
    assert (len(web.asked), web.connections) == (20, 1)


def client(principal: str, claims: Any = None) -> dict[str, Any]:
    request = {"headers": {}, "method": "GET", **({"auth": {"claims": claims}} if claims is not None else {})}
    return {"source": {"ip": "10.0.0.7", "principal": principal}, "request": request}


def test_an_answer_is_kept_as_long_as_it_says_and_never_for_somebody_else(web: Web) -> None:
    """Also where the rule sends nothing of who is asked about."""
    web.answers["/decide"] = (200, {"cache-control": "private, max-age=60"}, b"")
    spec = f"{{timeout: 2s, check: {{webhook: {{url: '{web.url('/decide')}', fields: {{m: request.method}}}}}}}}"
    ann, bob = {"sub": "ann", "iss": "i"}, {"sub": "bob", "iss": "i"}
    callers = [client("spiffe://a/ns/b/sa/c"), client("spiffe://a/ns/b/sa/d")]
    callers += [client("spiffe://a/ns/b/sa/c", claims) for claims in (ann, bob, {**ann, "admin": True})]
    found, bench = asked(*callers, *callers, *callers, specs=(spec,))
    assert all(one.allowed for one in found)
    assert len(web.asked) == len(callers)
    cache = bench.court._outside.cache
    assert (cache.hits, cache.misses, len(cache)) == (10, 5, 5)
    assert "mixer_decision_cache_hits_total 10\n" in bench.court.metrics()


@pytest.mark.parametrize("header", ["", "no-store, max-age=60", "max-age=0", "max-age=x", "s-maxage=60"])
def test_what_may_not_be_kept_is_asked_again(web: Web, header: str) -> None:
    web.answers["/decide"] = (403, {"cache-control": header} if header else {}, b"")
    found, _ = asked(*[bag()] * 3, specs=(webhook(web),))
    assert not any(one.allowed for one in found)
    assert len(web.asked) == 3


def test_a_kept_answer_is_of_one_rule_and_its_parameters(web: Web) -> None:
    web.answers["/decide"] = (200, {"cache-control": "max-age=60"}, b"")
    web.answers["/other"] = (403, {"cache-control": "max-age=60"}, b"")

    async def run() -> None:
        bench = Bench(webhook(web))
        assert (await bench.check(bag())).allowed
        bench.judge = bench.court.judge(rules(webhook(web).replace("/decide", "/other")))
        assert not (await bench.check(bag())).allowed
        bench.judge = bench.court.judge(rules(webhook(web)))
        assert (await bench.check(bag())).allowed
        assert [path for path, _ in web.asked] == ["/decide", "/other"]
        await bench.court.close()

    asyncio.run(run())


def test_a_server_that_hangs_is_asked_a_few_times_and_then_let_be(web: Web) -> None:
    web.answers["/decide"] = (200, {}, b"")
    web.wait = 5.0
    (*found,), bench = asked(*[bag()] * 30, specs=(webhook(web).replace("timeout: 2s", "timeout: 50ms"),))
    assert [one.status for one in found] == [503] * 30
    assert len(web.asked) == 3, "after three that waited nobody waits"
    assert bench.results() == {"failed": 30}


def test_who_gives_up_makes_nobody_look_away(web: Web) -> None:
    """A client that breaks its requests off would otherwise have the next one decided by the failurePolicy."""
    web.answers["/decide"] = (403, {}, b"")

    async def work() -> None:
        bench = Bench(webhook(web, ", failurePolicy: open"))
        web.wait = 0.2
        asked = [asyncio.create_task(bench.check(bag())) for _ in range(5)]
        await asyncio.sleep(0.1)
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        web.wait = 0.0
        assert (await bench.check(bag())).status == 403
        await bench.court.close()

    asyncio.run(work())


def test_the_short_patience_of_one_rule_is_not_anothers(web: Web) -> None:
    web.answers["/decide"] = (403, {}, b"")
    web.wait = 0.1

    async def work() -> None:
        bench = Bench(webhook(web).replace("2s", "20ms"))
        found = [await bench.check(bag()) for _ in range(6)]
        assert [one.status for one in found] == [503] * 6
        patient = bench.court.judge(rules("{check: {headers: {request: {remove: [a]}}}}", webhook(web)))
        assert (await patient.check(bag(), HERE, tcp=False)).status == 403
        await bench.court.close()

    asyncio.run(work())


def test_kept_answers_are_bounded_in_bytes() -> None:
    cache = DecisionCache()
    for i in range(1000):
        cache.keep(b"%d" % i, Verdict.deny(body="x" * 65_536, ttl=60))
    assert len(cache) == (16 << 20) // (65_536 + 400)
    cache.keep(b"999", Verdict.allow(ttl=60))
    assert cache.find(b"999") == Verdict.allow(ttl=60)
    for i in range(20_000):
        cache.keep(b"%d" % i, Verdict.allow(ttl=60))
    assert len(cache) == 10_000


def test_all_adapters_of_a_request_are_asked_at_once(web: Web) -> None:
    web.answers["/decide"] = (200, {}, b"")
    web.wait = 0.15
    specs = tuple(webhook(web).replace("2s", "300ms") for _ in range(4))
    (found,), _ = asked(bag(), specs=specs)
    assert found.allowed, "one after the other they would have been late"
    assert len(web.asked) == 4


def test_who_is_denied_at_once_is_not_asked_about(web: Web) -> None:
    web.answers["/decide"] = (200, {}, b"")
    (found,), _ = asked(bag(), specs=(webhook(web), "{check: {deny: {status: 404}}}"))
    assert (found.status, web.asked) == (404, [])


def test_a_quota_is_charged_by_what_others_let_pass(web: Web) -> None:
    web.answers["/decide"] = (403, {}, b"")

    async def run() -> list[bool]:
        bench = Bench(webhook(web), "{quota: {limit: 1, per: 1h}}")
        first = await bench.check(bag())
        web.answers["/decide"] = (200, {}, b"")
        found = [first, await bench.check(bag()), await bench.check(bag())]
        await bench.court.close()
        return [one.allowed for one in found]

    assert asyncio.run(run()) == [False, True, False]


def test_what_the_operator_has_not_opened_is_not_asked(web: Web) -> None:
    web.answers["/decide"] = (200, {}, b"")
    (found,), bench = asked(bag(), specs=(webhook(web),), means=Means())
    assert (found.status, web.asked) == (503, [])
    assert "which is loopback; `lateen up --allow-fetch CIDR` would open it" in bench.court.problems()[0].message


def test_connections_are_decided_by_webhooks_too(web: Web) -> None:
    web.answers["/decide"] = (403, {}, b"")
    spec = f"{{timeout: 2s, check: {{webhook: {{url: '{web.url('/decide')}', fields: {{ip: source.ip}}}}}}}}"

    async def run() -> None:
        bench = Bench(spec)
        assert not (await bench.check({"source": {"ip": "10.0.0.7"}}, tcp=True)).allowed
        web.answers["/decide"] = (200, {}, b"")
        assert (await bench.check({"source": {"ip": "10.0.0.7"}}, tcp=True)).allowed
        await bench.court.close()

    asyncio.run(run())
    assert web.asked == [("/decide", {"ip": "10.0.0.7"})] * 2


def test_a_list_is_fetched_and_stays_when_it_goes_bad(web: Web) -> None:
    url = web.url("/list")
    listed = f"{{value: source.ip, url: '{url}', refresh: 1s, values: [192.0.2.1], type: IP_ADDRESSES, deny: PRESENT}}"

    async def run() -> None:
        bench = Bench(f"{{check: {{list: {listed}}}}}")
        running = asyncio.create_task(bench.court.run())

        async def becomes(status: int, *, allowed: bool, words: str = "") -> None:
            for _ in range(100):
                found = await bench.check(bag())
                told = str([str(problem) for problem in bench.court.problems()])
                if found.allowed is allowed and (allowed or found.status == status) and words in told:
                    return
                await asyncio.sleep(0.05)
            raise AssertionError((found, told))

        await becomes(503, allowed=False, words="status 404, 200 wanted")
        web.answers["/list"] = (200, {}, b"# who\n198.51.100.0/24\n")
        await becomes(0, allowed=True)
        assert bench.court.problems() == []
        web.answers["/list"] = (200, {}, b"10.0.0.0/8\n")
        await becomes(403, allowed=False)
        web.answers["/list"] = (200, {}, b"nonsense\n")
        await becomes(403, allowed=False, words="what was read last stays in force")
        running.cancel()
        await bench.court.close()

    asyncio.run(run())


@pytest.mark.parametrize("url", ["ftp://a/b", "http://", "http://user:secret@a/b", "/path", "http://a b/"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    from tests.fakes.judging import refusal

    told = refusal("Rule", f"check: {{webhook: {{url: '{url}'}}}}")
    assert "spec.check.webhook.url" in told
    assert "secret" not in told
