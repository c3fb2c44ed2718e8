"""A whole mesh from the outside: the public commands as processes, looked at as a user would.

Everything is below one short folder in /tmp (socket paths are bounded); it is ended, and seen to be gone, at the end.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.ports import free_port

ECHO = Path(__file__).parent / "apps" / "echo.py"
WAIT_SECONDS = 30.0


def eventually(check: Callable[[], Any], *, seconds: float = WAIT_SECONDS, what: str = "") -> Any:
    """Return what `check` returns once that is true; fail with its last value or error after `seconds`."""
    deadline = time.monotonic() + seconds
    last: Any = None
    while True:
        try:
            last = check()
            if last:
                return last
        except (OSError, AssertionError, http.client.HTTPException, subprocess.SubprocessError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'condition'} not met within {seconds} s; last: {last!r}")
        time.sleep(0.03)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Load:
    """Requests in the background; every answer that is no 200 is kept."""

    sent: int = 0
    bad: list[str] = field(default_factory=list)


class MeshRun:
    """One mesh: its folders and its processes."""

    def __init__(self, *, network: str = "auto", extra: Sequence[str] = ()) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="lt-", dir="/tmp"))
        self.state = self.root / "s"
        self.config = self.root / "c"
        self.config.mkdir()
        self.network = network
        self.extra = list(extra)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_port()

    # ---- processes

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "lateen", words[0], "--state", str(self.state), *words[1:]]

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        log = open(self.root / f"{name}.log", "ab")  # noqa: SIM115  # the child's
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        log.close()
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(errors="replace")

    def up(self) -> None:
        self.start("up", self.command("up", str(self.config), "--network", self.network, *self.extra))
        eventually(lambda: self.run("status").returncode in (0, 1) and self.status(), what="control plane")

    def workload(
        self,
        service: str,
        version: str,
        argv: Sequence[str],
        *,
        port: str = "http:9080",
        env: Mapping[str, str] | None = None,
        words: Sequence[str] = (),
    ) -> None:
        mode = ["--mode", self.network] if self.network != "auto" else []
        ports = ["--port", port] if port else []
        self.start(
            f"{service}-{version}",
            self.command("run", "--service", service, "--version", version, *ports, *mode, *words, "--", *argv),
            env,
        )

    def gateway(self, words: Sequence[str] = ()) -> None:
        mode = ["--mode", self.network] if self.network != "auto" else []
        self.start("ingressgateway", self.command("gateway", "--listen", f"127.0.0.1:{self.port}:80", *mode, *words))

    def shop(self, *, config: bool = True) -> None:
        """Start the sample shop and its gateway, and wait until the page is served."""
        from lateen.demo.mesh import SHOP, fill_config

        if config:
            fill_config(self.config)
        self.up()
        for service, version in SHOP:
            self.workload(
                service,
                version,
                [sys.executable, "-m", f"lateen.demo.shop.{service}"],
                env={"SERVICE_VERSION": version},
                words=["--service-account", f"bookinfo-{service}"],
            )
        self.gateway()
        eventually(lambda: self.get("/productpage").status == 200, what="first page", seconds=60)
        eventually(lambda: all(w["ready"] for w in self.status()["workloads"]), what="all ready")
        eventually(lambda: len(self.reviewers(12)) == 3, what="all reviews reached")

    def stop(self, name: str, *, number: int = signal.SIGTERM, seconds: float = 20.0) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(seconds)

    def close(self) -> None:
        """End everything, gateway and workloads first; fail if anything is left."""
        order = sorted(self.processes, key=lambda name: name == "up")
        for name in order:
            if name != "up":
                self.processes[name].send_signal(signal.SIGTERM)
        for name in order:
            process = self.processes.pop(name)
            if name == "up":
                process.send_signal(signal.SIGINT)
            try:
                process.wait(25)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        try:
            eventually(lambda: not self.leftovers(), what="nothing left", seconds=15)
        finally:
            shutil.rmtree(self.root, ignore_errors=True)

    def leftovers(self) -> list[str]:
        """Return the command lines of processes that still belong to this mesh."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if str(self.root) in line:
                    found.append(f"{entry.name}: {line[:200]}")
        return found

    # ---- looking

    def run(self, *words: str, seconds: float = 20.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=seconds, check=False)

    def status(self) -> dict[str, Any]:
        result = self.run("status", "-o", "json")
        assert result.stdout, result.stderr
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    def workload_status(self, name: str) -> dict[str, Any] | None:
        return next((w for w in self.status()["workloads"] if w["name"] == name), None)

    def metrics(self, workload: str) -> str:
        """Return what `lateen metrics` prints; without its process, since tests ask until something is counted."""
        return self._ask(workload, "/stats/prometheus", "agent.sock").decode()

    def admin(self, workload: str, path: str) -> bytes:
        return self._ask(workload, path, "admin.sock")

    def _ask(self, workload: str, path: str, sock: str) -> bytes:
        from lateen.cli.admin import ask
        from lateen.errors import Unavailable
        from lateen.settings import Settings

        try:
            return ask(Settings(state=self.state), workload, path, sock=sock)
        except Unavailable as error:
            raise AssertionError(str(error)) from error

    def stat(self, workload: str, name: str) -> int:
        text = self.admin(workload, f"/stats?filter=^{name}$").decode()
        return int(text.rpartition(":")[2] or 0) if text.strip() else 0

    def get(self, path: str, headers: Mapping[str, str] | None = None, *, seconds: float = 10.0) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def reviewers(self, count: int, headers: Mapping[str, str] | None = None) -> set[str]:
        """Return which versions of reviews answered `count` requests, told by what their answers look like."""
        seen = set()
        for _ in range(count):
            answer = self.get("/api/v1/products/0/reviews", headers)
            assert answer.status == 200, answer
            rating = answer.json["reviews"][0].get("rating")
            assert rating is None or "color" in rating, rating  # ratings did not answer
            seen.add("v1" if rating is None else {"black": "v2", "red": "v3"}[rating["color"]])
        return seen

    def enter(self, workload: str) -> list[str]:
        """Return the command that runs another one in the network of a workload, seeing what its application sees."""
        info = self.workload_status(workload)
        assert info is not None
        proxy = f"/proc/{info['envoyPid']}/ns"
        # By way of the proxy: without root, the application is in a user namespace that may not enter networks.
        enter = ["nsenter", f"--net={proxy}/net", f"--mount=/proc/{info['appPid'] or info['envoyPid']}/ns/mnt"]
        if os.geteuid() != 0:
            enter += [f"--user={proxy}/user", "--preserve-credentials"]
        return enter

    def inside(
        self, workload: str, argv: Sequence[str], *, seconds: float = 20.0, feed: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the network of a workload, as its application would see it."""
        return subprocess.run(
            [*self.enter(workload), *argv], capture_output=True, timeout=seconds, check=False, input=feed
        )

    def start_inside(
        self, workload: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in the network of a workload; it belongs to the caller, who also ends it."""
        return subprocess.Popen(
            [*self.enter(workload), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )

    def wait_ready(self, *names: str) -> None:
        """Wait until these workloads are ready, and their proxies are connected."""
        eventually(
            lambda: {w["name"] for w in self.status()["workloads"] if w["ready"] and w["connected"]} >= set(names),
            what=f"{names} are ready",
        )

    def write(self, name: str, text: str) -> None:
        """Write a config file as an editor does: beside it, then renamed."""
        temporary = self.config / f".{name}.tmp"
        temporary.write_text(text)
        temporary.replace(self.config / name)

    @contextmanager
    def load(self, path: str = "/productpage", *, gap_seconds: float = 0.02) -> Iterator[Load]:
        """Send requests one after the other in the background while the body runs."""
        load, stop = Load(), threading.Event()

        def send() -> None:
            while not stop.is_set():
                try:
                    answer = self.get(path)
                    if answer.status != 200:
                        load.bad.append(f"{answer.status} {answer.body[:200]!r}")
                except (OSError, http.client.HTTPException) as error:
                    load.bad.append(repr(error))
                load.sent += 1
                stop.wait(gap_seconds)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield load
        finally:
            stop.set()
            thread.join()
