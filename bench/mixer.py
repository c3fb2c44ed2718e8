"""What telemetry and rules cost: ratios against the same proxies without, latencies, and CPU of Mixer.

plain      nothing but the standard metrics
quiet      without them
compiled   a rule that Envoy decides
evaluated  another, whose expression has to be evaluated for each request
called     a rule that Mixer decides: a quota that is never reached
logged     a rule that logs every request

Pairs of workloads differ by two or three percent, by where their connections and their memory happen to lie, which is
as much as is to be measured. So each pair has each feature in turn, and connections end after a thousand requests.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from tests.e2e.servers import redis_server
from tests.fakes.ports import free_port

from bench.live import Measured, Pairs, have_load_generator, live_pairs
from bench.processes import cpu_seconds, rss_bytes
from bench.rows import Row
from lateen.api.decode import decode_documents
from lateen.mixer.court import make_court
from lateen.mixer.means import Means
from lateen.mixer.services.answers import Outcome
from lateen.wire.mixer import Asker

__all__ = ["mixer_rows"]

NAMES = ("a", "b", "c", "d")
CONNECTIONS_END = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: connections, namespace: default}
spec:
  host: "*.default.svc.cluster.local"
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1000}}}
---
"""
QUIET = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: {side}-{name}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: {side}-{name}}}}}
  metrics: [{{overrides: [{{disabled: true}}]}}]
