"""What extension providers must satisfy beyond their shape.

A faulty provider does not refuse the mesh's settings (rules MC-20 to MC-28): it is told as a warning and not used;
policies of action CUSTOM that name it deny.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from http import HTTPStatus

from lateen.api.base import Object, Problem
from lateen.api.field_names import yaml_name
from lateen.api.names import is_dns_label, is_fqdn, is_ip
from lateen.api.providers import PROVIDER_TYPES, ExtAuthzHttp, ExtensionProvider, LightstepProvider, OpenTelemetry
from lateen.api.suggest import seen

__all__ = ["check_providers", "provider_type"]

_HEADER_LISTS = (
    "include_headers_in_check",
    "include_request_headers_in_check",
    "headers_to_upstream_on_allow",
    "headers_to_downstream_on_deny",
    "headers_to_downstream_on_allow",
)


def provider_type(provider: ExtensionProvider) -> str | None:
    """Return the one type that `provider` is of (its field's name), None if it names none or several."""
    given = [name for name in PROVIDER_TYPES if getattr(provider, name) is not None]
    return given[0] if len(given) == 1 else None


def check_providers(obj: Object, providers: Iterable[ExtensionProvider], path: str) -> Iterator[Problem]:
    """Yield every fault of a list of providers, as warnings."""
    names: set[str] = set()
    for i, provider in enumerate(providers):
        place = f"{path}[{i}]"
        if not provider.name:
            yield obj.problem(f"{place}.name", "must not be empty", "warning")
        elif provider.name in names:
            yield obj.problem(f"{place}.name", f"is given twice, got {seen(provider.name)}", "warning")
        names.add(provider.name)
        kind = provider_type(provider)
        if kind is None:
            given = [yaml_name(provider, name) for name in PROVIDER_TYPES if getattr(provider, name) is not None]
            yield obj.problem(place, f"needs exactly one type, got {' and '.join(given) or 'none'}", "warning")
        else:
            yield from _check_body(obj, getattr(provider, kind), f"{place}.{yaml_name(provider, kind)}")


def _check_body(obj: Object, body: object, path: str) -> Iterator[Problem]:
    yield from _check_service(obj, body, path)
    status = getattr(body, "status_on_error", None)
    if status and status not in {str(known.value) for known in HTTPStatus}:
        yield obj.problem(f"{path}.statusOnError", f"must be an HTTP status, got {seen(status)}", "warning")
    if isinstance(body, ExtAuthzHttp):
        if body.path_prefix and not body.path_prefix.startswith("/"):
            yield obj.problem(f"{path}.pathPrefix", f"must begin with /, got {seen(body.path_prefix)}", "warning")
        for name in _HEADER_LISTS:
            if "*" in (getattr(body, name) or ()):
                yield obj.problem(
                    f"{path}.{yaml_name(body, name)}", "a bare * is not allowed; write a prefix or suffix", "warning"
                )
    if isinstance(body, LightstepProvider) and not body.access_token:
        yield obj.problem(f"{path}.accessToken", "must not be empty", "warning")
    if isinstance(body, OpenTelemetry) and body.http is not None and body.grpc is not None:
        yield obj.problem(path, "at most one of http and grpc", "warning")


def _check_service(obj: Object, body: object, path: str) -> Iterator[Problem]:
    service, port = getattr(body, "service", None), getattr(body, "port", None)
    if service is None or port is None:
        return  # a type that talks to nobody
    if not _is_service(service):
        yield obj.problem(
            f"{path}.service",
            f"must be a host name with a dot, or <namespace>/<host name>, got {seen(service)}",
            "warning",
        )
    if not 1 <= port <= 65535:
        yield obj.problem(f"{path}.port", f"must be a port from 1 to 65535, got {port}", "warning")


def _is_service(text: str) -> bool:
    namespace, slash, host = text.rpartition("/")
    if slash:
        return is_dns_label(namespace) and "." in host and is_fqdn(host)
    return is_ip(host) or is_fqdn(host)
