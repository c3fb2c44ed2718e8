"""TCP filter chains that must share one listener: no two may match the same connection equally.

Envoy picks a chain by destination address, then server name, then client address, each time the most specific; two that
match equally it refuses. So of equal matches the first one stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

from lateen.pilot.model.values import TcpRoute

__all__ = ["first_of_each_match"]

Cell = tuple[str, str, str]  # server name, destination subnet, client's subnet; "" any


def first_of_each_match(chains: Iterable[TcpRoute]) -> tuple[TcpRoute, ...]:
    """Return `chains` without what earlier ones match already. One that matches everything goes last."""
    taken: set[Cell] = set()
    found: list[TcpRoute] = []
    for chain in chains:
        cells = [*product(chain.sni or ("",), chain.subnets or ("",), chain.sources or ("",))]
        free = [cell for cell in cells if cell not in taken]
        taken.update(free)
        if len(free) == len(cells):
            found.append(chain)
        else:
            found.extend(_narrowed(chain, free))
    return tuple(sorted(found, key=lambda chain: not chain.limited))


def _narrowed(chain: TcpRoute, free: Iterable[Cell]) -> Iterator[TcpRoute]:
    """Yield `chain` for what is left of its match: one for each server name and destination."""
    clients: dict[tuple[str, str], list[str]] = {}
    for name, subnet, client in free:
        clients.setdefault((name, subnet), []).append(client)
    for (name, subnet), sources in clients.items():
        yield replace(
            chain,
            sni=(name,) if name else (),
            subnets=(subnet,) if subnet else (),
            sources=tuple(source for source in sources if source),
        )
