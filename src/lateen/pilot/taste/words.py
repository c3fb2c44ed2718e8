"""Read what Envoy says when it refuses a response: which resources, and why. Pure.

Envoy names them as `Error adding/updating cluster(s) NAME: words, NAME: words` or
`Error adding/updating listener(s) NAME: words\\nNAME: words`. Where a message does not even decode by the rules of its
fields it refuses the response as a whole and names nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from lateen.pilot.taste.probe import Probe

__all__ = ["MAX_WORDS", "readable", "refused"]

MAX_WORDS: Final = 600  # characters of one refusal that people are shown
_OWN_MARK: Final = re.compile(r"~\d+~")
# Of what breaks a field's own rule Envoy writes out the whole message first.
_RULE: Final = re.compile(r".*(?=Proto constraint validation failed )", re.DOTALL)


def refused(error: str, probes: Iterable[Probe]) -> dict[Probe, str]:
    """Return the probes that `error` names as refused, each with the words about it. {}: it names none of them."""
    found: list[tuple[int, Probe]] = []
    for probe in probes:
        start = error.find(f"{probe.name}: ")
        if start >= 0:
            found.append((start, probe))
    found.sort(key=lambda pair: pair[0])
    words = {}
    for position, (start, probe) in enumerate(found):
        end = found[position + 1][0] if position + 1 < len(found) else len(error)
        words[probe] = readable(error[start + len(probe.name) + 2 : end])
    return words


def readable(words: str) -> str:
    """Return words fit for a person: one line, the resources' own names, of bounded length."""
    text = _OWN_MARK.sub("", " ".join(_RULE.sub("", words).split())).rstrip(",. ")
    return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 3] + "..."
