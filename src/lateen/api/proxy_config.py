"""networking.istio.io ProxyConfig, as written: how proxies are started. A change needs a restart of the proxy.

The larger structure of the same name in the mesh's settings is in `lateen.api.mesh_proxy`. Meaning and defaults:
docs/api/ProxyConfig.md.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from lateen.api.base import EMPTY, Spec
from lateen.api.scalars import Mapping
from lateen.api.selectors import WorkloadSelector

__all__ = ["ProxyConfig", "ProxyImage"]


class ProxyImage(Spec, frozen=True, kw_only=True):
    image_type: str = ""  # suffix of the image's tag


class ProxyConfig(Spec, frozen=True, kw_only=True):
    selector: WorkloadSelector | None = None
    concurrency: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None  # 0: all cores; rule PC-01
    environment_variables: Mapping[str, Annotated[str, Meta(max_length=2048)]] = EMPTY  # rule PC-03
    image: ProxyImage | None = None
