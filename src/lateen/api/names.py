"""Which texts are names: DNS labels, domains, addresses, labels, ports. True or False, no exceptions.

Rules: Istio's common validation, docs/api/README.md "Names"; Kubernetes where Istio takes its names over.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

__all__ = [
    "is_dns_label",
    "is_fqdn",
    "is_header_name",
    "is_ip",
    "is_label_key",
    "is_label_value",
    "is_object_name",
    "is_partial_wildcard",
    "is_port",
    "is_service_name",
    "is_subnet",
    "is_unix_address",
    "is_wildcard_domain",
]

DNS_LABEL_LENGTH: Final = 63  # RFC 1035
FQDN_LENGTH: Final = 255
OBJECT_NAME_LENGTH: Final = 253  # Kubernetes
LABEL_PREFIX_LENGTH: Final = 253
LABEL_LENGTH: Final = 63

# \Z, not $: `$` would let a newline at the end pass.
_DNS_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\Z")
_WILDCARD_PREFIX: Final = re.compile(r"(?:\*|\*-?[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)\Z")
_SERVICE_NAME: Final = re.compile(r"[a-z](?:[a-z0-9-]*[a-z0-9])?\Z")
_OBJECT_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*\Z")
_LABEL_PART: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 7230 token


def is_dns_label(text: str) -> bool:
    """1-63 letters, digits and hyphens; begins and ends alphanumeric. Upper case is taken."""
    return len(text) <= DNS_LABEL_LENGTH and _DNS_LABEL.match(text) is not None


def is_fqdn(text: str) -> bool:
    """Dot-separated DNS labels, the last one not all digits. One label alone is one, and a trailing dot is taken."""
    if not 1 <= len(text) <= FQDN_LENGTH:
        return False
    labels = text.split(".")
    if len(labels) > 1 and labels[-1] == "":
        labels.pop()
    return all(is_dns_label(label) for label in labels) and not labels[-1].isdigit()


def is_wildcard_domain(text: str) -> bool:
    """A domain whose first label may also be `*`, `*label` or `*-label`."""
    first, dot, rest = text.partition(".")
    if "*" not in first:
        return is_fqdn(text)
    if len(text) > FQDN_LENGTH or len(first) > DNS_LABEL_LENGTH or _WILDCARD_PREFIX.match(first) is None:
        return False
    return is_fqdn(rest) if dot else True


def is_partial_wildcard(text: str) -> bool:
    """True for a wildcard that is neither `*` nor begins with `*.`, as in `*foo.com`."""
    return "*" in text and text != "*" and not text.startswith("*.")


def is_ip(text: str) -> bool:
    """True for a literal IPv4 or IPv6 address without zone."""
    if "%" in text or not (":" in text or "." in text):  # short names are asked about most
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_subnet(text: str) -> bool:
    """An IP address, or `address/length`; host bits may be set."""
    if "/" not in text:
        return is_ip(text)
    address, _, length = text.partition("/")
    if not (length.isascii() and length.isdigit()) or len(length) > 3:
        return False  # ipaddress would also take netmasks
    try:
        ipaddress.ip_network(f"{address}/{int(length)}", strict=False)
    except ValueError:
        return False
    return "%" not in address


def is_port(number: int) -> bool:
    return 1 <= number <= 65535


def is_unix_address(text: str) -> bool:
    """`@name` (abstract) or an absolute path that does not end in `/`: what stands after `unix://`."""
    if "\0" in text:
        return False
    return len(text) > 1 if text.startswith("@") else text.startswith("/") and not text.endswith("/")


def is_label_key(text: str) -> bool:
    """`name` or `dns.prefix/name`, as Kubernetes labels and annotations are keyed."""
    prefix, slash, name = text.rpartition("/")
    if slash and (len(prefix) > LABEL_PREFIX_LENGTH or _OBJECT_NAME.match(prefix) is None):
        return False
    return len(name) <= LABEL_LENGTH and _LABEL_PART.match(name) is not None


def is_label_value(text: str) -> bool:
    return text == "" or (len(text) <= LABEL_LENGTH and _LABEL_PART.match(text) is not None)


def is_object_name(text: str) -> bool:
    """A name of a Kubernetes object in general: a lower-case DNS subdomain."""
    return len(text) <= OBJECT_NAME_LENGTH and _OBJECT_NAME.match(text) is not None


def is_service_name(text: str) -> bool:
    """A name of a Service: a lower-case DNS label that begins with a letter (RFC 1035)."""
    return len(text) <= DNS_LABEL_LENGTH and _SERVICE_NAME.match(text) is not None


def is_header_name(text: str) -> bool:
    """An RFC 7230 token."""
    return _HEADER_NAME.match(text) is not None
