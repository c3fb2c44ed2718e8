"""The demo: a control plane, the sample shop, an ingress gateway and some traffic, on exactly the public commands.

Every part is a process of its own, so that any of them may be killed and the rest be watched going on.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lateen.demo.observing import COLLECTOR, PROMETHEUS, Observing, write_config
from lateen.demo.processes import Command, Keeper
from lateen.demo.traffic import Traffic, get
from lateen.errors import BadInput, LateenError, Refused, Unavailable
from lateen.observe.edges import Edge, Pair, Totals, edges_between, parse_metrics, total
from lateen.settings import Settings

__all__ = ["SHOP", "Demo", "DemoOptions", "fill_config", "run_demo"]

# (service, version): each runs as `python -m lateen.demo.shop.<service>`
SHOP: tuple[tuple[str, str], ...] = (
    ("ratings", "v1"),
    ("details", "v1"),
    ("reviews", "v1"),
    ("reviews", "v2"),
    ("reviews", "v3"),
    ("productpage", "v1"),
)
GATEWAY = "ingressgateway"
CONTROL_PLANE = "control-plane"
START_SECONDS = 60.0
LOOK_SECONDS = 1.0  # between two looks at the metrics
PLAIN_SECONDS = 5.0  # between two tables where the terminal cannot be redrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    config: Path | None = None  # None: a folder of the demo's own in the state folder
    gateway_port: int = 8080
    requests_per_second: float = 5.0
    mode: str = "auto"
    live: bool = True  # redraw the table in place
    certificate_lifetime: str = ""  # as `lateen up --cert-ttl` takes it
    observe: bool = False  # with traces, access logs, and a Prometheus where there is one


def fill_config(folder: Path) -> bool:
    """Put the shop's own YAML into `folder` when it holds none; return whether it did. Raises `BadInput`."""
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return False
    for item in files("lateen.demo.shop").joinpath("config").iterdir():
        if item.name.endswith(".yaml"):
            (folder / item.name).write_bytes(item.read_bytes())
    return True


