"""Who vouches for the names in a client's certificate: that decides which identities are believed.

Whoever signs certificates can write any name into them. Only the mesh's own roots vouch for the mesh's trust domains.
"""

from __future__ import annotations

from enum import Enum

from lateen.pilot.model.values import ServerTls

__all__ = ["Vouching", "vouching_of"]


class Vouching(Enum):
    """Whose word the identity of a connection is."""

    MESH = "mesh"  # the mesh's roots vouch for it, each for its trust domains
    OTHERS = "others"  # some other authority does: not for identities of the mesh
    NOBODY = "nobody"  # certificates are taken unchecked, so there is no identity


def vouching_of(tls: ServerTls | None) -> Vouching:
    """Return who vouches for clients where TLS is ended so; None: by the mesh itself, or it is plain text."""
    if tls is not None and tls.accept_untrusted:
        return Vouching.NOBODY
    # Where no certificate is asked for there is no identity, whatever is believed.
    return Vouching.MESH if tls is None or tls.trust_domains or not tls.roots else Vouching.OTHERS
