"""What rules decide, count and report, by Mixer's engine alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lateen.api.base import Object
from lateen.api.decode import decode_documents
from lateen.mixer.court import make_court
from lateen.mixer.engine import Engine
from lateen.mixer.logbook import MOST_LINES, Logbook
from lateen.mixer.meters import MOST_SERIES, Meters
from lateen.mixer.quotas import MOST_KEYS, MemoryQuota
from lateen.mixer.services.answers import Outcome
from lateen.wire.mixer import Asker

HERE = Asker(namespace="shop", labels={"app": "orders"})


def rules(*specs: str, namespace: str = "shop", folder: Path = Path("/nowhere")) -> list[Object]:
    """Return rules `r0`, `r1`, ... of a namespace, each younger than the one before it."""
    text = "\n---\n".join(
        f"apiVersion: mixer.lateen.io/v1alpha1\nkind: Rule\nmetadata:\n  name: r{i}\n  namespace: {namespace}\n"
        f'  creationTimestamp: "2026-01-01T00:00:{i:02d}Z"\nspec: {spec}'
        for i, spec in enumerate(specs)
    )
    decoded = decode_documents(text.encode(), str(folder / "rules.yaml"))
    assert not [problem for problem in decoded.problems if problem.level == "error"], decoded.problems
    return list(decoded.objects)


def bag(**headers: str) -> dict[str, Any]:
    return {
        "source": {"ip": "10.0.0.7", "principal": "spiffe://cluster.local/ns/shop/sa/web"},
        "request": {"headers": {name.replace("_", "-"): value for name, value in headers.items()}, "method": "GET"},
    }


def decide(objects: list[Object], what: dict[str, Any], *, asker: Asker = HERE, tcp: bool = False) -> Outcome:
    return judged(make_court().judge(objects), what, asker, tcp=tcp)


def judged(judge: Engine, what: dict[str, Any], asker: Asker, *, tcp: bool) -> Outcome:
    return asyncio.run(judge.check(what, asker, tcp=tcp))


CLIENT = 'request.headers["x-client"]'
DENY_A = (
    '{match: \'request.headers["x-client"] == "a"\', check: {deny: {status: 409, body: no a, headers: {X-Why: it}}}}'
)
ALLOW_B = '{match: \'request.headers["x-client"] == "b"\', check: {allow: {}}}'


def test_a_denial_is_told_as_written() -> None:
    found = decide(rules(DENY_A), bag(x_client="a"))
    assert found == Outcome(allowed=False, status=409, body="no a", rule="shop/r0", headers=(("x-why", "it"),))
    assert decide(rules(DENY_A), bag(x_client="c")).allowed
    assert decide(rules(DENY_A), bag()).allowed  # what is absent is not "a"


def test_where_a_rule_allows_one_of_those_must_match() -> None:
    objects = rules(DENY_A, ALLOW_B)
    assert decide(objects, bag(x_client="b")).allowed
    assert decide(objects, bag(x_client="c")).status == 403
    assert decide(objects, bag()).rule == "shop/r1"
    assert decide(objects, bag(x_client="a")).status == 409  # a denial stands before


def test_the_first_denial_is_told_of_the_root_namespace_then_by_age() -> None:
    deny = "{{check: {{deny: {{status: {}}}}}}}"
    own = rules(deny.format(401), deny.format(402))
    root = rules(deny.format(404), namespace="istio-system")
    assert decide(own, bag()).status == 401
    assert decide([*own, *root], bag()).status == 404


@pytest.mark.parametrize(
    ("spec", "namespace", "asker", "applies"),
    [
        ("{check: {deny: {}}}", "shop", HERE, True),
        ("{check: {deny: {}}}", "bank", HERE, False),
        ("{check: {deny: {}}}", "istio-system", HERE, True),
        ("{selector: {matchLabels: {app: orders}}, check: {deny: {}}}", "shop", HERE, True),
        ("{selector: {matchLabels: {app: web}}, check: {deny: {}}}", "shop", HERE, False),
        ("{check: {deny: {}}}", "bank", Asker(), True),  # an Envoy that does not say where it is
        ("{check: {deny: {}}}", "bank", Asker(namespace="shop", rules=("bank/r0",)), True),  # Pilot says which
        ("{check: {deny: {}}}", "shop", Asker(namespace="shop", rules=()), False),
        ("{gateway: edge, check: {deny: {}}}", "shop", Asker(namespace="shop", gateway="edge"), True),
        ("{gateway: edge, check: {deny: {}}}", "shop", Asker(gateway="shop/edge"), True),
        ("{gateway: shop/edge, check: {deny: {}}}", "istio-system", Asker(namespace="shop", gateway="edge"), True),
        ("{gateway: edge, check: {deny: {}}}", "shop", Asker(namespace="shop", gateway="other"), False),
        ("{gateway: edge, check: {deny: {}}}", "shop", HERE, False),
    ],
)
def test_for_whom_a_rule_is(spec: str, namespace: str, asker: Asker, applies: bool) -> None:
    assert decide(rules(spec, namespace=namespace), bag(), asker=asker).allowed is not applies


def test_connections_are_decided_by_rules_that_read_nothing_else() -> None:
    objects = rules(DENY_A, '{match: source.ip == "10.0.0.7", check: {deny: {}}}')
    assert decide(objects, bag(x_client="a"), tcp=True).rule == "shop/r1"
    assert decide(objects[:1], bag(x_client="a"), tcp=True).allowed


def test_headers_are_set_from_what_is_known() -> None:
    objects = rules(
        "{check: {headers: {request: {set: {X-Who: source.principal, x-none: 'request.headers.zz'}, "
        "remove: [Cookie]}}}}",
        "{check: {headers: {request: {set: {x-who: \"'later'\"}}, response: {set: {x-r: request.method}}}}}",
    )
    found = decide(objects, bag())
    assert found.allowed
    assert found.request_set == (("x-who", "later"),)
    assert found.request_remove == ("cookie",)
    assert found.response_set == (("x-r", "GET"),)
    # A value that would start a header of its own is none.
    split = rules(f"{{check: {{headers: {{request: {{set: {{x-a: '{CLIENT}'}}}}}}}}}}")
    assert decide(split, bag(x_client="a\r\nx-b: c")).request_set == ()


# ---------------------------------------------------------------- lists


def test_lists_allow_or_deny() -> None:
    allow = f"{{check: {{list: {{value: '{CLIENT}', values: [a, b]}}}}}}"
    deny = f"{{check: {{list: {{value: '{CLIENT}', values: [a, b], deny: PRESENT, status: 409, body: listed}}}}}}"
    assert [decide(rules(allow), bag(x_client=one)).allowed for one in "abc"] == [True, True, False]
    assert [decide(rules(deny), bag(x_client=one)).allowed for one in "abc"] == [False, False, True]
    assert decide(rules(deny), bag(x_client="a")).body == "listed"
    assert not decide(rules(allow), bag()).allowed  # what is absent is in no list
    assert decide(rules(deny), bag()).allowed


def test_a_list_in_a_file_is_followed_and_stays_when_it_goes_bad(tmp_path: Path) -> None:
    file = tmp_path / "blocked"
    spec = "{check: {list: {value: source.ip, file: blocked, type: IP_ADDRESSES, deny: PRESENT}}}"
    court = make_court()
    judge = court.judge(rules(spec, folder=tmp_path))

    def passes() -> bool:
        for listed in court._lists.values():
            listed.look()
        return judged(judge, bag(), HERE, tcp=False).allowed

    # Without its file nothing can be decided, and the rule fails closed.
    assert judged(judge, bag(), HERE, tcp=False).status == 503
    assert "blocked cannot be used: No such file" in str(court.problems()[0])
    file.write_text("# who\n192.0.2.0/24\n")
    assert passes()
    assert court.problems() == []
    file.write_text("10.0.0.0/8\n")
    assert not passes()
    file.write_text("nonsense\n")
    assert not passes()
    assert "what was read last stays in force" in str(court.problems()[0])
    file.unlink()
    assert not passes()


def test_a_rule_that_fails_open_passes() -> None:
    spec = "{failurePolicy: open, check: {list: {value: source.ip, file: none}}}"
    court = make_court()
    assert judged(court.judge(rules(spec)), bag(), HERE, tcp=False).allowed
    assert court.stats.results["shop/r0", "failed"] == 1


# ---------------------------------------------------------------- quotas


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_fixed_window_begins_with_its_first_charge() -> None:
    clock = Clock()
    quota = MemoryQuota(3, 10.0, rolling=False, clock=clock)
    assert [quota.charge(("a",), 1) for _ in range(4)] == [True] * 3 + [False]
    assert quota.charge(("b",), 3)
    assert not quota.charge(("b",), 1)
    clock.now += 9.9
    assert not quota.charge(("a",), 1)
    clock.now += 0.1
    assert quota.charge(("a",), 2)
    assert not quota.charge(("a",), 2)  # nothing is taken of what does not suffice
    assert quota.charge(("a",), 1)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 3)), max_size=60), st.integers(1, 5))
def test_a_rolling_window_never_lets_more_pass(steps: list[tuple[float, int]], limit: int) -> None:
    """In any stretch of nine tenths of the window, whenever it begins."""
    clock = Clock()
    quota = MemoryQuota(limit, 10.0, rolling=True, clock=clock)
    passed: list[tuple[float, int]] = []
    for pause, amount in steps:
        clock.now += pause
        if quota.charge(("a",), amount):
            passed.append((clock.now, amount))
    for start, _ in passed:
        assert sum(amount for at, amount in passed if start <= at < start + 9.0) <= limit


def test_keys_are_bounded() -> None:
    for rolling in (False, True):
        quota = MemoryQuota(1, 10.0, rolling=rolling, clock=Clock())
        for number in range(MOST_KEYS + 50):
            assert quota.charge((str(number),), 1)
        assert len(quota) == MOST_KEYS
        assert not quota.charge((str(MOST_KEYS + 49),), 1)


def test_quotas_are_charged_by_what_passes_everything_else() -> None:
    quota = f"{{quota: {{limit: 2, per: 1h, by: ['{CLIENT}'], status: 503, body: slow}}}}"
    court = make_court()
    judge = court.judge(rules(quota, DENY_A))
    assert [judged(judge, bag(x_client="a"), HERE, tcp=False).status for _ in range(3)] == [409] * 3
    found = [judged(judge, bag(x_client="b"), HERE, tcp=False) for _ in range(3)]
    assert [one.allowed for one in found] == [True, True, False]
    assert (found[2].status, found[2].body, found[2].rule) == (503, "slow", "shop/r0")
    # What is absent is one more client.
    assert [judged(judge, bag(), HERE, tcp=False).allowed for _ in range(3)] == [True, True, False]
    # Rules that change elsewhere keep their counts.
    again = court.judge(rules(quota))
    assert not judged(again, bag(x_client="b"), HERE, tcp=False).allowed
    changed = court.judge(rules(quota.replace("limit: 2", "limit: 3")))
    assert judged(changed, bag(x_client="b"), HERE, tcp=False).allowed


async def test_a_domain_of_rate_limits_is_a_namespace_or_a_rule() -> None:
    spec = "{quota: {limit: 5, per: 1h, by: ['request.descriptors[\"client\"]'], amount: '2'}}"
    judge = make_court().judge(rules(spec))
    what = {"request": {"descriptors": {"client": "a"}}}
    assert (await judge.limit(what, Asker(), "shop", 1)).allowed
    assert (await judge.limit(what, Asker(), "elsewhere", 100)).allowed
    assert not (await judge.limit(what, Asker(), "shop/r0", 2)).allowed
    assert (await judge.limit(what, Asker(), "shop/r0", 1)).allowed


# ---------------------------------------------------------------- reports

REPORT = (
    "{match: response.code >= 400, report: {"
    "log: {file: bad.jsonl, fields: {code: response.code, who: source.principal, none: 'request.headers.zz'}}, "
    "metric: {name: bad, kind: COUNTER, labels: {code: response.code, m: request.method}}}}"
)


def over(code: int) -> dict[str, Any]:
    return {**bag(), "response": {"code": code}}


async def test_lines_and_counts(tmp_path: Path) -> None:
    court = make_court(logs=tmp_path / "logs")
    judge = court.judge(rules(REPORT))
    judge.report([over(200), over(404), over(503), over(404)], HERE, tcp=False)
    await court.close()
    lines = [json.loads(line) for line in (tmp_path / "logs" / "bad.jsonl").read_text().splitlines()]
    assert [(line["code"], line["who"], line["rule"], line["severity"]) for line in lines] == [
        (code, "spiffe://cluster.local/ns/shop/sa/web", "shop/r0", "INFO") for code in (404, 503, 404)
    ]
    assert all("none" not in line for line in lines)
    text = court.metrics()
    assert 'bad{code="404",m="GET"} 2\n' in text
    assert 'bad{code="503",m="GET"} 1\n' in text
    assert 'mixer_report_entries_total{rule="shop/r0",result="taken"} 3' in text


async def test_a_file_that_cannot_be_written_is_told_and_counted(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    court = make_court(logs=tmp_path / "logs")
    court.judge(rules(REPORT)).report([over(404)], HERE, tcp=False)
    await court.close()
    assert "cannot be written" in str(court.problems()[0])
    assert "mixer_log_lines_dropped_total 1\n" in court.metrics()


async def test_lines_that_wait_are_bounded(tmp_path: Path) -> None:
    book = Logbook(tmp_path)
    assert [book.put("a", {"n": number}) for number in range(MOST_LINES + 3)][-4:] == [True, False, False, False]
    await book.flush()
    assert (book.written, book.dropped) == (MOST_LINES, 3)
    assert book.put("a", {})


def test_metrics_of_every_kind_and_their_bound() -> None:
    court = make_court()
    judge = court.judge(
        rules(
            "{report: {metric: {name: size, kind: HISTOGRAM, value: response.code, buckets: [300, 400]}}}",
            "{report: {metric: {name: last, kind: GAUGE, value: response.code}}}",
            "{report: {metric: {name: last, kind: COUNTER}}}",
        )
    )
    judge.report([over(200), over(404), over(300)], HERE, tcp=False)
    text = court.metrics()
    for line in ('size_bucket{le="300"} 2', 'size_bucket{le="400"} 2', 'size_bucket{le="+Inf"} 3', "size_sum 904",
                 "size_count 3", "last 300", "# TYPE last gauge"):  # fmt: skip
        assert f"{line}\n" in text, line
    (problem,) = court.problems()
    assert "another rule counts last as a GAUGE by no label" in problem.message
    meters = Meters()
    meters.fault(rules("{report: {metric: {name: m, labels: {a: request.method}}}}")[0].spec.report.metric)
    assert [meters.add("m", (str(number),), 1) for number in range(MOST_SERIES + 2)][-3:] == [True, False, False]
    assert meters.add("m", ("7",), 1)
    assert meters.dropped == 2


def test_a_label_cannot_break_out_of_its_quotes() -> None:
    court = make_court()
    spec = "{report: {metric: {name: m, labels: {a: 'request.headers[\"x-client\"]'}}}}"
    court.judge(rules(spec)).report([bag(x_client='x"} 1\nm{a="y')], HERE, tcp=False)
    assert 'm{a="x\\"} 1\\nm{a=\\"y"} 1\n' in court.metrics()


def test_reports_of_connections_are_those_that_read_nothing_of_requests() -> None:
    court = make_court()
    judge = court.judge(rules(REPORT, "{report: {metric: {name: closed, value: connection.sent.bytes}}}"))
    judge.report([{"connection": {"sent": {"bytes": 12}}}], HERE, tcp=True)
    assert "\nclosed 12\n" in court.metrics()
    assert "\nbad{" not in court.metrics()


# ---------------------------------------------------------------- what is read

HEADERS = st.dictionaries(st.sampled_from(["x-client", "x-a", "x-b"]), st.sampled_from(["a", "b", ""]), max_size=3)


@settings(deadline=None)
@given(HEADERS)
def test_only_what_is_read_decides(headers: dict[str, str]) -> None:
    """A bag with no more in it than the rules say they read is decided as the whole one is."""
    judge = make_court().judge(
        rules(DENY_A, ALLOW_B, f"{{check: {{list: {{value: '{CLIENT}', values: [a, b, '']}}}}}}")
    )
    keys = {read.key for read in judge.reads if read.attribute == "request.headers"}
    whole = {"request": {"headers": headers}}
    less = {"request": {"headers": {name: value for name, value in headers.items() if name in keys}}}
    assert judged(judge, whole, HERE, tcp=False) == judged(judge, less, HERE, tcp=False)


async def test_the_court_writes_while_it_runs(tmp_path: Path) -> None:
    court = make_court(logs=tmp_path)
    court.judge(rules(REPORT)).report([over(500)], HERE, tcp=False)
    running = asyncio.create_task(court.run())
    try:
        async with asyncio.timeout(10):
            while not (tmp_path / "bad.jsonl").exists():  # noqa: ASYNC110  # a file says nothing
                await asyncio.sleep(0.05)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
