"""What `lateen demo --observe` adds to the demo: configuration, a collector of traces, a Prometheus where there is one.

Decides names, ports and words; the demo starts and ends the processes.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

from lateen.demo.processes import Command
from lateen.errors import Unavailable
from lateen.settings import Settings

__all__ = ["COLLECTOR", "FILE", "PROMETHEUS", "Observing", "write_config"]

COLLECTOR: Final = "collector"
PROMETHEUS: Final = "prometheus"
FILE: Final = "observe.yaml"
METRICS_PORT: Final = 15014
PROMETHEUS_PORT: Final = 9090
EVERY: Final = "5s"  # between two scrapes: a demo is looked at
KEPT: Final = "200MB"
CONFIG_SECONDS: Final = 20.0
QUERY: Final = 'sum by (source_workload, destination_workload) (rate(istio_requests_total{reporter="source"}[1m]))'


def write_config(folder: Path, *, wanted: bool) -> None:
    """Put the demo's observability into `folder` if it is not there; not wanted, take it away unless it was changed."""
    text = files("lateen.demo.shop").joinpath(FILE).read_bytes()
    path = folder / FILE
    if wanted and not path.exists():
        path.write_bytes(text)
    elif not wanted and path.exists() and path.read_bytes() == text:
        path.unlink()


class Observing:
    """The parts, where they listen, and what is said of them. Ports that are taken are replaced by free ones."""

    def __init__(self, settings: Settings, mode: str, command: Callable[..., tuple[str, ...]]) -> None:
        """`command` returns the command line of one of Lateen's commands."""
        self._settings = settings
        self._mode = mode
        self._command = command
        self._binary = shutil.which(PROMETHEUS)
        self._metrics, self._prometheus = _free(METRICS_PORT), _free(PROMETHEUS_PORT)

    @property
    def control_plane_words(self) -> Sequence[str]:
        """Return what `lateen up` is told besides."""
        return ("--metrics-listen", f"127.0.0.1:{self._metrics}")

    def collector(self, log: Path) -> Command:
        words = ("--name", COLLECTOR, "--mode", self._mode)
        return Command(name=COLLECTOR, argv=self._command("collector", *words), log=log)

    def prometheus(self, log: Path) -> Command | None:
        """Return the command of a Prometheus that scrapes the mesh, None where there is none. Raises `Unavailable`."""
        if self._binary is None:
            return None
        folder = self._settings.state / PROMETHEUS
        folder.mkdir(mode=0o700, exist_ok=True)
        file = folder / "prometheus.yml"
        file.write_text(self._config())
        argv = (
            *(self._binary, f"--config.file={file}", f"--storage.tsdb.path={folder}/data"),
            *(f"--storage.tsdb.retention.size={KEPT}", f"--web.listen-address=127.0.0.1:{self._prometheus}"),
        )
        return Command(name=PROMETHEUS, argv=argv, log=log)

    def words(self) -> list[str]:
        """Return lines that say where to look."""
        state = f" --state {self._settings.state}"
        lateen = f"{Path(sys.executable).parent / 'lateen'}"
        found = [f"metrics of all workloads: http://127.0.0.1:{self._metrics}/sd lists them, for a Prometheus"]
        if self._binary is None:
            found.append(
                "no Prometheus on the PATH (Debian: apt-get install prometheus); elsewhere one reads "
                f"{lateen} prometheus-config --metrics 127.0.0.1:{self._metrics}"
            )
        else:
            found += [f"Prometheus: http://127.0.0.1:{self._prometheus}; try", f"  {QUERY}"]
        found += [
            f"traces: {lateen} trace{state}, and {lateen} trace ID{state}",
            f"access logs: {lateen} logs 'reviews-*' -f{state}",
        ]
        return found

    def _config(self) -> str:
        words = ("--metrics", f"127.0.0.1:{self._metrics}", "--every", EVERY)
        try:
            done = subprocess.run(
                self._command("prometheus-config", *words), capture_output=True, text=True, timeout=CONFIG_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable("the configuration of Prometheus was not there in time") from error
        if done.returncode:
            raise Unavailable(f"no configuration of Prometheus: {done.stderr.strip()}")
        return done.stdout


def _free(wanted: int) -> int:
    with contextlib.suppress(OSError):
        return _bound(wanted)
    return _bound(0)


def _bound(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        found: int = probe.getsockname()[1]
        return found
