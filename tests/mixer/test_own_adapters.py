"""Adapters of one's own: real files, real processes that run them, and what becomes of requests when they misbehave."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.mixer.test_engine import HERE, bag, rules

from lateen.adapters import Verdict, check_adapter
from lateen.errors import Unavailable
from lateen.mixer.court import RuleCourt, make_court
from lateen.mixer.engine import Engine
from lateen.mixer.means import Means
from lateen.mixer.own.adapters import OwnAdapters
from lateen.mixer.own.crew import Worker, WorkerGone
from lateen.mixer.own.frames import Hello
from lateen.mixer.services.answers import Outcome

GREY = '''
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from lateen.adapters import Verdict, check_adapter

@dataclass(frozen=True)
class Params:
    blocked: tuple[str, ...]
    threshold: int = 3

@check_adapter("greylist")
def greylist(params: Params, values: Mapping[str, Any]) -> Verdict:
    """Refuse whoever is listed, and whoever scores too much."""
    if values.get("who") in params.blocked:
        return Verdict.deny(429, f"not {values['who']}", headers={"x-grey": "yes"})
    return Verdict.allow(request_headers={"x-score": str(values.get("score", 0))})
'''
BAD = """
import asyncio, os, time
from collections.abc import Mapping
from typing import Any
from lateen.adapters import AdapterError, Verdict, check_adapter

@check_adapter("bad")
def bad(params: None, values: Mapping[str, Any]) -> Any:
    match values["how"]:
        case "raise": raise ValueError("broken")
        case "refuse": raise AdapterError("cannot say")
        case "loop":
            while True: pass
        case "sleep": time.sleep(60)
        case "slow": time.sleep(0.8)
        case "exit": os._exit(3)
        case "number": return 1
        case "none": return None
        case "status": return Verdict(allowed=False, status="no")
        case "headers": return Verdict(headers={"a": 1})
        case "unknown": return Verdict.deny(999)
        case "host": return Verdict.allow(request_headers={"Host": "evil"})
        case "lines": return Verdict.deny(headers={"x-a": "a\\r\\nb: c"})
        case "memory": return Verdict.deny(body="x" * (2 << 30))
        case "system": raise SystemExit(1)
        case "deep": return bad(params, values)
    return True

@check_adapter("bad-later")
async def later(params: None, values: Mapping[str, Any]) -> bool:
    await asyncio.sleep(60 if values["how"] == "sleep" else 0)
    return values["how"] == "fine"
