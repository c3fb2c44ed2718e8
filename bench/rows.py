"""A measured figure, and how figures are shown and kept."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["Row", "show", "write"]


@dataclass(frozen=True, slots=True)
class Row:
    """`unit` says what `value` is: wall_s, first_s, cpu_s (seconds), us, us_per_stream, bytes, MB, count, per_s, ..."""

    name: str
    unit: str
    value: float
    target: float | None = None  # at most that
    note: str = ""
    at_least: bool = False  # at least that, rather

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


def show(rows: list[Row], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("at most", justify="right", no_wrap=True)
    table.add_column("")
    before = ""
    for row in rows:
        verdict = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[row.met]
        target = "" if row.target is None else (">= " if row.at_least else "") + _number(row.target)
        name = "" if row.name == before else row.name
        table.add_row(name, row.unit, _number(row.value), target, " ".join(filter(None, (verdict, row.note))))
        before = row.name
    console.print(table)


def write(rows: list[Row], folder: Path, *, seconds: float, arguments: list[str]) -> Path:
    """Write one run as JSON; return its file. `latest.json` holds the same."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    found = {
        "time": now.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "arguments": arguments,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "rows": [asdict(row) | {"met": row.met} for row in rows],
    }
    text = json.dumps(found, indent=1) + "\n"
    path = folder / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(text)
    (folder / "latest.json").write_text(text)
    return path


def _number(value: float) -> str:
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
