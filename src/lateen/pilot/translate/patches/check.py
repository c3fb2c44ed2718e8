"""What is wrong with the values of an EnvoyFilter's patches (EF-14, EF-15): told from the resource alone, offline.

`api.check_envoy_filter` judges the rest; this needs Envoy's messages, which `api` knows nothing of. A faulty
value leaves out its own patch and no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.envoy_filter import EnvoyFilter
from lateen.pilot.translate.patches.parse import ValueFault
from lateen.pilot.translate.patches.values import MESSAGES, parse_patch

__all__ = ["patch_problems"]

_FILTERS: Final = frozenset({"NETWORK_FILTER", "HTTP_FILTER", "LISTENER_FILTER"})


def patch_problems(obj: Object) -> Iterator[Problem]:
    """Yield every fault of the values that an EnvoyFilter's patches carry; nothing for other kinds."""
    if obj.key.kind != "EnvoyFilter":
        return
    spec: EnvoyFilter = obj.spec
    for position, written in enumerate(spec.config_patches):
        patch = written.patch
        if written.match is not None and written.match.context == "WAYPOINT":
            place = f"spec.configPatches[{position}].match.context"
            yield obj.problem(place, "WAYPOINT matches nothing, this mesh has no waypoints; this patch is left out")
            continue
        if patch is None or patch.value is None or written.apply_to not in MESSAGES or patch.operation == "REMOVE":
            continue
        path = f"spec.configPatches[{position}].patch.value"
        try:
            parsed = parse_patch(written.apply_to, patch.operation, patch.value, path)
        except ValueFault as fault:
            yield obj.problem(fault.path, f"{fault.reason}; this patch is left out")
            continue
        for place, name in parsed.unknown:
            yield obj.problem(place, f"{name} is not known here: it is passed on to Envoy unread", "warning")
        message, adds = parsed.message, not patch.operation.startswith("MERGE")
        if written.apply_to in _FILTERS and adds and message.WhichOneof("config_type") is None:
            yield obj.problem(path, f'filter "{message.name}" has no typed_config: Envoy needs its type', "warning")