"""


class Home:
    """A court with a folder of adapters. `run` runs `work` while it runs."""

    def __init__(self, folder: Path, **files: str) -> None:
        self.folder = folder / "adapters"
        self.folder.mkdir(mode=0o700)
        for name, text in files.items():
            self.write(name, text)
        self.court: RuleCourt = make_court(means=Means(adapters=self.folder))
        self.judge: Engine = self.court.judge([])

    def write(self, name: str, text: str) -> None:
        path = self.folder / f"{name}.py"
        path.write_text(text)
        path.chmod(0o600)

    def put(self, *specs: str) -> None:
        self.judge = self.court.judge(rules(*specs))

    async def check(self, what: dict[str, Any] | None = None, *, tcp: bool = False) -> Outcome:
        return await self.judge.check(what if what is not None else bag(), HERE, tcp=tcp)

    def calls(self) -> dict[tuple[str, str], int]:
        return {(name, result): count for (_, name, result), count in self.court._outside.own.calls.items()}

    def told(self) -> str:
        return "\n".join(str(problem) for problem in self.court.problems())

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        for _ in range(200):
            if holds():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{what}; {self.told()}")

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            running = asyncio.create_task(self.court.run())
            try:
                await work()
            finally:
                running.cancel()
                await asyncio.wait([running])
                await self.court.close()

        asyncio.run(whole())


def grey(params: str = "{blocked: [ann]}", more: str = "") -> str:
    values = "{who: 'request.headers[\"x-who\"]', score: size(request.method)}"
    return f"{{timeout: 5s, check: {{adapter: {{name: greylist, params: {params}, values: {values}}}}}{more}}}"


def test_a_function_decides_with_its_parameters_and_what_a_request_has(tmp_path: Path) -> None:
    home = Home(tmp_path, grey=GREY)

    async def work() -> None:
        home.put(grey())
        found = await home.check(bag(x_who="ann"))
        assert (found.allowed, found.status, found.body) == (False, 429, "not ann")
        assert found.headers == (("x-grey", "yes"),)
        found = await home.check(bag(x_who="bob"))
        assert found.allowed
        assert found.request_set == (("x-score", "3"),)
        assert (await home.check(bag())).allowed
        assert home.calls() == {("greylist", "denied"): 1, ("greylist", "allowed"): 2}
        assert 'mixer_adapter_calls_total{adapter="greylist",kind="check",result="denied"} 1\n' in home.court.metrics()

    home.run(work)


@pytest.mark.parametrize("policy", ["closed", "open"])
@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    ("how", "result"),
    [
        ("raise", "error"), ("refuse", "error"), ("loop", "timeout"), ("sleep", "timeout"), ("exit", "error"),
        ("number", "wrong"), ("none", "wrong"), ("status", "wrong"), ("headers", "wrong"), ("unknown", "wrong"),
        ("host", "wrong"), ("lines", "wrong"), ("memory", "error"), ("system", "error"), ("deep", "error"),
    ],
)  # fmt: skip
def test_what_a_function_does_is_its_own_failure(tmp_path: Path, how: str, result: str, tcp: bool, policy: str) -> None:
    """The rule's failurePolicy decides, it is counted, and what comes after is decided as ever."""
    home = Home(tmp_path, bad=BAD)
    asked = "check: {adapter: {name: bad, values: {how: source.ip}}}"
    spec = f"{{timeout: 400ms, failurePolicy: {policy}, {asked}}}"

    async def work() -> None:
        home.put(spec)
        fine = {"source": {"ip": "fine"}}
        await home.until(lambda: home.court._outside.own.adapters, "loaded")
        assert (await home.check(fine, tcp=tcp)).allowed
        found = await home.check({"source": {"ip": how}}, tcp=tcp)
        assert found.allowed is (policy == "open")
        assert policy == "open" or found.status == 503
        assert home.court.stats.results["shop/r0", "failed"] == 1
        if how != "exit":  # asked again of another, which ends the same way
            assert home.calls().get(("bad", result)) == 1, home.calls()
        assert "failed lately" in home.told()

        async def decides() -> bool:
            return (await home.check(fine, tcp=tcp)).allowed and not home.court.stats.results["shop/r0", "x"]

        failed = home.court.stats.results["shop/r0", "failed"]
        for _ in range(100):
            assert await decides() or policy == "closed"
            if home.court.stats.results["shop/r0", "failed"] == failed:
                break
            failed = home.court.stats.results["shop/r0", "failed"]
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("nothing is decided any more")

    home.run(work)


