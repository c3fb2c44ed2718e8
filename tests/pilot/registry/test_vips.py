"""Virtual IPs: one for each host, for good."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from lateen.errors import BadInput
from lateen.pilot.registry.vips import ENTRY_RANGE, SERVICE_RANGE, VipTable, load_vips, save_vips


def test_an_address_is_kept_over_restarts_and_order(tmp_path: Path) -> None:
    path = tmp_path / "vips.json"
    table = load_vips(path)
    hosts = [f"s{number}.default.svc.cluster.local" for number in range(500)]
    given = {host: table.address_of(host, entry=False) for host in hosts}
    assert len(set(given.values())) == 500
    assert all(ipaddress.ip_address(address) in SERVICE_RANGE for address in given.values())
    save_vips(path, table)
    again = load_vips(path)
    assert {host: again.address_of(host, entry=False) for host in reversed(hosts)} == given
    assert not again.dirty
    assert path.stat().st_mode & 0o777 == 0o600


def test_reserved_addresses_are_not_handed_out() -> None:
    wanted = VipTable().address_of("a", entry=True)
    table = VipTable()
    table.reserve([wanted])
    assert table.address_of("a", entry=True) != wanted
    assert ipaddress.ip_address(wanted) in ENTRY_RANGE


def test_a_damaged_record_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "vips.json"
    path.write_text('{"a": 1')
    with pytest.raises(BadInput, match=r"vips\.json"):
        load_vips(path)
    assert path.read_text() == '{"a": 1'
