"""AuthorizationPolicies as Envoy's filters."""

from lateen.pilot.translate.authz.decisions import Decisions, asks_server_name, build_decisions
from lateen.pilot.translate.authz.vouching import Vouching, vouching_of

__all__ = ["Decisions", "Vouching", "asks_server_name", "build_decisions", "vouching_of"]