def test_one_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    home = Home(tmp_path, bad=BAD, grey=GREY)

    async def work() -> None:
        home.put("{timeout: 2s, check: {adapter: {name: bad, values: {how: source.ip}}}}", grey())
        await home.until(lambda: home.court._outside.own.adapters, "loaded")
        hanging = [asyncio.create_task(home.check({"source": {"ip": "sleep"}})) for _ in range(4)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        for _ in range(50):
            assert (await home.check({"source": {"ip": "fine"}})).allowed
        assert not any(task.done() for task in hanging), f"50 decisions took {time.monotonic() - began} s"
        assert [(await task).status for task in hanging] == [503] * 4

    home.run(work)


def test_a_coroutine_that_is_late_ends_no_process(tmp_path: Path) -> None:
    home = Home(tmp_path, bad=BAD)

    async def work() -> None:
        home.put("{timeout: 300ms, check: {adapter: {name: bad-later, values: {how: source.ip}}}}")
        await home.until(lambda: home.court._outside.own.adapters, "loaded")
        found = await asyncio.gather(*(home.check({"source": {"ip": "sleep"}}) for _ in range(20)))
        assert {one.status for one in found} == {503}
        await asyncio.sleep(0.5)
        assert home.court._outside.own.ends == 0
        assert (await home.check({"source": {"ip": "fine"}})).allowed

    home.run(work)


def test_functions_that_hang_use_up_no_threads(tmp_path: Path) -> None:
    """More of them than there are threads in both processes, one after another."""
    home = Home(tmp_path, bad=BAD)

    async def work() -> None:
        home.put("{timeout: 200ms, check: {adapter: {name: bad, values: {how: source.ip}}}}")
        await home.until(lambda: home.court._outside.own.adapters, "loaded")
        for _ in range(5):
            found = await asyncio.gather(*(home.check({"source": {"ip": "sleep"}}) for _ in range(8)))
            assert {one.status for one in found} == {503}
        assert home.court._outside.own.ends > 0
        for _ in range(100):
            if (await home.check({"source": {"ip": "fine"}})).allowed:
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("nothing is decided any more")

    home.run(work)


def test_who_asks_and_leaves_ends_no_process_that_is_within_its_time(tmp_path: Path) -> None:
    """However often a client breaks off what an adapter still has time for; one that hangs beyond it is ended."""
    home = Home(tmp_path, bad=BAD)

    async def leave(how: str) -> None:
        asked = asyncio.create_task(home.check({"source": {"ip": how}}))
        await asyncio.sleep(0.05)
        asked.cancel()
        await asyncio.wait([asked])

    async def work() -> None:
        own = home.court._outside.own
        home.put("{timeout: 5s, check: {adapter: {name: bad, values: {how: source.ip}}}}")
        await home.until(lambda: own.adapters, "loaded")
        for _ in range(5):
            await leave("slow")
        await asyncio.sleep(1)
        assert own.ends == 0
        assert (await home.check({"source": {"ip": "fine"}})).allowed
        home.put("{timeout: 300ms, check: {adapter: {name: bad, values: {how: source.ip}}}}")
        await leave("loop")
        await home.until(lambda: own.ends == 1, "the one that hangs is ended")

    home.run(work)


@pytest.mark.parametrize(
    ("params", "place", "words"),
    [
        ("{blocked: 3}", "params.blocked", "Expected array, got int"),
        ("{blocked: [a], threshold: many}", "params.threshold", "Expected int, got str"),
        ("{blocked: [a, 3]}", "params.blocked[1]", "Expected str, got int"),
        ("{}", "", "missing required field blocked"),
        ("{blocked: [a], treshold: 1}", "params.treshold", "is not known: the adapter takes blocked, threshold"),
    ],
)
def test_parameters_are_judged_before_they_are_used(tmp_path: Path, params: str, place: str, words: str) -> None:
    home = Home(tmp_path, grey=GREY)

    async def work() -> None:
        home.put(grey(params))
        await home.until(lambda: words in home.told(), f"{words!r} is told")
        assert f"rules.yaml:7: spec.check.adapter{'.' if place else ''}{place}: " in home.told()
        assert (await home.check()).status == 503
        home.put(grey(params, ", failurePolicy: open"))
        assert (await home.check()).allowed

    home.run(work)


def test_an_adapter_that_there_is_not_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path, grey=GREY)

    async def work() -> None:
        home.put(grey().replace("greylist", "graylist"))
        await home.until(lambda: "there is no check adapter graylist" in home.told(), "it is told")
        assert (await home.check()).status == 503

    home.run(work)


def test_files_are_followed_and_one_that_breaks_stays_as_it_was(tmp_path: Path) -> None:
    home = Home(tmp_path, grey=GREY)

    async def answers(status: int) -> None:
        for _ in range(200):
            if (await home.check(bag(x_who="ann"))).status == status:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{status} wanted; {home.told()}")

    async def work() -> None:
        home.put(grey())
        await answers(429)
        home.write("grey", GREY.replace("429", "409"))
        await answers(409)
        # Nothing of this reaches a request: the other file is taken, this one stays.
        home.write("grey", GREY.replace("429", "404") + "\nimport nothing_like_this\n")
        home.write("other", GREY.replace('"greylist"', '"other"'))
        await home.until(lambda: "nothing_like_this" in home.told(), "the fault is told")
        assert "grey.py:20: gives no adapter: ModuleNotFoundError" in home.told()
        await answers(409)
        assert {one.name for one in home.court._outside.own.adapters} == {"greylist", "other"}
        home.write("grey", "def broken(:\n")
        await home.until(lambda: "grey.py:1: gives no adapter: SyntaxError" in home.told(), "the fault is told")
        await answers(409)
        home.write("grey", GREY.replace("429", "410"))
        await answers(410)
        assert home.told() == ""
        (home.folder / "grey.py").unlink()
        await answers(503)
        assert "there is no check adapter greylist" in home.told()

    home.run(work)


def test_answers_go_on_while_adapters_are_replaced(tmp_path: Path) -> None:
    home = Home(tmp_path, grey=GREY)

    async def work() -> None:
        home.put(grey())
        await home.check()
        for round_ in range(3):
            home.write("grey", GREY + f"\n# {round_}\n")
            loads = home.court._outside.own.loads
            while home.court._outside.own.loads == loads:
                assert (await home.check(bag(x_who="ann"))).status == 429
                await asyncio.sleep(0.005)
            for _ in range(50):
                assert (await home.check(bag(x_who="ann"))).status == 429
        assert home.court.stats.results["shop/r0", "failed"] == 0

    home.run(work)


def test_what_others_may_write_is_not_run(tmp_path: Path) -> None:
    home = Home(tmp_path, grey=GREY)
    (home.folder / "grey.py").chmod(0o666)

    async def work() -> None:
        home.put(grey())
        await home.until(lambda: "may be written by others than its owner" in home.told(), "it is told")
        assert (await home.check()).status == 503

    home.run(work)


