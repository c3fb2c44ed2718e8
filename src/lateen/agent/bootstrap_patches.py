"""Patches to the bootstrap, as the control plane read them of EnvoyFilters: applied here, to plain values.

In:  the document of `bootstrap.py`, patches whose fields are spelt as in it. Out: the document, and what Envoy said of
patches that it would not start with. Rules: docs/api/EnvoyFilter.md "MERGE"; the values were checked before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from lateen.wire.local import BootstrapPatch

__all__ = ["Judge", "apply_patch", "patched_bootstrap"]

Document = dict[str, Any]
# What Envoy has against a document; "" nothing.
Judge = Callable[[Document], Awaitable[str]]


async def patched_bootstrap(
    document: Document, patches: Sequence[BootstrapPatch], judge: Judge
) -> tuple[Document, dict[str, str]]:
    """Return the document with all patches that Envoy takes, and for each patch why not, "" for those it took."""
    verdicts = {patch.id: "" for patch in patches}
    whole = document
    for patch in patches:
        whole = apply_patch(whole, patch)
    if not patches or not await judge(whole):
        return whole, verdicts
    # One of them is bad: the others act.
    for patch in patches:
        candidate = apply_patch(document, patch)
        verdicts[patch.id] = await judge(candidate)
        if not verdicts[patch.id]:
            document = candidate
    return document, verdicts


def apply_patch(document: Document, patch: BootstrapPatch) -> Document:
    """Return the document after one patch; the given one is left as it was."""
    for path in patch.clears:
        document = _without(document, path)
    merged: Document = _merged(document, patch.value, patch.replace_lists)
    return merged


def _without(value: Any, path: Sequence[str]) -> Any:
    if not isinstance(value, dict) or path[0] not in value:
        return value
    rest = {key: entry for key, entry in value.items() if key != path[0]}
    return rest if len(path) == 1 else {**value, path[0]: _without(value[path[0]], path[1:])}


def _merged(base: Any, patch: Any, replace_lists: bool) -> Any:
    if isinstance(base, list) and isinstance(patch, list):
        return patch if replace_lists else [*base, *patch]
    if not isinstance(base, dict) or not isinstance(patch, dict) or base.get("@type") != patch.get("@type"):
        return patch
    joined = {key: _merged(base[key], entry, replace_lists) if key in base else entry for key, entry in patch.items()}
    return {**base, **joined}
