"""gRPC to the control plane's Unix sockets: channels that come back soon, and errors in this project's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from lateen.errors import BadInput, LateenError, Refused, Unavailable

__all__ = ["CALL_SECONDS", "open_local", "open_secure", "to_error"]

CALL_SECONDS: Final = 10.0  # of one call; retries are the caller's

# gRPC's own waits between attempts grow to two minutes: made for networks, not for a control plane that is restarted.
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 64 << 20),  # a name table of a large mesh
)
_STATUS: Final[dict[Any, type[LateenError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: BadInput,
    grpc.StatusCode.UNAUTHENTICATED: Refused,
    grpc.StatusCode.PERMISSION_DENIED: Refused,
    grpc.StatusCode.ALREADY_EXISTS: Refused,
}


def open_local(path: Path) -> Any:
    """Return a channel to a socket that trusts whoever reaches it. It connects when it is used."""
    return grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)


def open_secure(path: Path, *, roots: bytes, key: bytes, chain: bytes, server_name: str) -> Any:
    """Return a channel with mutual TLS; the server's certificate must be for `server_name`."""
    credentials = grpc.ssl_channel_credentials(roots, key, chain)
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", server_name))
    return grpc.aio.secure_channel(f"unix:{path}", credentials, options=options)


def to_error(what: str, error: Any) -> LateenError:
    """Return the error to raise for a failed call; `what` says what was asked, and of whom."""
    kind = _STATUS.get(error.code(), Unavailable)
    return kind(f"{what}: {error.details() or error.code().name.lower()}")
