"""What can go wrong with a graph that is not the fault of one function's values.

Whatever a function of the user raises is kept as it is, see `Graph.errors`; these are the engine's own.
"""

from lateen.errors import LateenError

__all__ = ["CycleError", "FlowError", "MisuseError"]


class FlowError(LateenError):
    """Base of the engine's own errors: a mistake in the program, never in received data."""


class CycleError(FlowError):
    """Something reads itself, by a detour or at once; the message names the chain."""


class MisuseError(FlowError):
    """A rule of the engine is broken: a function changes the graph, reads untracked, a name is taken."""
