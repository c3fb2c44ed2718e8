"""The annotation that asks for `redis_proxy` on a Service or a ServiceEntry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from lateen.api.base import Object, Problem
from lateen.api.protocol import Protocol

__all__ = ["REDIS_PROXY", "check_redis_proxy"]

REDIS_PROXY: Final = "lateen.local/redis-proxy"


def check_redis_proxy(obj: Object, spoken: Iterable[Protocol]) -> Iterator[Problem]:
    """Yield the faults of the annotation, of a resource whose ports speak `spoken`."""
    written = obj.annotations.get(REDIS_PROXY)
    if written is None:
        return
    path = f"metadata.annotations[{REDIS_PROXY}]"
    if written not in ("true", "false"):
        yield obj.problem(path, f'must be "true" or "false", got "{written}"')
    elif written == "true" and Protocol.REDIS not in spoken:
        yield obj.problem(path, "acts on ports of protocol REDIS only, and there is none", "warning")
