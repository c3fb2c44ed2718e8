"""What adapters answer. This is what code of one's own imports; it stays small and needs nothing."""

from __future__ import annotations

from lateen.adapters.verdict import AdapterError, Verdict

__all__ = ["AdapterError", "Verdict"]
