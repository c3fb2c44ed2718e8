"""Hand out the addresses of the mesh network. Pure bookkeeping; the plan itself is in docs/design/0004-network.md."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from lateen.errors import Unavailable

__all__ = ["GATEWAY", "NETWORK", "VIRTUAL", "AddressPool", "mac_address"]

NETWORK = IPv4Network("10.77.0.0/16")
GATEWAY = IPv4Address("10.77.0.1")  # the bridge
VIRTUAL = (IPv4Network("10.96.0.0/12"), IPv4Network("240.240.0.0/16"))  # service addresses: no machine has one


class AddressPool:
    """Addresses by workload name. A name gets its last address again, others the one longest unused."""

    def __init__(self, network: IPv4Network = NETWORK, taken: frozenset[IPv4Address] = frozenset({GATEWAY})) -> None:
        never = taken | {network.network_address, network.broadcast_address}
        self._fresh = (address for address in network if address not in never)
        self._free: dict[IPv4Address, str] = {}  # once used; oldest first; whose it was
        self._last: dict[str, IPv4Address] = {}
        self._held: dict[str, IPv4Address] = {}

    @property
    def held(self) -> dict[str, str]:
        """Return every name that holds an address, and the address."""
        return {name: str(address) for name, address in self._held.items()}

    def take(self, name: str) -> IPv4Address:
        """Return an address for `name`, which holds none yet. Raises `Unavailable` when all are held."""
        address = self._last.get(name)
        if address is None or address not in self._free:
            address = next(self._fresh, None) or next(iter(self._free), None)
        if address is None:
            raise Unavailable(f"no address left for {name!r}: {len(self._held)} workloads hold all there are")
        former = self._free.pop(address, None)
        if former is not None and former != name:
            del self._last[former]
        self._last[name] = self._held[name] = address
        return address

    def free(self, name: str) -> None:
        """Take the address of `name` back."""
        self._free[self._held.pop(name)] = name


def mac_address(address: IPv4Address) -> bytes:
    """Return the link address that goes with `address`: always the same, so that no neighbour table grows stale."""
    return b"\x02\x4c" + address.packed
