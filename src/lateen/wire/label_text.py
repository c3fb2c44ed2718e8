"""The labels of a standard metric as one text: Envoy writes it for each metric of each request, readers take it apart.

What Envoy counts has one label, `labels`. A label more costs it a format, two names in its table of symbols and a part
of every lookup; a field of a text costs a copy. Readers give fields their names again: `agent.standard_metrics`.

A field may be what somebody outside says: a Host header, what a peer's proxy tells, the names in its certificate.
`SEPARATOR` and `KNOWN` are control characters, and Envoy takes no header that holds one, so a header stays one field.
Names in a certificate may hold anything that its authority signs, so the peer's are last but for what the peer says.
Neither is one of those that end a line for Python's `splitlines` and others, as some control characters do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["KNOWN", "LABELS", "SEPARATOR", "SERVICE", "UNLISTED", "fields_of", "labels_format", "pack_service"]

LABELS: Final = "labels"  # the label's name in Envoy
SEPARATOR: Final = "\x1f"
# Begins what Pilot says of a service, `pack_service`; without it a text is a host as it was asked for.
KNOWN: Final = "\x02"
SERVICE: Final = "service"  # field: three labels in one
UNLISTED: Final = "unlisted"  # field: name of the service that stands for all that are not in the registry

_FIRST: Final = (
    "reporter",
    "request_protocol",
    "connection_security_policy",
    "response_code",
    "response_flags",
    "grpc_response_status",
    UNLISTED,
    SERVICE,
)
# By reporter, its own certificate before the other one's.
_ORDER: Final[Mapping[str, tuple[str, ...]]] = {
    "source": (*_FIRST, "peer", "source_principal", "destination_principal"),
    "destination": (*_FIRST, "destination_principal", "source_principal", "peer"),
}


def pack_service(*, host: str, name: str, namespace: str) -> str:
    """Return a service as one text, `host|name|namespace`."""
    return f"{host}|{name}|{namespace}"


def labels_format(formats: Mapping[str, str]) -> str:
    """Return the format of the text of some fields, each given by its format; `reporter` is one of them."""
    return SEPARATOR.join(formats.get(field, "") for field in _ORDER[formats["reporter"]])


def fields_of(text: str) -> dict[str, str]:
    """Return the fields that are not empty, with a service's three labels in place of it.

    `peer` is a text of its own: `peer_env.unpack_peer`. A text that nobody writes gives no fields.
    """
    order = _ORDER.get(text.partition(SEPARATOR)[0])
    if order is None:
        return {}
    fields = {field: value for field, value in zip(order, text.split(SEPARATOR, len(order) - 1), strict=False) if value}
    service, unlisted = fields.pop(SERVICE, ""), fields.pop(UNLISTED, "")
    if service.startswith(KNOWN):
        host, _, rest = service.removeprefix(KNOWN).partition("|")
        name, _, namespace = rest.partition("|")
    else:
        host, name, namespace = service, unlisted, ""
    told = {
        "destination_service": host,
        "destination_service_name": name or unlisted,
        "destination_service_namespace": namespace,
    }
    return fields | {name: value for name, value in told.items() if value}