def test_a_worker_sees_nothing_of_mixers_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATEEN_REDIS_URL", "redis://:secret@nowhere")
    spy = """
import os
from lateen.adapters import Verdict, check_adapter

@check_adapter("spy")
def spy(params: None, values: dict) -> Verdict:
    files = [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
    return Verdict.deny(body=repr((sorted(os.environ), len(files))))
"""
    home = Home(tmp_path, spy=spy)

    async def work() -> None:
        home.put("{timeout: 5s, check: {adapter: {name: spy}}}")
        names, files = eval((await home.check()).body)
        assert not [name for name in names if "REDIS" in name]
        assert files < 12, "what Mixer has open stays there"

    home.run(work)


REPORT = """
from dataclasses import dataclass
from typing import Any
from lateen.adapters import report_adapter

@dataclass(frozen=True)
class Params:
    file: str

@report_adapter("keep")
def keep(params: Params, rows: list[dict[str, Any]]) -> None:
    with open(params.file, "a") as file:
        file.writelines(f"{row['path']} {row['code']}\\n" for row in rows)
"""


def test_a_report_adapter_is_told_rows(tmp_path: Path) -> None:
    home = Home(tmp_path, keep=REPORT)
    file = tmp_path / "kept"
    spec = (
        f"{{report: {{adapter: {{name: keep, params: {{file: {file}}}, "
        "values: {path: request.path, code: response.code}}}}"
    )

    async def work() -> None:
        home.put(spec)
        what = [{"request": {"path": f"/{i}"}, "response": {"code": 200 + i}} for i in range(1000)]
        home.judge.report(what, HERE, tcp=False)
        await home.until(lambda: file.exists() and len(file.read_text().splitlines()) == 1000, "all are told")
        assert file.read_text().splitlines()[7] == "/7 207"
        await home.until(lambda: home.calls() == {("keep", "taken"): 1000}, "counted")
        assert home.court.stats.reported["shop/r0", "taken"] == 1000

    home.run(work)


def test_rows_without_room_are_dropped_and_counted(tmp_path: Path) -> None:
    home = Home(tmp_path, keep=REPORT)
    home.put("{report: {adapter: {name: keep, params: {file: /nowhere/x}, values: {path: request.path}}}}")
    home.judge.report([{"request": {"path": "/"}}] * 10_003, HERE, tcp=False)
    assert home.court.stats.reported == {("shop/r0", "taken"): 10_000, ("shop/r0", "dropped"): 3}
    asyncio.run(home.court.close())


def test_adapters_of_installed_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site"
    info = package / "shop_rules-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lateen.mixer.adapters]\nshop = shop_rules\nbroken = nothing_there\n")
    (package / "shop_rules.py").write_text(GREY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package), *filter(None, sys.path)]))
    home = Home(tmp_path)

    async def work() -> None:
        home.put(grey())
        assert (await home.check(bag(x_who="ann"))).status == 429
        assert "entry point broken (nothing_there):" in home.told()

    home.run(work)


def test_a_function_stays_a_function() -> None:
    @check_adapter("mine")
    def mine(params: None, values: dict[str, Any]) -> Verdict:
        return Verdict.deny(404)

    assert mine(None, {}).status == 404
    with pytest.raises(ValueError, match="small letters"):
        check_adapter("Not This")


async def test_where_one_worker_does_not_start_none_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = Worker.start, []

    async def second_fails(worker: Worker, *args: Any, **more: Any) -> Hello:
        if started:
            raise WorkerGone("no room")  # while the first one is not yet there to be ended
        started.append(worker)
        return await start(worker, *args, **more)

    monkeypatch.setattr(Worker, "start", second_fails)
    own = OwnAdapters(tmp_path)
    await own.load()
    assert [worker.pid for worker in started if not worker.pid or Path(f"/proc/{worker.pid}").exists()] == []
    await own.close()
    assert own.starts == 0
    assert own.adapters == ()


async def test_a_worker_that_cannot_be_started_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def spawn(*_: Any, **__: Any) -> None:
        raise Unavailable("command 'python': not started after 10 s")

    monkeypatch.setattr("lateen.mixer.own.crew.spawn", spawn)
    own = OwnAdapters(tmp_path)
    own.bind("check", "any", {})
    await own.load()
    assert [str(problem) for problem in own.problems()] == [
        f"{tmp_path}:1: adapters do not run: the worker of adapters did not start: "
        "command 'python': not started after 10 s"
    ]
    await own.close()
