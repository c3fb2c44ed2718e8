"""How one text of a policy is compared with one text of a request. Plain comparisons: no regular expression in here.

Rules: Istio, AuthorizationPolicy "String match": `v` exact, `v*` prefix, `*v` suffix, `*` anything but nothing; a `*`
anywhere else stands for itself. Of `*v*` only the first `*` has a meaning.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = [
    "as_bytes",
    "element_matches",
    "glob_matches",
    "host_matches",
    "host_may_match",
    "path_may_match",
    "template_matches",
    "text_matches",
]


def as_bytes(pattern: str) -> str:
    """Return a policy's text as requests spell it: the bytes of its UTF-8, each as a Latin-1 character."""
    return pattern.encode().decode("latin-1")


def text_matches(pattern: str, text: str) -> bool:
    """Return whether `text` is what `pattern` wants."""
    if pattern == "*":
        return text != ""
    if pattern.startswith("*"):
        return text.endswith(pattern[1:])
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    return text == pattern


def element_matches(pattern: str, line: str) -> bool:
    """Return whether an element of a list is what `pattern` wants, or several in a row and the commas between."""
    elements = line.split(",")
    runs = (
        ",".join(elements[first : last + 1]).strip(" \t")
        for first in range(len(elements))
        for last in range(first, len(elements))
    )
    return any(text_matches(pattern, run) for run in runs)


def host_matches(pattern: str, authority: str) -> bool:
    """Return whether a host, with its port or without, is what `pattern` wants.

    In any case, with a dot at its end or not. A pattern without a port is that host at any port.
    """
    pattern, authority = pattern.lower(), authority.lower()
    if pattern == "*" or (pattern.endswith("*") and not pattern.startswith("*")):
        return text_matches(pattern, authority)
    name, colon, port = pattern.rpartition(":")
    if colon and port and _digits(port):
        host, _, actual = authority.rpartition(":")
        return actual == port and _is_host(name.removesuffix("."), host)
    if _is_host(pattern.removesuffix("."), authority):
        return True
    host, colon, port = authority.rpartition(":")
    return bool(colon) and _digits(port) and _is_host(pattern.removesuffix("."), host)


def host_may_match(pattern: str, authority: str) -> bool:
    """Return whether a part of `a,b` or of `user@b` is the host that is wanted: some servers look at one."""
    starts = [0, *(at + 1 for at, char in enumerate(authority) if char in ",@")]
    ends = [*(at for at, char in enumerate(authority) if char == ","), len(authority)]
    parts = [authority[start:end].strip(" \t") for start in starts for end in ends if start <= end]
    # Whatever follows a colon: some servers cut there and look no further.
    cut = [part[:at] for part in parts for at, char in enumerate(part) if char == ":"]
    return any(host_matches(pattern, part) for part in (*parts, *cut))


def _digits(text: str) -> bool:
    return text == "" or (text.isascii() and text.isdecimal())


def _is_host(pattern: str, host: str) -> bool:
    """Return whether `host`, with a dot at its end or not, is `pattern`: with a `*` in front or as it is."""
    spellings = (host, host.removesuffix("."))
    if pattern.startswith("*"):
        return any(one.endswith(pattern[1:]) for one in spellings)
    return pattern in spellings


def glob_matches(pattern: str, text: str) -> bool:
    """Return whether `text` is `pattern`, in which each `*` stands for any text, an empty one too."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    if not text.startswith(first):
        return False
    at = len(first)
    for part in rest[:-1]:  # leftmost is best: it leaves most for those behind it
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(text) - at >= len(rest[-1]) and text.endswith(rest[-1])


def template_matches(template: str, path: str) -> bool:
    """Return whether `path` fits a template: `{*}` is one segment that is not empty, `{**}` any number of segments.

    A slash at the end counts: `/foo/{**}/` is `/foo/a/` and `/foo//`, not `/foo/a`.
    """
    return _segments_match(template.split("/"), path.split("/"), _segment_matches)


def path_may_match(pattern: str, path: str) -> bool:
    """Return whether a server that looks past parameters of segments (`/a;b/c`) may take `path` for what is wanted."""
    if pattern in ("*", "/"):
        return path != "" if pattern == "*" else path in ("/", "//") or _segment_may_match("", path.lstrip("/"))
    templated = "{*}" in pattern or "{**}" in pattern
    segments = path.split("/")
    if pattern.startswith("*") and not templated:
        first, *others = pattern[1:].split("/")
        at = len(segments) - len(others)
        head = "/".join(segments[:at])
        return at > 0 and _ends(first, head) and all(map(_segment_may_match, others, segments[at:]))
    if pattern.endswith("*") and not templated:
        *others, last = pattern[:-1].split("/")
        rest = "/".join(segments[len(others) :])
        whole = len(segments) > len(others)
        return whole and rest.startswith(last) and all(map(_segment_may_match, others, segments))
    return _segments_match(pattern.split("/"), segments, _segment_may_match)


def _ends(wanted: str, text: str) -> bool:
    """Return whether `text`, or what is before some parameter of its last segment, ends so."""
    cuts = [at for at, char in enumerate(text) if char == ";" and "/" not in text[at:]] if wanted else []
    return any(text[:at].endswith(wanted) for at in (*cuts, len(text)))


def _segments_match(wanted: list[str], segments: list[str], fits: Callable[[str, str], bool]) -> bool:
    if "{**}" not in wanted:
        return len(wanted) == len(segments) and all(map(fits, wanted, segments))
    at = wanted.index("{**}")
    head, tail = wanted[:at], wanted[at + 1 :]
    # `{**}` stands where one segment would, so there is at least one, which may be empty.
    if len(segments) < len(head) + 1 + len(tail):
        return False
    return all(map(fits, head, segments)) and all(
        map(fits, tail, segments[len(segments) - len(tail) :] if tail else ())
    )


def _segment_matches(wanted: str, segment: str) -> bool:
    return segment != "" if wanted == "{*}" else segment == wanted


def _segment_may_match(wanted: str, segment: str) -> bool:
    return _segment_matches(wanted, segment) or (wanted != "{*}" and segment.startswith(f"{wanted};"))
