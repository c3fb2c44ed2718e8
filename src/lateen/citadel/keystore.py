"""The folder `ca/` of a mesh: every set of material that is in force, and where its rotation stands.

    ca-cert.pem, ca-key.pem    the first self-signed root (`store`), as long as it is in force
    gen-DIGEST/                one later set of material each, in the files of `material`; 0700, files 0600
    rotation.json              `RotationState`; absent before the first rotation

What was plugged in is copied here: while roots are being replaced the old material still signs, also after a restart,
and its folder holds the new one by then. A set is complete before `rotation.json` names it, and goes after it does no
more, so a crash at any point leaves the state before or the state after.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from lateen.citadel.material import Material, load_material, write_material
from lateen.citadel.rotation import RotationState
from lateen.citadel.store import CERTIFICATE_FILE, KEY_FILE, RootMaterial, RootWish, load_or_create_root
from lateen.errors import BadInput
from lateen.wire.files import write_atomically

__all__ = ["FIRST", "Keystore", "material_of_root"]

FIRST: Final = "first"  # the root that lies in the folder itself
STATE_FILE: Final = "rotation.json"
_PREFIX: Final = "gen-"
_UNFINISHED: Final = (f".{_PREFIX}", f".{STATE_FILE}.")  # what a crash leaves of a set, or of the state
_MAX_STATE_BYTES: Final = 64 * 1024


class Keystore:
    """Reads and writes one such folder. For one process, which holds the lock of the state folder."""

    def __init__(self, folder: Path, trust_domain: str) -> None:
        self.folder = folder
        self._trust_domain = trust_domain

    def has_root(self) -> bool:
        """Whether a self-signed root is in the folder itself, or half of one."""
        return any((self.folder / file).exists() for file in (KEY_FILE, CERTIFICATE_FILE))

    def is_new(self, first: Material) -> bool:
        """Whether nothing was ever in force here; half of a root was.

        A first start that ended between the material and the state that names it has left `first`, the material that
        was to be put, or parts of it.
        """
        own = _name_of(first)
        try:
            names = [entry.name for entry in self.folder.iterdir()]
        except FileNotFoundError:
            return True
        return all(name == own or name.startswith(_UNFINISHED) for name in names)

    def state(self) -> RotationState | None:
        """Return where the rotation stands; None before the first one. Raises `BadInput`, `OSError`."""
        path = self.folder / STATE_FILE
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            return None
        try:
            return msgspec.json.decode(data, type=RotationState)
        except msgspec.DecodeError as error:
            raise BadInput(f"{path}: cannot be read as the state of a rotation: {error}; restore it") from error

    def put_state(self, state: RotationState) -> None:
        """Make this the state that a restart finds, and forget what it does not name."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self.folder / STATE_FILE, msgspec.json.format(msgspec.json.encode(state), indent=2))
        self._sweep((state.signing, state.other))

    def first_root(self, now: datetime, new_serial: Callable[[], int], wish: RootWish) -> tuple[Material, bool]:
        """Return the self-signed root of the folder itself, and whether it was made now. Raises as `store` does."""
        root, made = load_or_create_root(self.folder, self._trust_domain, now, new_serial, wish)
        return material_of_root(root), made

    def load(self, name: str, now: datetime) -> Material:
        """Return one set of material. Raises `BadInput`, naming the file, and `OSError`."""
        if name == FIRST:
            root, _ = load_or_create_root(self.folder, self._trust_domain, now, _never)
            return material_of_root(root)
        if not name.startswith(_PREFIX) or "/" in name or not (self.folder / name).is_dir():
            raise BadInput(f"{self.folder / STATE_FILE}: names {name!r}, which is not there; restore {self.folder}")
        return load_material(self.folder / name, now, self._trust_domain, kept=True)

    def put(self, material: Material) -> str:
        """Keep a set of material and return its name. The same set twice has one name."""
        name = _name_of(material)
        if (self.folder / name).is_dir():
            return name
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=self.folder))  # 0700
        try:
            for file, data in write_material(material).items():
                write_atomically(fresh / file, data)
            os.rename(fresh, self.folder / name)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return name

    def _sweep(self, names: Iterable[str]) -> None:
        kept = set(names)
        for entry in self.folder.iterdir():
            if entry.name.startswith((_PREFIX, f".{_PREFIX}")) and entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name.startswith(_UNFINISHED):
                entry.unlink(missing_ok=True)
        if FIRST not in kept:
            for file in (KEY_FILE, CERTIFICATE_FILE):  # the key first: half of a root is no root
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / file).unlink()


def _name_of(material: Material) -> str:
    return f"{_PREFIX}{material.digest}"


def material_of_root(root: RootMaterial) -> Material:
    """Return a self-signed root as material."""
    return Material(certificate=root.certificate, key=root.key, root=root.certificate, roots=(root.certificate,))


def _never() -> int:
    raise BadInput("a root that is in force is missing; restore it")
