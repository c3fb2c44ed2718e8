"""A server of lines, for tasks about connections: each line comes back with a word before it.

Arguments: the word, `v1` as a rule. Environment: PORT (default 9000) and BIND (default 0.0.0.0).
"""

from __future__ import annotations

import os
import signal
import sys
from socketserver import StreamRequestHandler, ThreadingTCPServer

__all__ = ["main"]

DEFAULT_PORT = 9000
LINE_LIMIT = 64 * 1024  # bytes; a longer line comes back in pieces


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main(word: str) -> None:
    """Serve until SIGTERM."""

    class Lines(StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline(LINE_LIMIT):
                self.wfile.write(word.encode() + b" " + line)

    where = (os.environ.get("BIND", "0.0.0.0"), int(os.environ.get("PORT", DEFAULT_PORT)))  # noqa: S104  # see settings
    with _Server(where, Lines) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "v1")
