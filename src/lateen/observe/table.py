"""Draw the edges of the mesh: in place on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lateen.observe.edges import Edge

__all__ = ["Screen", "build_table"]

GOOD_RATIO = 0.999
POOR_RATIO = 0.95


class Screen:
    """Where the table is drawn. `live` redraws it in place."""

    def __init__(self, *, live: bool) -> None:
        self.live = live
        self._console = Console(file=sys.stdout, highlight=False, width=None if live else 100)
        self._live = Live(console=self._console, auto_refresh=False) if live else None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def draw(self, address: str, edges: Sequence[Edge], *, sent: int, failed: int, notes: Sequence[str]) -> None:
        """Show one state of the mesh."""
        footer = Text.assemble(
            ("open ", "dim"),
            (address, "bold cyan"),
            (f"   requests sent: {sent}, failed: {failed}   ", "dim"),
            ("Ctrl-C ends", "dim"),
        )
        self._show(Group(build_table(edges), footer, *(Text(note, style="yellow") for note in notes)))

    def draw_edges(self, edges: Sequence[Edge]) -> None:
        """Show the edges alone."""
        self._show(Group(build_table(edges)))

    def _show(self, picture: Group) -> None:
        if self._live is not None:
            self._live.update(picture, refresh=True)
        else:
            self._console.print(picture)
            sys.stdout.flush()


def build_table(edges: Sequence[Edge]) -> Table:
    """Return the table of edges: a row each, in their order."""
    table = Table(title="Lateen: who calls whom", title_justify="left", title_style="bold", expand=False)
    for name, justify in (
        ("source", "left"),
        ("destination", "left"),
        ("req/s", "right"),
        ("success", "right"),
        ("refused", "right"),
        ("p50", "right"),
        ("p90", "right"),
        ("p99", "right"),
        ("mTLS", "center"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # both are literals it takes
    for edge in edges:
        table.add_row(
            edge.source,
            edge.destination,
            _rate(edge),
            _ratio(edge.success_ratio) if edge.protocol != "tcp" else "-",
            f"{edge.refused:.0f}" if edge.refused else "-",
            _milliseconds(edge.p50_ms),
            _milliseconds(edge.p90_ms),
            _milliseconds(edge.p99_ms),
            _security(edge.mutual_tls),
        )
    if not edges:
        table.add_row("waiting for traffic", *[""] * 8, style="dim")
    return table


def _rate(edge: Edge) -> str:
    # Of bytes there are no requests: how much goes over.
    return f"{edge.requests_per_second:.1f}" if edge.protocol != "tcp" else f"{edge.bytes_per_second / 1000:.1f} kB"


def _ratio(ratio: float) -> Text:
    style = "green" if ratio >= GOOD_RATIO else "yellow" if ratio >= POOR_RATIO else "bold red"
    return Text(f"{ratio:.1%}", style=style)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def _security(mutual_tls: bool | None) -> Text:
    if mutual_tls is None:
        return Text("?", style="dim")
    return Text("yes", style="green") if mutual_tls else Text("NO", style="bold red")