async def run_demo(settings: Settings, options: DemoOptions) -> int:
    """Run the demo until SIGINT or SIGTERM; return the exit code. Leaves nothing behind but its state folder."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    demo = Demo(settings, options)
    try:
        await demo.start(stop)
        if not stop.is_set():
            await demo.show(stop)
    finally:
        await demo.end()
    return 0


class Demo:
    """One running demo."""

    def __init__(self, settings: Settings, options: DemoOptions) -> None:
        self.settings = settings
        self.options = options
        self.config = options.config or settings.state / "demo"
        self.notes: list[str] = []  # what happened, newest last
        self._keeper = Keeper(self._restarted)
        self._traffic = Traffic(options.gateway_port, options.requests_per_second)
        self._tasks: list[asyncio.Task[None]] = []
        self._totals: dict[Pair, Totals] = {}
        self._looked = time.monotonic()
        self._started = time.monotonic()
        self._first_page: float | None = None
        self._observing = Observing(settings, options.mode, self._lateen) if options.observe else None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.options.gateway_port}/productpage"

    async def start(self, stop: asyncio.Event) -> None:
        """Start everything and wait for the first page. Raises `Unavailable` when it does not come."""
        _check_port_free(self.options.gateway_port)
        self.settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        filled = fill_config(self.config)
        write_config(self.config, wanted=self.options.observe)
        _say(f"configuration: {self.config}{' (the shop, freshly written)' if filled else ''}; edit it and watch")
        self._keeper.start(self._control_plane())
        await self._wait_for(self.settings.ca_socket.exists, stop, "the control plane", CONTROL_PLANE)
        for service, version in SHOP:
            self._keeper.start(self._workload(service, version))
        self._keeper.start(self._gateway())
        if self._observing is not None:
            self._keeper.start(self._observing.collector(self._log(COLLECTOR)))
            prometheus = await asyncio.to_thread(self._observing.prometheus, self._log(PROMETHEUS))
            if prometheus is not None:
                self._keeper.start(prometheus)
        await self._wait_for(self._page_served, stop, "the first page", GATEWAY)
        if stop.is_set():
            return
        self._first_page = time.monotonic() - self._started
        _say(f"first page served after {self._first_page:.1f} s")
        for line in self._observing.words() if self._observing is not None else ():
            _say(line)
        self._tasks.append(asyncio.create_task(self._traffic.run(), name="traffic"))

    async def show(self, stop: asyncio.Event) -> None:
        """Show the edges until `stop` is set."""
        from lateen.observe.table import Screen

        screen = Screen(live=self.options.live and sys.stdout.isatty())
        gap = LOOK_SECONDS if screen.live else PLAIN_SECONDS
        with screen:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(gap):
                        await stop.wait()
                edges = await self.look()
                screen.draw(
                    self.address, edges, sent=self._traffic.sent, failed=self._traffic.failed, notes=self.notes[-3:]
                )

    async def look(self) -> list[Edge]:
        """Return what happened on every edge since the last look."""
        texts = await asyncio.gather(*(asyncio.to_thread(self._metrics, name) for name in self._names()))
        now = total(sample for text in texts for sample in parse_metrics(text))
        moment = time.monotonic()
        edges = edges_between(self._totals, now, max(moment - self._looked, 0.001))
        self._totals, self._looked = now, moment
        return edges

    async def end(self) -> None:
        """End everything: traffic, workloads, control plane, network; in this order, and wait for each."""
        _say("ending")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._keeper.stop([*self._names(), COLLECTOR, PROMETHEUS], grace_seconds=20.0)
        await self._keeper.stop([CONTROL_PLANE], grace_seconds=10.0)
        await asyncio.to_thread(_end_network, self.settings)
        shutil.rmtree(self.settings.run, ignore_errors=True)

    def _names(self) -> list[str]:
        return [*(f"{service}-{version}" for service, version in SHOP), GATEWAY]

    def _metrics(self, name: str) -> str:
        from lateen.cli.admin import ask

        try:
            return ask(self.settings, name, "/stats/mesh", sock="agent.sock").decode()
        except LateenError:
            return ""  # starting or being restarted: its numbers come back with it

    async def _page_served(self) -> bool:
        try:
            status, _ = await get(self.options.gateway_port, "/productpage")
        except (OSError, TimeoutError):
            return False
        return status == 200

    async def _wait_for(self, check: object, stop: asyncio.Event, what: str, part: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not stop.is_set():
            result = check()  # type: ignore[operator]  # one of two shapes, told apart below
            if await result if asyncio.iscoroutine(result) else result:
                return
            if time.monotonic() > deadline:
                raise Unavailable(f"{what} did not come within {START_SECONDS:.0f} s; see {self._log(part)}")
            await asyncio.sleep(0.05)

    def _restarted(self, name: str, code: int) -> None:
        self.notes.append(f"{time.strftime('%H:%M:%S')} {name} ended with {code}; started again")

    def _log(self, name: str) -> Path:
        return self.settings.state / "log" / f"{name}.log"

    def _lateen(self, command: str, *words: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "lateen", command, "--state", str(self.settings.state), *words)

    def _control_plane(self) -> Command:
        words = [str(self.config), "--network", self.options.mode]
        if self.options.certificate_lifetime:
            words += ["--cert-ttl", self.options.certificate_lifetime]
        if self._observing is not None:
            words += self._observing.control_plane_words
        return Command(name=CONTROL_PLANE, argv=self._lateen("up", *words), log=self._log(CONTROL_PLANE))

    def _workload(self, service: str, version: str) -> Command:
        name = f"{service}-{version}"
        application = (sys.executable, "-m", f"lateen.demo.shop.{service}")
        words = ["--service", service, "--version", version, "--port", "http:9080"]
        words += ["--service-account", f"bookinfo-{service}", "--mode", self.options.mode]
        return Command(
            name=name,
            argv=self._lateen("run", *words, "--", *application),
            log=self._log(name),
            env={"SERVICE_VERSION": version},
        )

    def _gateway(self) -> Command:
        listen = f"127.0.0.1:{self.options.gateway_port}:80"
        words = ["--name", GATEWAY, "--listen", listen, "--mode", self.options.mode]
        return Command(name=GATEWAY, argv=self._lateen("gateway", *words), log=self._log(GATEWAY))


def _end_network(settings: Settings) -> None:
    """Wait until the network holder is gone; it ends with its last lease."""
    from lateen.net.client import connect

    with contextlib.suppress(Unavailable):
        connect(settings).close_and_stop()


def _check_port_free(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Refused(f"port {port} on 127.0.0.1 is not free ({error.strerror}); use --gateway-port") from error


def _say(text: str) -> None:
    sys.stdout.write(f"lateen demo: {text}\n")
    sys.stdout.flush()
