"""AuthorizationPolicies as Envoy's filters."""

from lateen.pilot.translate.authz.decisions import Decisions, build_decisions

__all__ = ["Decisions", "build_decisions"]
