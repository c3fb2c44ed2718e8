"""Virtual IPs for services that have none of their own.

An address is a matter of record: once handed out it is kept, over restarts and whatever else comes and goes, because
clients cache names. Where a host starts to look for a free one is a hash of its name, so two meshes with the same
services mostly agree.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import structlog

from lateen.errors import BadInput, Unavailable
from lateen.wire.files import write_atomically

__all__ = ["ENTRY_RANGE", "SERVICE_RANGE", "VipTable", "load_vips", "save_vips"]

SERVICE_RANGE = ipaddress.ip_network("10.96.0.0/12")  # Kubernetes' own default for Services
ENTRY_RANGE = ipaddress.ip_network("240.240.0.0/16")  # Istio's range for ServiceEntries

log = structlog.get_logger(__name__)


class VipTable:
    """Addresses by hostname. Not thread-safe; owned by the control plane's loop."""

    def __init__(self, taken: Mapping[str, str] | None = None) -> None:
        self._by_host = dict(taken or {})
        self._used = set(self._by_host.values())
        self.dirty = False  # something was handed out that is not saved yet

    def reserve(self, addresses: Iterable[str]) -> None:
        """Never hand out `addresses`: resources name them themselves."""
        self._used.update(addresses)

    def address_of(self, hostname: str, *, entry: bool) -> str:
        """Return the address of `hostname`, the same for ever. `entry`: from the range of ServiceEntries.

        Raises `Unavailable` when the range has none left.
        """
        known = self._by_host.get(hostname)
        if known is not None:
            return known
        network = ENTRY_RANGE if entry else SERVICE_RANGE
        usable = network.num_addresses - 2  # neither the network's own address nor the last
        start = int.from_bytes(hashlib.blake2b(hostname.encode(), digest_size=8).digest(), "big")
        for step in range(usable):
            address = str(network.network_address + 1 + (start + step) % usable)
            if address not in self._used:
                self._by_host[hostname] = address
                self._used.add(address)
                self.dirty = True
                return address
        raise Unavailable(f"no virtual IP left in {network} for {hostname}")

    def table(self) -> dict[str, str]:
        return dict(sorted(self._by_host.items()))


def load_vips(path: Path) -> VipTable:
    """Read the record; an absent one is empty. Raises `BadInput` when it is not what `save_vips` wrote."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return VipTable()
    try:
        return VipTable(msgspec.json.decode(data, type=dict[str, str]))
    except msgspec.DecodeError as error:
        raise BadInput(
            f"{path}: not a record of virtual IPs ({error}); restore it, or remove it with the mesh stopped"
        ) from error


def save_vips(path: Path, table: VipTable) -> None:
    """Write the record when it changed. Raises `OSError`."""
    if table.dirty:
        write_atomically(path, msgspec.json.format(msgspec.json.encode(table.table()), indent=1))
        table.dirty = False
