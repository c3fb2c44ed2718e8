"""Resources for the tests, from the few words that matter."""

from __future__ import annotations

from lateen.api.base import Object
from lateen.api.decode import decode_documents


def read_one(spec: str, *, name: str = "it", namespace: str = "default", kind: str = "VirtualService") -> Object:
    """Return the resource whose spec is `{spec}`. Fails on one that would be refused."""
    text = (
        f"apiVersion: networking.istio.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
    decoded = decode_documents(text.encode(), "it.yaml")
    assert [problem for problem in decoded.problems if problem.level == "error"] == []
    return decoded.objects[0]
