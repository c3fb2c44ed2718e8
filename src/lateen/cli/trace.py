"""`lateen trace [ID]`: the traces that `lateen collector` has seen last, and one of them as a waterfall."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import urlencode

from lateen.cli.admin import get_unix
from lateen.cli.output import print_data
from lateen.errors import BadInput, Unavailable
from lateen.settings import Settings

__all__ = ["add_arguments", "run"]

# A trace's id or its beginning, or a request's as access logs tell it.
ID = re.compile(r"[0-9a-f]{0,32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "id",
        nargs="?",
        default="",
        help="of a trace, or its beginning, or a request's x-request-id; none: the newest traces",
    )
    parser.add_argument("-n", "--limit", type=int, default=20, help="how many are listed (default: %(default)s)")
    parser.add_argument("--service", default="", help="only traces in which this service has a part")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="(default: %(default)s)")
    parser.add_argument("--collector", metavar="SOCKET", help="of another collector (default: run/traces.sock)")


def run(options: argparse.Namespace) -> int:
    settings = Settings.from_env(state=options.state)
    path = Path(options.collector) if options.collector else settings.traces_socket
    trace_id = options.id.lower()
    if not ID.fullmatch(trace_id):
        raise BadInput(f"a trace's id of up to 32 hexadecimal digits wanted, or an x-request-id, got {options.id!r}")
    if not 1 <= options.limit <= 1000:
        raise BadInput(f"--limit must be between 1 and 1000, got {options.limit}")
    if not trace_id:
        query = urlencode({"limit": options.limit, "service": options.service})
        _, body = _ask(path, f"/traces?{query}")
        return _list(body, options.output)
    status, body = _ask(path, f"/traces/{trace_id}")
    if status == 404:
        raise BadInput(f"no trace {trace_id!r}: it was not sampled, has not been reported yet, or is too old")
    if status == 300:
        _list(body, options.output)
        raise BadInput(f"several traces are meant by {trace_id!r}; the whole id of one wanted")
    _show(body, options.output)
    return 0


def _list(body: bytes, output: str) -> int:
    # Imported here: the messages of traces cost a tenth of a second, which no other command should pay.
    import msgspec

    from lateen.observe.traces import Summary
    from lateen.observe.waterfall import list_data, list_text

    found = msgspec.json.decode(body, type=list[Summary])
    if output == "json":
        print_data(list_data(found), "json")
    elif found:
        sys.stdout.write(list_text(found))
    else:
        sys.stdout.write("no trace was reported yet; docs/observability.md says how tracing is switched on\n")
    return 0


def _show(body: bytes, output: str) -> None:
    import msgspec

    from lateen.observe.spans import Span
    from lateen.observe.waterfall import trace_data, trace_text

    spans = msgspec.json.decode(body, type=tuple[Span, ...])
    if output == "json":
        print_data(trace_data(spans), "json")
    else:
        sys.stdout.write(trace_text(spans, width=shutil.get_terminal_size((120, 24)).columns))


def _ask(path: Path, query: str) -> tuple[int, bytes]:
    try:
        return get_unix(path, query)
    except OSError as error:
        raise Unavailable(
            f"no collector at {path}: {error.strerror or error}; 'lateen collector' or 'lateen demo --observe' is one"
        ) from error
