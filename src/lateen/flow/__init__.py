"""Incremental collections: inputs, tables, indexes and derived values that follow them. See docs/flow.md."""

from lateen.flow.computed import Derived, Table
from lateen.flow.errors import CycleError, FlowError, MisuseError
from lateen.flow.graph import Changes, Graph
from lateen.flow.keyed import Index, Input
from lateen.flow.read import Read

__all__ = [
    "Changes",
    "CycleError",
    "Derived",
    "FlowError",
    "Graph",
    "Index",
    "Input",
    "MisuseError",
    "Read",
    "Table",
]
