"""TLS contexts from certificates and keys that are in memory only.

Python's `ssl` reads keys from files; a file that never has a name, in memory, is one that nobody else can open.
"""

from __future__ import annotations

import os
import ssl

__all__ = ["server_context"]


def server_context(chain_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    """Return a context for a server with this certificate chain (leaf first) and key. Raises `ssl.SSLError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    descriptor = os.memfd_create("server", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(chain_pem + key_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
