"""`python -m lateen.net.probe`: really make a mesh network of one workload, in a process that ends right after.

Prints one JSON object, `ProbeReport`: how far it came, and the kernel's word where it stopped. Nothing of it stays.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys

import msgspec

from lateen.errors import LateenError
from lateen.net import kernel
from lateen.net.capture import Capture
from lateen.net.mesh import enter_mesh

__all__ = ["STEPS", "ProbeReport", "main"]

STEPS = ("namespaces", "capture", "supervision")
_SO_ORIGINAL_DST = 80
_TARGET = ("240.240.0.1", 80)  # an address of the mesh's own, which no machine has
_SECONDS = 2.0


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    mode: str = ""  # "root" | "rootless", once namespaces were made
    failed: str = ""  # the step of STEPS that failed, "" for none
    reason: str = ""


def main() -> int:
    """Print the report and return 0, whatever it says."""
    sys.stdout.buffer.write(msgspec.json.encode(_probe()))
    sys.stdout.flush()
    return 0


def _probe() -> ProbeReport:
    try:
        mesh = enter_mesh()
    except LateenError as error:
        return ProbeReport(failed="namespaces", reason=str(error).partition(";")[0])
    try:
        workload = mesh.attach("probe", Capture())
        kernel.setns(workload.fds["netns"], kernel.CLONE_NEWNET)
        _check_redirect()
    except OSError as error:
        return ProbeReport(mode=mesh.mode, failed="capture", reason=str(error))
    try:
        kernel.die_with_parent(signal.SIGKILL, os.getppid())
    except OSError as error:
        return ProbeReport(mode=mesh.mode, failed="supervision", reason=str(error))
    return ProbeReport(mode=mesh.mode)


def _check_redirect() -> None:
    """Connect elsewhere and see it arrive at the capture port. Raises `OSError` when it does not."""
    with socket.create_server(("127.0.0.1", Capture().outbound_port)) as listener:
        listener.settimeout(_SECONDS)
        with socket.create_connection(_TARGET, timeout=_SECONDS):
            accepted, _ = listener.accept()
        with accepted:
            original = accepted.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    port, address = struct.unpack_from(">2xH4s", original)
    if (socket.inet_ntoa(address), port) != _TARGET:
        raise OSError(f"redirected connection names {socket.inet_ntoa(address)}:{port} as its target, not {_TARGET}")


if __name__ == "__main__":
    sys.exit(main())
