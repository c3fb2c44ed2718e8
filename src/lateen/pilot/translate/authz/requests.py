"""What is asked for over HTTP: hosts, methods, paths, headers.

The path is compared without its query, after the normalisation of the listener (`normalisation.py`).
"""

from __future__ import annotations

import re
from typing import Final

from envoy.config.rbac.v3.rbac_pb2 import Permission, Principal
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from lateen.api.policy_reading import is_header_name
from lateen.pilot.translate.authz.leaning import Leaning
from lateen.pilot.translate.authz.texts import SOMETHING, expression, quoted, text_matcher

__all__ = ["header", "host", "method", "path"]

AUTHORITY: Final = ":authority"
_HOST_NAMES: Final = ("host", AUTHORITY)
_PORT: Final = re.compile(r":[0-9]+\Z")
_ONE_SEGMENT, _SEGMENTS = "{*}", "{**}"
_PARAMETERS: Final = "(?:;[^/]*)?"


def host(pattern: str, leaning: Leaning) -> Permission:
    """Return the matcher for a host, in any case, with a dot at its end or not.

    A pattern without a port is the host at any port, as no server tells its hosts apart by port unless it is told to.
    """
    return Permission(header=HeaderMatcher(name=AUTHORITY, string_match=_host_matcher(pattern, leaning)))


def _host_matcher(pattern: str, leaning: Leaning) -> StringMatcher:
    if pattern == "*":
        return SOMETHING
    refuses = leaning is Leaning.REFUSES
    # Envoy makes `a,b` of two Host headers and takes `user@b`: what keeps a request out looks at each part.
    front = r"(?:.*[,@])?[ \t]*" if refuses else ""
    back = r"[ \t]*(?:,.*)?" if refuses else ""
    text = pattern
    if pattern.startswith("*"):
        front, text = ".*", pattern[1:]
    elif pattern.endswith("*"):
        return expression(front, quoted(pattern[:-1]), ".*", ignore_case=True)
    port = _PORT.search(text)
    name = text[: port.start()] if port is not None else text
    any_port = "(?::.*)?" if refuses else "(?::[0-9]*)?"
    # Servers cut `a:80:90` at one of its colons.
    at = any_port if port is None else quoted(port[0]) + (any_port if refuses else "")
    return expression(front, quoted(name.removesuffix(".")), r"\.?", at, back, ignore_case=True)


def method(pattern: str) -> Permission:
    """Return the matcher for a method, case and all."""
    return Permission(header=HeaderMatcher(name=":method", string_match=text_matcher(pattern)))


def path(pattern: str, leaning: Leaning) -> Permission:
    """Return the matcher for a path or a template of one.

    Some servers read `/a;b/c` as `/a/c`: what keeps a request out looks past such parameters of segments. Templates are
    not given to Envoy's own matcher of templates: that one knows few characters, and a DENY could be passed with any
    other (`/admin/a*b`).
    """
    return Permission(url_path=PathMatcher(path=_path_matcher(pattern, leaning)))


def _path_matcher(pattern: str, leaning: Leaning) -> StringMatcher:
    templated = _ONE_SEGMENT in pattern or _SEGMENTS in pattern
    past = _PARAMETERS if leaning is Leaning.REFUSES else ""
    if pattern == "/":  # Envoy, which merges slashes, leaves two where there is nothing else
        return expression("//?", past)
    if pattern == "*" or not (templated or past):
        return text_matcher(pattern)
    front = back = ""
    if not templated and pattern.startswith("*"):
        front, pattern = ".*", pattern[1:]
    elif not templated and pattern.endswith("*"):
        back, pattern = ".*", pattern[:-1]
    first, *others = pattern.split("/")
    segments = [quoted(first) + (past if first else ""), *(_segment(segment, past) for segment in others)]
    if back:
        segments[-1] = quoted(pattern.rpartition("/")[2])
    return expression(front, "/".join(segments), back)


def _segment(segment: str, past: str) -> str:
    if segment == _SEGMENTS:
        return ".*"
    return "[^/]+" if segment == _ONE_SEGMENT else quoted(segment) + past


def header(name: str, pattern: str, leaning: Leaning) -> Principal | None:
    """Return the matcher for the values of a header; None where no header has such a name.

    A header may come in several lines, and a line may be a list. Any line will do; what keeps a request out looks at
    every element of every line as well, so that nothing hides beside something else.
    """
    if not is_header_name(name):
        return None
    if name.lower() in _HOST_NAMES:
        return _line(AUTHORITY, _host_matcher(pattern, leaning))
    if leaning is Leaning.REFUSES:
        if pattern == "*":
            return Principal(header=HeaderMatcher(name=name, present_match=True))
        return _line(name, _element(pattern))
    return _line(name, text_matcher(pattern))


def _line(name: str, value: StringMatcher) -> Principal:
    return Principal(header=HeaderMatcher(name=name, string_match=value))


def _element(pattern: str) -> StringMatcher:
    if pattern.startswith("*"):
        return expression(".*", quoted(pattern[1:]), r"[ \t]*(?:,.*)?")
    if pattern.endswith("*"):
        return expression(r"(?:.*,)?[ \t]*", quoted(pattern[:-1]), ".*")
    return expression(r"(?:.*,)?[ \t]*", quoted(pattern), r"[ \t]*(?:,.*)?")
