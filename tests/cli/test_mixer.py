"""`lateen mixer test`, and `lateen mixer serve` with a plain Envoy that knows no control plane."""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.harness import ECHO, eventually
from tests.fakes.ports import free_port

from lateen.cli import main
from lateen.mixer.court import RuleCourt
from lateen.mixer.services.answers import Outcome
from lateen.wire.envoy import find_envoy

RULES = """
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {name: no-interns, namespace: shop}
spec:
  match: '"interns" in request.auth.claims.groups'
  check: {deny: {status: 403, body: no interns}}
---
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {name: two, namespace: shop}
spec:
  quota: {limit: 2, per: 1h, by: ['request.headers["x-client"]']}
---
apiVersion: mixer.lateen.io/v1alpha1
kind: Rule
metadata: {name: who, namespace: shop}
spec:
  check: {headers: {request: {set: {x-who: 'request.headers["x-client"]'}}}}
"""
TRIALS = """
name: an intern
request: {auth: {claims: {groups: [interns]}}}
expect: 403
---
request.headers: {x-client: a}
response.duration: 1.5s
expect: allow
---
request.headers: {x-client: a}
expect: deny
"""
PAGE = Path(__file__).parent.parent.parent / "docs" / "mixer" / "any-envoy.md"


def run(*words: str) -> int:
    try:
        return main(["mixer", *words])
    except SystemExit as left:
        return int(left.code or 0)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "a.yaml").write_text(RULES)
    (tmp_path / "a.yaml").write_text(TRIALS)
    return tmp_path / "rules", tmp_path / "a.yaml"


def test_trials_are_decided_and_held_to_what_is_expected(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("test", "-f", str(files[0]), "--attributes", str(files[1]), "-o", "json") == 2
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [(one["name"], one["allowed"], one["status"], one["rule"], one["expected"]) for one in trials] == [
        ("an intern", False, 403, "shop/no-interns", True),
        ("2", True, 0, "", True),
        ("3", True, 0, "", False),
    ]
    assert trials[1]["requestHeaders"] == {"x-who": "a"}
    files[1].write_text(TRIALS.replace("expect: deny", "expect: allow"))
    assert run("test", "-f", str(files[0]), "--attributes", str(files[1])) == 0
    assert "denied 403" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rules", "trials", "words"),
    [
        (RULES, "request.tim: x", "document 1: there is no attribute request.tim"),
        (RULES, "[1]", "document 1: a mapping of attributes is wanted"),
        (RULES, "expect: perhaps", "allow, deny or a status is wanted, got 'perhaps'"),
        (RULES, "response.duration: long", "document 1: response.duration"),
        (RULES.replace("auth.claims", "auth.klaims"), TRIALS, "a.yaml:6: spec.match"),
        ("", TRIALS, "holds no Rule"),
    ],
)
def test_what_cannot_be_read_is_told(
    files: tuple[Path, Path], rules: str, trials: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files[0] / "a.yaml").write_text(rules)
    files[1].write_text(trials)
    assert run("test", "-f", str(files[0]), "--attributes", str(files[1])) == 1
    assert words in capsys.readouterr().err


