"""The argument of commands that may use a Redis: its URL, which may hold a password."""

from __future__ import annotations

import argparse
import os

from lateen.wire.mixer import REDIS_VARIABLE

__all__ = ["add_redis_argument", "redis_of"]


def add_redis_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--redis",
        metavar="URL",
        default="",
        help="redis://[user:password@]host:port/db, rediss://... or unix://path: where rules' shared quotas are kept; "
        f"with a password better in {REDIS_VARIABLE}, which nobody sees in a list of processes (default: nowhere)",
    )


def redis_of(options: argparse.Namespace) -> str:
    """Return the URL, "" where there is none."""
    found: str = options.redis or os.environ.get(REDIS_VARIABLE, "")
    return found
