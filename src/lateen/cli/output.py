"""How commands print: tables for people, JSON or YAML for programs. Colour only on a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

__all__ = ["add_output_argument", "counted", "print_data", "print_table", "styled"]


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", choices=("table", "json", "yaml"), default="table", help="how to print (default: %(default)s)"
    )


def print_data(value: Any, form: str) -> None:
    """Print plain values or message structs as `json` or `yaml`, with the names they have on the wire."""
    plain = msgspec.to_builtins(value, str_keys=True)
    if form == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n")
        return
    import yaml

    yaml.dump(plain, sys.stdout, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, indent: int = 0) -> None:
    """Print columns as wide as their content, two spaces apart, the header in capitals."""
    table = [[str(cell) for cell in row] for row in rows]
    heads = [head.upper() for head in header]
    widths = [max([len(head), *(len(row[column]) for row in table)]) for column, head in enumerate(heads)]
    pad = " " * indent
    sys.stdout.write(pad + _line(heads, widths) + "\n")
    for row in table:
        sys.stdout.write(pad + _line(row, widths) + "\n")


def counted(number: int, word: str) -> str:
    """Return `1 error`, `2 errors`: a count with its word, whose plural ends in s."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def styled(text: str, code: str) -> str:
    """Return `text` in an ANSI style such as `1` (bold) or `31` (red), on a terminal; as it is elsewhere."""
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() else text


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