---
"""
RULE = """
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{matchLabels: {{app: server-{name}}}}}
{spec}
---
"""
RULES = {
    "compiled": '  match: \'request.headers["x-no"] == "1"\'\n  check: {deny: {}}',
    "evaluated": "  match: request.path.endsWith('/no')\n  check: {deny: {}}",
    "called": "  quota: {limit: 1000000000, per: 1h, by: [source.principal]}",
    "logged": "  report: {log: {file: all.jsonl, fields: {path: request.path, code: response.code}}}",
}
REQUESTS = 12_000  # of a load, as fast as it goes, for CPU
# Each load's connections come to lie on other workers of the proxies, so ratios are of many short ones.
SHORT, LOADS = 1500, 4
RATE, PACED = 1000, 5000  # requests a second, and of a turn, for latencies
FIRST = 600  # requests that a pair is sent, and that are not looked at, when it has another feature
CHARGES = 4000
IN_FORCE_SECONDS = 3.0
TOLD_SECONDS = 1.5  # Mixer tells every second


def mixer_rows(*, quick: bool) -> list[Row]:
    """Measure a mesh that lives, and Redis."""
    rows = asyncio.run(_redis_rows(quick=quick))
    if not have_load_generator():
        return [*rows, Row("data plane", "skipped", 0, note="needs h2load (Debian: nghttp2-client), curl, nsenter")]
    with live_pairs(NAMES, CONNECTIONS_END) as pairs:
        return [*_proxies(pairs, turns=2 if quick else 24), *_mixer(pairs, turns=1 if quick else 8), *rows]


def _resources(cast: Mapping[str, str]) -> str:
    """Return what gives each pair its feature. `cast`: feature -> pair."""
    parts = [CONNECTIONS_END]
    for feature, name in cast.items():
        if feature == "quiet":
            parts += [QUIET.format(side=side, name=name) for side in ("client", "server")]
        elif feature != "plain":
            parts.append(RULE.format(name=name, spec=RULES[feature]))
    return "".join(parts)


def _turns(
    pairs: Pairs, features: Sequence[str], turns: int, load: Callable[[str], Measured], *, loads: int = 1
) -> list[dict[str, Measured]]:
    """Load each feature `loads` times a turn, each turn at the next pair; return what each time was measured."""
    found = []
    for turn in range(turns):
        cast = {feature: NAMES[(at + turn) % len(features)] for at, feature in enumerate(features)}
        pairs.put(_resources(cast))
        time.sleep(IN_FORCE_SECONDS)
        for name in cast.values():
            pairs.load(name, requests=FIRST)
        for number in range(loads):
            order = features if (turn + number) % 2 else tuple(reversed(features))
            found.append({feature: load(cast[feature]) for feature in order})
    return found


def _proxies(pairs: Pairs, turns: int) -> list[Row]:
    names = ("plain", "quiet", "compiled", "evaluated")
    time.sleep(TOLD_SECONDS)
    before = pairs.decisions()
    found = _turns(pairs, names, turns, lambda name: pairs.load(name, requests=SHORT), loads=LOADS)
    time.sleep(TOLD_SECONDS)
    asked = pairs.decisions() - before
    us = {name: [turn[name].proxies * 1e6 for turn in found] for name in names}
    rows = [Row("CPU of both proxies a request, without standard metrics", "us", median(us["quiet"]))]
    rows.append(_ratio("standard metrics, ratio", us["plain"], us["quiet"], 1.10))
    rows.append(_ratio("a compiled check, ratio", us["compiled"], us["plain"], 1.05))
    rows.append(_ratio("one whose expression is evaluated each time, ratio", us["evaluated"], us["plain"], 1.05))
    rows.append(Row("questions to Mixer by both", "count", asked, 0))
    return rows


def _ratio(name: str, on: list[float], off: list[float], target: float) -> Row:
    ratios = sorted(one / other for one, other in zip(on, off, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
    note = (
        f"median of {len(ratios)} loads, the middle half {low:.3f} to {high:.3f}; "
        f"{median(on):.0f} and {median(off):.0f} us"
    )
    return Row(name, "ratio", median(ratios), target, note)


def _mixer(pairs: Pairs, turns: int) -> list[Row]:
    mixer = pairs.mixer()
    idle = cpu_seconds(mixer)
    time.sleep(2)
    idle = (cpu_seconds(mixer) - idle) / 2  # CPU seconds a second, of looking around and of telling how it is
    paced = _turns(
        pairs, ("plain", "called"), turns, lambda name: pairs.load(name, requests=PACED, per_second=RATE, beside=mixer)
    )
    added = sorted(turn["called"].percentile(99) - turn["plain"].percentile(99) for turn in paced)
    middle = sorted(turn["called"].percentile(50) - turn["plain"].percentile(50) for turn in paced)
    before = rss_bytes(mixer)
    fewer = (turns + 1) // 2
    asked = _turns(pairs, ("called",), fewer, lambda name: pairs.load(name, requests=REQUESTS, beside=mixer))
    decisions = [_per_core(turn["called"], idle) for turn in asked]
    logged = _turns(pairs, ("logged",), fewer, lambda name: _whole(pairs, name, mixer))
    entries = [_per_core(turn["logged"], idle) for turn in logged]
    grown = (rss_bytes(mixer) - before) / 1e6
    return [
        Row(
            f"a called check at {RATE:,} rps, added at p99",
            "ms",
            median(added),
            1.0,
            f"median of {len(added)} turns, {added[0]:.2f} to {added[-1]:.2f}; at p50 {median(middle):.2f} ms",
        ),
        Row("decisions of Mixer", "per_core_s", median(decisions), 4000, "of one CPU second", at_least=True),
        Row("entries reported to a log", "per_core_s", median(entries), 20000, "of one CPU second", at_least=True),
        Row("memory of Mixer under load", "MB", grown, 20, "grown"),
    ]


def _per_core(load: Measured, idle: float) -> float:
    return load.requests / (load.other_cpu - idle * load.seconds)


def _whole(pairs: Pairs, name: str, mixer: int) -> Measured:
    """Load a pair whose requests are reported in batches; the last of them come when it is over."""
    time.sleep(TOLD_SECONDS)  # of those before
    began, spent = time.monotonic(), cpu_seconds(mixer)
    found = pairs.load(name, requests=REQUESTS)
    time.sleep(TOLD_SECONDS)
    return replace(found, seconds=time.monotonic() - began, other_cpu=cpu_seconds(mixer) - spent)


async def _redis_rows(*, quick: bool) -> list[Row]:
    """Charge a quota in a Redis of Debian's at 1,000 a second, as Mixer does."""
    with tempfile.TemporaryDirectory(prefix="lateen-bench-") as name:
        folder, port = Path(name), free_port()
        try:
            command = redis_server(folder, "--port", str(port), "--bind", "127.0.0.1")
        except BaseException as missing:  # pytest's own way of saying that a program is not there
            return [Row("a charge in Redis", "skipped", 0, note=str(missing))]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            return await _charges(f"redis://127.0.0.1:{port}/0", CHARGES // 4 if quick else CHARGES)
        finally:
            process.terminate()
            await process.wait()


async def _charges(url: str, count: int) -> list[Row]:
    text = (
        "apiVersion: mixer.lateen.io/v1alpha1\nkind: Rule\nmetadata: {name: a, namespace: b}\n"
        f"spec: {{timeout: 2s, quota: {{limit: {count // 2}, per: 1h, by: [request.method], shared: true}}}}\n"
    )
    court = make_court(means=Means(redis=url))
    judge = court.judge(decode_documents(text.encode(), "bench.yaml").objects)
    times: list[float] = []
    outcomes: list[Outcome] = []

    async def one(method: str) -> Outcome:
        began = time.perf_counter()
        found = await judge.check({"request": {"method": method}}, Asker(), tcp=False)
        times.append(time.perf_counter() - began)
        return found

    for _ in range(100):
        await one("warm")
        await asyncio.sleep(0.002)
    times.clear()
    began = time.perf_counter()
    tasks = []
    for i in range(count):
        await asyncio.sleep(max(began + i / 1000 - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(one("GET")))
    outcomes = await asyncio.gather(*tasks)
    passed = sum(outcome.allowed for outcome in outcomes)
    await court.close()
    times.sort()
    p50, p99 = times[count // 2] * 1000, times[int(count * 0.99)] * 1000
    return [
        Row("a charge in Redis at 1,000 a second, p99", "ms", p99, 1.5, f"p50 {p50:.2f} ms"),
        Row("of twice as many charges as the limit, passed beyond it", "count", passed - count // 2, 0),
    ]
