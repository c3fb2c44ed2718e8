"""Build the name table of one view.

In:  its rows. Out: one resource, the whole table; agents answer DNS from it. Rules: see `wire/nds.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from lateen.pilot.model.names import NameEntry
from lateen.pilot.translate.pack import resource_of
from lateen.pilot.xds.source import Resource
from lateen.wire.nds import NameInfo, build_name_table

__all__ = ["name_table"]

NAME_TABLE = "nametable"


def name_table(entries: Iterable[NameEntry]) -> Resource:
    """Return the name table of one view as a resource. Same rows, same bytes."""
    table = build_name_table(
        {
            str(entry.hostname): NameInfo(
                ips=entry.addresses,
                registry="Kubernetes" if entry.kubernetes else "External",
                shortname=entry.name if entry.kubernetes else "",
                namespace=entry.namespace if entry.kubernetes else "",
            )
            for entry in entries
        }
    )
    packed = resource_of(table)
    return Resource(NAME_TABLE, packed.version, packed.body)
