"""Which folder may hold what: Secrets are written in a folder of their own, everything else in the mesh's.

In:  a file's bytes and its path. Out: what `lateen.api.decode` makes of it, with the rule of the file's folder applied.
Why a folder of its own: docs/design/0006-gateways.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from lateen.api.base import Problem
from lateen.api.decode import Decoded, decode_documents

__all__ = ["decode_with_secrets", "folder_problems"]

OTHERS = 0o077  # what group and others may


def decode_with_secrets(secrets: Path) -> Callable[[bytes, str], Decoded]:
    """Return the decoder for files of both folders; `secrets` is the one of Secrets."""
    below = f"{secrets}{os.sep}"

    def decode(data: bytes, path: str) -> Decoded:
        decoded = decode_documents(data, path)
        told = _told_in_secrets(decoded) if path.startswith(below) else _told_elsewhere(decoded, secrets)
        return replace(decoded, problems=tuple(sorted([*decoded.problems, *told], key=lambda p: (p.line, p.field))))

    return decode


def _told_in_secrets(decoded: Decoded) -> Iterator[Problem]:
    for obj in decoded.objects:
        if obj.key.kind != "Secret":
            yield obj.problem("kind", f"must be Secret in the folder of secrets, got {obj.key.kind}")


def _told_elsewhere(decoded: Decoded, secrets: Path) -> Iterator[Problem]:
    for obj in decoded.objects:
        if obj.key.kind == "Secret":
            message = f"acts, but belongs into {secrets}: configuration is copied and committed, keys must not be"
            yield obj.problem("kind", message, "warning")


def folder_problems(secrets: Path) -> Iterator[Problem]:
    """Yield a warning when others than its owner can look into the folder of secrets."""
    try:
        mode = secrets.stat().st_mode & 0o777
    except OSError:
        return  # told by whoever reads it
    if mode & OTHERS:
        message = f"is open to other users (mode {mode:04o}); 0700 wanted: private keys are in it"
        yield Problem(str(secrets), 1, "", message, "warning")
