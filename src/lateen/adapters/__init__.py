"""Adapters of one's own: functions that rules name. This is what their code imports; it stays small and needs nothing.

```python
@dataclass(frozen=True)
class Params:
    limit: int = 3

@check_adapter("greylist")
def greylist(params: Params, values: Mapping[str, Any]) -> Verdict:
    return Verdict.allow() if values.get("score", 0) < params.limit else Verdict.deny(403, "grey")
```

docs/mixer/own-adapters.md shows the whole of it.
"""

from __future__ import annotations

from lateen.adapters.declare import check_adapter, report_adapter
from lateen.adapters.verdict import AdapterError, Verdict

__all__ = ["AdapterError", "Verdict", "check_adapter", "report_adapter"]
