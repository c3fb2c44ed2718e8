"""`lateen logs WORKLOAD ...`: access logs of proxies as they are written, or what Envoy itself has to say."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from lateen.cli.admin import ask, known_workloads
from lateen.cli.units import parse_duration_argument
from lateen.errors import BadInput, LateenError
from lateen.observe.loglines import Line, merge_lines, printable, whole_lines
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]

ACCESS_LOG: Final = "access.log"
ENVOY_LOG: Final = "envoy.log"
LAST: Final = 50
LOOK_SECONDS: Final = 0.2
CHUNK_BYTES: Final = 1 << 20
HOW: Final = """\
lateen logs: no proxy that was named writes an access log. This file in the configuration's folder makes all of them do:

apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: access-logs, namespace: istio-system}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "workloads", nargs="+", metavar="WORKLOAD", help="name, or pattern such as 'reviews-*'; may be several"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is written, until Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, metavar="N", help=f"only the last ones (default: {LAST}; -1: all)")
    parser.add_argument("--since", metavar="DURATION", type=parse_duration_argument, help="only the last 10m, say")
    parser.add_argument("--envoy", action="store_true", help="Envoy's own log instead of the access log")
    parser.add_argument("--no-prefix", action="store_true", help="of several workloads: lines as they are")


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env(state=options.state)
    if options.lines is not None and options.lines < -1:
        raise BadInput(f"--lines must be -1 or more, got {options.lines}")
    names = _chosen(settings, options.workloads)
    if not names and not (options.follow and _patterns(options.workloads)):
        raise BadInput(f"no workload is called as {' '.join(map(repr, options.workloads))}")
    file = ENVOY_LOG if options.envoy else ACCESS_LOG
    tails = {name: _Tail(name, settings.workload_dir(name) / file) for name in names}
    since = time.time() - options.since.total_seconds() if options.since is not None else 0.0
    last = options.lines if options.lines is not None else None if options.since is not None else LAST
    lines = merge_lines({name: tail.before() for name, tail in tails.items()}, since=since, last=_count(last))
    several = len(names) > 1 or _patterns(options.workloads)
    out = _Out(prefix=several and not options.no_prefix)
    out.write(lines)
    if not lines and not options.envoy and names and not any(_writes(settings, name) for name in names):
        sys.stderr.write(HOW)
    while options.follow:
        time.sleep(LOOK_SECONDS)
        for name in _chosen(settings, options.workloads, strict=False):
            tails.setdefault(name, _Tail(name, settings.workload_dir(name) / file))
        out.write(merge_lines({name: tail.more() for name, tail in tails.items()}))
    return 0


def _count(last: int | None) -> int | None:
    return None if last == -1 else last


def _patterns(words: Iterable[str]) -> bool:
    return any(character in word for word in words for character in "*?[")


def _chosen(settings: Settings, words: Iterable[str], *, strict: bool = True) -> list[str]:
    """Return the workloads that are named, sorted. Raises `BadInput` for a name that none has."""
    known = known_workloads(settings)
    found: set[str] = set()
    for word in words:
        matching = fnmatch.filter(known, word)
        if not matching and not _patterns([word]) and strict:
            raise BadInput(f"no workload {word!r} runs on this machine; there are: {', '.join(known) or 'none'}")
        found.update(matching)
    return sorted(found)


def _writes(settings: Settings, name: str) -> bool:
    """Tell whether a proxy's listeners have an access log that is kept here."""
    try:
        held = ask(settings, name, "/config_dump?resource=dynamic_listeners")
    except LateenError:
        return True  # it cannot say: nothing is claimed
    return b'"/dev/stdout"' in held or b"StdoutAccessLog" in held


class _Out:
    def __init__(self, *, prefix: bool) -> None:
        self._prefix = prefix
        self._plain = not sys.stdout.isatty()
        self._width = 0

    def write(self, lines: Iterable[Line]) -> None:
        for line in lines:
            text = line.text if self._plain else printable(line.text)
            if self._prefix:
                self._width = max(self._width, len(line.workload))
                text = f"{line.workload.ljust(self._width)} | {text}"
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class _Tail:
    """One file, of which the agent moves the older part to `FILE.1` and empties the rest now and then."""

    def __init__(self, workload: str, path: Path) -> None:
        self._workload = workload
        self._path = path
        self._older = path.with_name(f"{path.name}.1")
        self._at = 0
        self._inode = 0
        self._rest = b""
        self._moment = 0.0

    def before(self) -> list[Line]:
        """Return the lines that are there now."""
        try:
            older = self._older.read_bytes()
        except OSError:
            older = b""
        lines, _ = whole_lines(self._workload, older)
        self._moment = lines[-1].moment if lines else 0.0
        return lines + self.more()

    def more(self) -> list[Line]:
        """Return the lines that were written since."""
        lines: list[Line] = []
        try:
            with open(self._path, "rb") as file:
                size, inode = file.seek(0, 2), self._path.stat().st_ino
                if size < self._at or inode != self._inode:
                    self._at, self._rest, self._inode = 0, b"", inode  # emptied, or of another run
                file.seek(self._at)
                while chunk := file.read(CHUNK_BYTES):
                    self._at += len(chunk)
                    found, self._rest = whole_lines(self._workload, self._rest + chunk, moment=self._moment)
                    self._moment = found[-1].moment if found else self._moment
                    lines += found
        except OSError:
            pass  # it does not write yet, or has left
        return lines
