"""Say how far each proxy is with each type, for `lateen proxy-status`."""

from __future__ import annotations

from lateen.pilot.xds.state import TypeState
from lateen.pilot.xds.stream import Stream
from lateen.pilot.xds.type_urls import rank, short_name
from lateen.wire.local import ProxyInfo, TypeInfo

__all__ = ["proxy_info", "type_info"]


def proxy_info(stream: Stream, *, connected: str) -> ProxyInfo:
    """Return the report of one stream; `connected` is when it began, RFC 3339."""
    type_urls = sorted({*stream.proxy.slices, *stream.types}, key=lambda type_url: (rank(type_url), type_url))
    return ProxyInfo(
        name=stream.proxy.name,
        node=stream.node.id,
        namespace=stream.proxy.namespace,
        version=stream.node.user_agent_version,
        connected=connected,
        types={short_name(type_url): type_info(stream, type_url) for type_url in type_urls},
    )


def type_info(stream: Stream, type_url: str) -> TypeInfo:
    """Return the report of one type.

    NOT SENT: never asked for, or not answered yet. ERROR: a rejection stands. STALE: sent and not answered, or changed
    and not sent. SYNCED: the proxy holds what it is to hold.
    """
    state = stream.types.get(type_url)
    if state is None:
        return TypeInfo(state="NOT SENT", resources=0, version="")
    names = tuple(sorted(state.rejected))
    return TypeInfo(
        state=_state_word(stream, type_url, state),
        resources=len(stream.held(type_url)),
        version=stream.digest(type_url),
        error=state.rejected[names[0]].error if names else "",
        rejected=names,
    )


def _state_word(stream: Stream, type_url: str, state: TypeState) -> str:
    if state.rejected:
        return "ERROR"
    unsent = stream.unsent(type_url)
    if state.serial == 0 and (unsent or state.owes_answer):
        return "NOT SENT"
    return "STALE" if unsent or state.in_flight is not None else "SYNCED"