def explained(capsys: pytest.CaptureFixture[str], folder: Path, name: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run("explain", name, "-f", str(folder), "-o", "json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_where_parts_of_rules_run_is_explained(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    told = explained(capsys, files[0], "no-interns")
    assert told["rule"] == "shop/no-interns"
    (part,) = told["parts"]
    assert (part["traffic"], part["part"], part["runs"]) == ("requests", "check.deny", "Envoy")
    assert part["condition"].startswith('("interns" in metadata.filter_metadata')
    (part,) = explained(capsys, files[0], "shop/two")["parts"]
    assert (part["part"], part["runs"], part["why"]) == ("quota", "Mixer", "its count is one for all proxies")
    assert run("explain", "two", "-f", str(files[0])) == 0
    assert "its count is one for all proxies" in capsys.readouterr().out
    assert run("explain", "three", "-f", str(files[0])) == 1
    assert "there are shop/no-interns, shop/two, shop/who" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "runs", "why"),
    [
        ("{match: source.ip == 'x', check: {deny: {}}}", ["Mixer", "Envoy"], "after X-Forwarded-For"),
        ("{match: 'request.query_params.a == \"b\"', check: {deny: {}}}", ["Mixer"], "does not take queries apart"),
        ("{match: 'request.auth.claims.g.exists(g, g == \"b\")', check: {deny: {}}}", ["Mixer"], "goes over a list"),
        (
            "{match: 'request.path.matches(\"^(a.b.c.d.e.f.g.h)$\")', check: {deny: {}}}",
            ["Mixer"],
            "too large a pattern",
        ),
        ("{match: 'request.path.matches(\"[\")', check: {deny: {}}}", ["Mixer"], "is no pattern"),
        (
            "{match: 'request.headers[request.path] == \"a\"', check: {deny: {}}}",
            ["Mixer"],
            "a name that is worked out",
        ),
        ("{match: size(request.headers) > 3, check: {deny: {}}}", ["Mixer"], "looks at all of request.headers"),
        ('{match: \'request.headers[":path"] == "a"\', check: {deny: {}}}', ["Mixer"], "none of HTTP's"),
        ("{check: {list: {value: request.auth.claims.a, values: [a]}}}", ["Mixer"], "whether there is a value"),
        ("{check: {list: {value: source.principal, values: [a]}}}", ["Envoy", "Envoy"], "and its list"),
        ("{check: {list: {value: request.path, file: a.txt}}}", ["Mixer"], "changes without the rule"),
        ("{check: {deny: {}, headers: {request: {remove: [a]}}}}", ["Envoy", "Envoy", "Envoy", "Envoy"], "Envoy can"),
        ("{check: {headers: {request: {remove: [a]}}}}", ["Mixer", "Mixer"], "worked out by Mixer"),
    ],
)
def test_why_a_rule_runs_where_it_runs(
    tmp_path: Path, spec: str, runs: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(RULE.format(name="it", spec=spec))
    parts = explained(capsys, tmp_path, "it")["parts"]
    assert [part["runs"] for part in parts] == runs
    assert why in parts[0]["why"]


def test_rules_that_allow_are_explained_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = RULE.format(name="asked", spec="{match: 'request.query_params.a == \"b\"', check: {allow: {}}}")
    (tmp_path / "a.yaml").write_text(
        asked + RULE.format(name="it", spec="{match: source.port > 1, check: {allow: {}}}")
    )
    (tmp_path / "b.yaml").write_text(RULE.format(name="own", spec="{match: connection.mtls, check: {allow: {}}}"))
    requests, connections = explained(capsys, tmp_path, "own")["parts"]
    assert (requests["runs"], connections["runs"]) == ("Mixer", "Envoy")
    assert requests["why"].startswith("any/asked also allows")


ADAPTER = """
from collections.abc import Mapping
from typing import Any
from lateen.adapters import Verdict, check_adapter

@check_adapter("teapot")
def teapot(params: None, values: Mapping[str, Any]) -> Any:
    \"\"\"Refuse teapots.\"\"\"
    if values.get("path") == "/broken":
        raise ValueError("broken")
    return Verdict.deny(418 - 9, "tea") if values.get("path") == "/tea" else True

@check_adapter("nobody")
async def nobody(params: None, values: Mapping[str, Any]) -> bool:
    return False
"""
TEAPOT = "{timeout: 2s, check: {adapter: {name: teapot, values: {path: request.url_path}}}}"


def test_adapters_are_listed_and_tried(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir(mode=0o700)
    (folder / "tea.py").write_text(ADAPTER)
    assert run("adapters", "--adapters", str(folder), "-o", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["kind"], one["line"], one["doc"]) for one in told["own"]] == [
        ("teapot", "check", 6, "Refuse teapots."),
        ("nobody", "check", 13, ""),
    ]
    assert {"deny", "list", "webhook", "opa", "quota", "metric"} <= {one["name"] for one in told["inTheBox"]}
    (files[0] / "a.yaml").write_text(RULE.format(name="deny", spec=TEAPOT))
    files[1].write_text("{request.url_path: /tea, expect: 409}\n---\n{request.url_path: /, expect: allow}\n")
    assert run("test", "-f", str(files[0]), "--attributes", str(files[1]), "--adapters", str(folder)) == 0
    (folder / "broken.py").write_text("import nothing_like_this\n")
    capsys.readouterr()
    assert run("adapters", "--adapters", str(folder)) == 1
    shown = capsys.readouterr()
    assert "teapot" in shown.out
    assert "broken.py:1: gives no adapter: ModuleNotFoundError" in shown.err


def test_no_server_is_asked(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a list either, however long the rest takes: its rule's failurePolicy decides."""
    asked: list[str] = []

    async def get(_: object, url: str, *__: object) -> None:
        asked.append(url)

    # Seen where it would leave: loopback is refused a step later, whatever was wanted of it.
    monkeypatch.setattr("lateen.fetch.Fetcher.get", get)
    monkeypatch.setattr("lateen.fetch.Caller.post", get)
    folder = tmp_path / "adapters"
    folder.mkdir(mode=0o700)
    (folder / "slow.py").write_text(
        "import time\nfrom lateen.adapters import check_adapter\n"
        "@check_adapter('slow')\ndef slow(params: None, values: dict) -> bool:\n    time.sleep(1)\n    return True\n"
    )
    url = "https://decisions.example/now"
    parts = {
        "slow": "{timeout: 5s, check: {adapter: {name: slow, values: {path: request.url_path}}}}",
        "opa": f"{{check: {{opa: {{url: '{url}', input: {{path: request.url_path}}}}}}}}",
        "list": f"{{failurePolicy: open, check: {{list: {{value: source.ip, url: '{url}', deny: PRESENT}}}}}}",
    }
    for name, spec in parts.items():
        (files[0] / f"{name}.yaml").write_text(RULE.format(name=name, spec=spec))
    files[1].write_text("{request.url_path: /, expect: allow}\n")
    tried = ("test", "-f", str(files[0]), "--attributes", str(files[1]), "--adapters", str(folder))
    assert run(*tried) == 0
    (files[0] / "list.yaml").write_text(RULE.format(name="list", spec=parts["list"].replace("open", "closed")))
    files[1].write_text("{request.url_path: /, expect: 503}\n")
    assert run(*tried) == 0
    assert asked == []


def test_what_runs_has_ended_before_anything_is_closed(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a worker of adapters that is just being started is not there to be ended, and nobody waits for it."""
    order: list[str] = []
    close = RuleCourt.close

    async def running(_: RuleCourt) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            order.append("ended")

    async def closing(court: RuleCourt) -> None:
        order.append("closing")
        await close(court)

    async def check(*_: Any, **__: Any) -> Outcome:
        await asyncio.sleep(0)
        return Outcome()

    monkeypatch.setattr(RuleCourt, "run", running)
    monkeypatch.setattr(RuleCourt, "close", closing)
    monkeypatch.setattr("lateen.mixer.engine.Engine.check", check)
    run("test", "-f", str(files[0]), "--attributes", str(files[1]))
    assert order == ["ended", "closing"]


# ---------------------------------------------------------------- any Envoy


class Stand:
    """Mixer with a folder of rules, the Envoy of the documents before a server, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in ("http", "tcp", "app", "mixer", "metrics")}
        (folder / "rules").mkdir()
        (folder / "adapters").mkdir(mode=0o700)
        (folder / "adapters" / "tea.py").write_text(ADAPTER)

    def get(self, path: str = "/", **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=5)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def rules(self, text: str) -> None:
        (self.folder / "rules" / "rules.yaml").write_text(text)


@contextmanager
def stand(folder: Path) -> Iterator[Stand]:
    made = Stand(folder)
    ports = made.ports
    text = next(block for block in PAGE.read_text().split("```") if block.startswith("yaml envoy")).partition("\n")[2]
    for name, written in (("http", 8080), ("tcp", 8081), ("app", 9080), ("mixer", 9091)):
        text = text.replace(str(written), str(ports[name]))
    (folder / "envoy.yaml").write_text(text)
    listen = ["--listen", f"127.0.0.1:{ports['mixer']}", "--metrics", f"127.0.0.1:{ports['metrics']}"]
    rules = ["--rules", str(folder / "rules"), "--logs", str(folder), "--adapters", str(folder / "adapters")]
    quiet = ["--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    commands: list[list[str]] = [
        [sys.executable, "-m", "lateen", "mixer", "serve", *rules, *listen],
        [str(find_envoy()), "-c", str(folder / "envoy.yaml"), *quiet],
        [sys.executable, str(ECHO)],
    ]
    running: list[subprocess.Popen[bytes]] = []
    with (folder / "log").open("wb") as log:
        try:
            for command in commands:
                env: dict[str, Any] = {"PORT": str(ports["app"]), "BIND": "127.0.0.1", "PATH": "/usr/bin:/bin"}
                running.append(subprocess.Popen(command, stdout=log, stderr=log, env=env))
            eventually(lambda: made.get()[0] == 200, what=f"a first page; {folder}/log says more")
            yield made
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(10)


RULE = (
    "apiVersion: mixer.lateen.io/v1alpha1\nkind: Rule\nmetadata: {{name: {name}, namespace: any}}\nspec: {spec}\n---\n"
)
DENY = "{match: request.url_path == '/no', check: {deny: {status: 409, body: not here}}}"
LOG = "{report: {log: {file: told.jsonl, fields: {path: request.path, code: response.code}}}}"


@pytest.mark.envoy
def test_any_envoy_may_ask(tmp_path: Path) -> None:
    """Checks of requests and connections, rate limits, access logs, with the bootstrap of docs/mixer/any-envoy.md."""
    with stand(tmp_path) as made:
        made.rules(
            RULE.format(
                name="deny", spec="{match: request.url_path == '/no', check: {deny: {status: 409, body: not here}}}"
            )
            + RULE.format(name="limit", spec="{quota: {limit: 3, per: 1h, by: ['request.descriptors[\"client\"]']}}")
            + RULE.format(name="log", spec=LOG)
        )
        eventually(lambda: made.get("/no") == (409, b"not here"), what="the rule acts")
        # By the rate limit service: three for each client, by the header that the page says.
        statuses = [made.get(x_client="a")[0] for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        assert made.get(x_client="b")[0] == 200
        told = tmp_path / "told.jsonl"

        def lines() -> list[dict[str, Any]]:
            made.get("/seen")
            return [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []

        assert eventually(lambda: {"/no", "/seen"} <= {line["path"] for line in lines()}, what="lines")
        made.rules(RULE.format(name="closed", spec="{match: source.ip == '127.0.0.1', check: {deny: {}}}"))

        def bytes_refused() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", made.ports["tcp"], timeout=5)
            try:
                connection.request("GET", "/")
                return connection.getresponse().status == 0
            except OSError:
                return True
            finally:
                connection.close()

        eventually(bytes_refused, what="connections are refused")
        # And by functions of one's own, requests as well as connections.
        made.rules(RULE.format(name="deny", spec=TEAPOT))
        eventually(lambda: made.get("/tea") == (409, b"tea"), what="the function decides")
        assert [made.get(path)[0] for path in ("/", "/broken", "/tea")] == [200, 503, 409]
        made.rules(RULE.format(name="deny", spec="{failurePolicy: open, " + TEAPOT[1:]))
        eventually(lambda: made.get("/broken")[0] == 200, what="who cannot be decided about passes")
        assert not bytes_refused()
        made.rules(RULE.format(name="closed", spec="{timeout: 2s, check: {adapter: {name: nobody}}}"))
        eventually(bytes_refused, what="connections are refused by a function")
        metrics = http.client.HTTPConnection("127.0.0.1", made.ports["metrics"], timeout=5)
        metrics.request("GET", "/metrics")
        assert b'mixer_rule_checks_total{rule="any/deny",result="denied"}' in metrics.getresponse().read()
        metrics.close()
