"""What Envoy asks of a rate limit service, as attributes: `envoy.service.ratelimit.v3.RateLimitRequest`.

An entry of a descriptor is in `request.descriptors`, under its key; one whose key is the name of an attribute that
a request's own proxy could tell (`request.path`, `request.headers["x-client"]` by `x-client`) is that attribute, too.
Identities are not among them: a descriptor is text that may come from anywhere, a header for instance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from lateen.errors import BadInput
from lateen.mixer.services.asker import Asking
from lateen.mixer.services.checks import now
from lateen.mixer.services.places import Bag, Filler, Reads

__all__ = ["DescriptorFiller", "DescriptorView", "Question"]

MAX_DESCRIPTORS: Final = 64
MAX_ENTRIES: Final = 64


class DescriptorView:
    """One descriptor."""

    __slots__ = ("asking", "entries")

    def __init__(self, asking: Asking, entries: Mapping[str, str]) -> None:
        self.asking = asking
        self.entries = entries


class Question:
    """One call: the domain, what each descriptor says, and by how much each counts."""

    __slots__ = ("bags", "domain", "hits")

    def __init__(self, domain: str, bags: list[Bag], hits: list[int]) -> None:
        self.domain = domain
        self.bags = bags
        self.hits = hits


class DescriptorFiller:
    """Makes attributes of descriptors, as far as rules with these reads need them."""

    def __init__(self, reads: Reads) -> None:
        self._filler: Filler[DescriptorView] = Filler(_PLAIN, _MAPS, tuple(reads))

    def __call__(self, data: bytes, asking: Asking) -> Question:
        """Raises `BadInput`."""
        try:
            request = RateLimitRequest.FromString(data)
        except Exception as error:  # protobuf's own, whatever the bytes are
            raise BadInput(f"no RateLimitRequest: {error}") from error
        if not request.domain:
            raise BadInput("a RateLimitRequest without a domain")
        if len(request.descriptors) > MAX_DESCRIPTORS:
            raise BadInput(f"{len(request.descriptors)} descriptors, at most {MAX_DESCRIPTORS} wanted")
        bags, hits = [], []
        for descriptor in request.descriptors:
            if len(descriptor.entries) > MAX_ENTRIES:
                raise BadInput(f"{len(descriptor.entries)} entries of a descriptor, at most {MAX_ENTRIES} wanted")
            entries = {entry.key: entry.value for entry in descriptor.entries}
            bags.append(self._filler(DescriptorView(asking, entries)))
            own = descriptor.hits_addend.value if descriptor.HasField("hits_addend") else request.hits_addend
            hits.append(own or 1)  # 0 is a number nobody wrote
        return Question(request.domain, bags, hits)


def _entry(name: str) -> Callable[[DescriptorView], str | None]:
    return lambda view: view.entries.get(name)


def _size(view: DescriptorView) -> int | None:
    text = view.entries.get("request.size", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def _entries(view: DescriptorView, keys: frozenset[str] | None) -> dict[str, str]:
    return {name: value for name, value in view.entries.items() if keys is None or name in keys}


def _service(part: str) -> Callable[[DescriptorView], str | None]:
    return lambda view: getattr(view.asking.service, part) or None


_TEXTS: Final = (
    *("request.path", "request.url_path", "request.host", "request.method", "request.scheme", "request.id"),
    *("request.useragent", "request.referer", "api.operation"),
)
_PLAIN: Final[dict[str, Callable[[DescriptorView], Any]]] = {
    **{name: _entry(name) for name in _TEXTS},
    "request.size": _size,
    "destination.service.host": _service("host"),
    "destination.service.name": _service("name"),
    "destination.service.namespace": _service("namespace"),
    "destination.principal": lambda view: str(view.asking.identity) if view.asking.identity is not None else None,
    "destination.namespace": lambda view: view.asking.identity.namespace if view.asking.identity is not None else None,
    "context.reporter.kind": lambda view: view.asking.asker.kind,
    "context.reporter.uid": lambda view: view.asking.uid,
    "context.protocol": lambda _: "http",
    "context.time": lambda _: now(),
}
_MAPS: Final = {"request.descriptors": _entries, "request.headers": _entries}
