"""How a mesh server of unknown protocol learns what a mutual TLS connection will carry: by the ALPN its client offers.

Istio rewrites the offered list in a filter of its own. Here a cluster that is served over mutual TLS in whatever
protocol the client speaks says so in its metadata (`istio.alpn`), and a stock filter of the outbound HTTP manager puts
the list for this request where Envoy's TLS socket looks for it. TCP through the same cluster keeps the cluster's own
list, `istio`, and thereby reaches the server's TCP chain. Clusters of one fixed protocol have their list as a constant.

The condition lives in the cluster, not in routes: whichever route, mirror or weight leads to it, the list fits it.
"""

from __future__ import annotations

from typing import Final

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.filters.common.set_filter_state.v3.value_pb2 import FilterStateValue
from envoy.extensions.filters.http.set_filter_state.v3.set_filter_state_pb2 import Config
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from lateen.pilot.translate.pack import pack
from lateen.pilot.translate.tls import MESH_H1_ALPN, MESH_H2_ALPN

__all__ = ["ALPN_FILTER", "ALPN_KEY", "AS_CLIENT", "AS_H1"]

ALPN_KEY: Final = "alpn"  # in filter_metadata.istio of a cluster
AS_CLIENT: Final = "client"  # upstream speaks what the client speaks
AS_H1: Final = ",".join(MESH_H1_ALPN)  # upstream is HTTP/1.1, whatever the client speaks
_AS_H2: Final = ",".join(MESH_H2_ALPN)

_METADATA: Final = "xds.cluster_metadata.filter_metadata"
_LIST: Final = (
    f"%CEL(has(xds.cluster_metadata) && 'istio' in {_METADATA} && '{ALPN_KEY}' in {_METADATA}['istio'] ? "
    f"({_METADATA}['istio']['{ALPN_KEY}'] != '{AS_CLIENT}' ? {_METADATA}['istio']['{ALPN_KEY}'] : "
    f"request.protocol == 'HTTP/2' ? '{_AS_H2}' : '{AS_H1}') : '')%"
)

ALPN_FILTER: Final = HttpFilter(
    name="lateen.alpn",
    typed_config=pack(
        Config(
            on_request_headers=[
                FilterStateValue(
                    object_key="envoy.network.application_protocols",
                    format_string=SubstitutionFormatString(text_format_source=DataSource(inline_string=_LIST)),
                    shared_with_upstream=FilterStateValue.ONCE,
                    skip_if_empty=True,
                )
            ]
        )
    ),
)
