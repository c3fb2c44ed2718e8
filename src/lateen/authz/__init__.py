"""Who may do what, decided in Python: AuthorizationPolicy as it is specified, without a proxy.

It is written from the specification alone, so that it can judge what Envoy does with the translation
(docs/security/proof.md) and answer `lateen authz test`. It knows nothing of Envoy, of the translation or of the mesh.
"""

from lateen.authz.attachment import Target, attached
from lateen.authz.decide import decide
from lateen.authz.normalise import Normalisation, default_normalisation
from lateen.authz.values import Connection, Decision, HttpRequest, Match, Policy, Request, policy_of

__all__ = [
    "Connection",
    "Decision",
    "HttpRequest",
    "Match",
    "Normalisation",
    "Policy",
    "Request",
    "Target",
    "attached",
    "decide",
    "default_normalisation",
    "policy_of",
]
