"""How log lines look: a constant event, the facts as fields; for people by default, as JSON for programs."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import structlog

__all__ = ["configure_logging", "silent_logs"]


def configure_logging(*, json: bool = False, stream: TextIO | None = None, level: int = 20) -> None:
    """Send log lines of `level` (20 is info) and above to `stream`, standard error unless given."""
    out = stream or sys.stderr
    render: Any = (
        structlog.processors.JSONRenderer()
        if json
        else structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S.%f", utc=json),
            *([structlog.processors.format_exc_info] if json else []),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        # Not cached: a bound logger that outlives its stream would fail at the worst moment.
        cache_logger_on_first_use=False,
    )


@contextlib.contextmanager
def silent_logs() -> Iterator[None]:
    """Have nothing logged for a while: what would be said is shown otherwise."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
