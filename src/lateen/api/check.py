"""What a resource must satisfy beyond its shape: Istio's semantic validation, kind by kind.

In:  a decoded `Object`. Out: every fault at its field; warnings are told and change nothing.
The rules are in the `check_...` modules; their ids (VS-05, DR-28) are those of docs/api.
"""

from __future__ import annotations

from collections.abc import Iterator

from lateen.api.base import Object, Problem
from lateen.api.check_common import check_metadata
from lateen.api.kinds import kind_info

__all__ = ["check_object"]


def check_object(obj: Object) -> Iterator[Problem]:
    """Yield every fault of one resource, in no particular order."""
    yield from check_metadata(obj)
    info = kind_info(obj.key.kind)
    if info is not None:
        yield from info.check(obj)
