"""gRPC to the control plane: channels that come back soon, and errors in this project's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from lateen.errors import BadInput, LateenError, Refused, Unavailable

__all__ = ["CALL_SECONDS", "open_local", "open_secure", "open_server_only", "to_error"]

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
# Over a network the other end may vanish unseen. The control plane allows a ping every 20 s.
_KEEPALIVE: Final = (("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 10_000))
_STATUS: Final[dict[Any, type[LateenError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: BadInput,
    grpc.StatusCode.UNAUTHENTICATED: Refused,
    grpc.StatusCode.PERMISSION_DENIED: Refused,
    grpc.StatusCode.ALREADY_EXISTS: Refused,
}


def open_local(path: Path) -> Any:
    """Return a channel to a socket that trusts whoever reaches it. It connects when it is used."""
    return grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)


def open_secure(target: Path | str, *, roots: bytes, key: bytes, chain: bytes, server_name: str) -> Any:
    """Return a channel with mutual TLS to a socket or `HOST:PORT`; the server's certificate is for `server_name`."""
    return _open_tls(target, grpc.ssl_channel_credentials(roots, key, chain), server_name)


def open_server_only(target: str, *, roots: bytes, server_name: str) -> Any:
    """Return a channel over which only the server shows a certificate, which must be for `server_name`."""
    return _open_tls(target, grpc.ssl_channel_credentials(roots), server_name)


def _open_tls(target: Path | str, credentials: Any, server_name: str) -> Any:
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", server_name))
    if isinstance(target, Path):
        return grpc.aio.secure_channel(f"unix:{target}", credentials, options=options)
    return grpc.aio.secure_channel(target, credentials, options=(*options, *_KEEPALIVE))


def to_error(what: str, error: Any) -> LateenError:
    """Return the error to raise for a failed call; `what` says what was asked, and of whom."""
    kind = _STATUS.get(error.code(), Unavailable)
    return kind(f"{what}: {error.details() or error.code().name.lower()}")
