"""How two proxies tell each other who they are, so that both can label their metrics.

A client's proxy adds one header to requests into the mesh: a constant of its environment, put there by its agent. The
server's proxy reads it on mutual TLS connections only, keeps it as dynamic metadata `istio.peer` and removes it; from
everybody else it is removed unread. Applications never see it and cannot write it.
"""

from __future__ import annotations

from typing import Final

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation as MutationFilter
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import Mutations
from envoy.extensions.filters.http.header_to_metadata.v3.header_to_metadata_pb2 import Config as ToMetadata
from envoy.extensions.filters.http.upstream_codec.v3.upstream_codec_pb2 import UpstreamCodec
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyMutation,
)

from lateen.pilot.translate.pack import pack
from lateen.wire.peer_env import PEER_TEXT

__all__ = ["ENDPOINT_KEY", "PEER_HEADER", "PEER_KEY", "PEER_NAMESPACE", "READ_PEER", "SEND_PEER", "STRIP_PEER"]

PEER_HEADER: Final = "x-lateen-peer"  # not Istio's x-envoy-peer-metadata, whose encoding stock Envoy does not read
PEER_NAMESPACE: Final = "istio.peer"
PEER_KEY: Final = "downstream"
ENDPOINT_KEY: Final = "peer"  # of the metadata `istio` of an endpoint: the same text about a server

# HTTP filters of a cluster: they run for each try and each mirror, after all that the listener's filters do.
SEND_PEER: Final = (
    HttpFilter(
        name="envoy.filters.http.header_mutation",
        typed_config=pack(
            MutationFilter(
                mutations=Mutations(
                    request_mutations=[
                        HeaderMutation(
                            append=HeaderValueOption(
                                header=HeaderValue(key=PEER_HEADER, value=f"%ENVIRONMENT({PEER_TEXT})%"),
                                append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
                            )
                        )
                    ]
                )
            )
        ),
    ),
    HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=pack(UpstreamCodec())),
)

READ_PEER: Final = HttpFilter(
    name="envoy.filters.http.header_to_metadata",
    typed_config=pack(
        ToMetadata(
            request_rules=[
                ToMetadata.Rule(
                    header=PEER_HEADER,
                    on_header_present=ToMetadata.KeyValuePair(
                        metadata_namespace=PEER_NAMESPACE,
                        key=PEER_KEY,
                        type=ToMetadata.STRING,
                    ),
                    remove=True,
                )
            ]
        )
    ),
)

STRIP_PEER: Final = TypedExtensionConfig(
    name="envoy.http.early_header_mutation.header_mutation",
    typed_config=pack(EarlyMutation(mutations=[HeaderMutation(remove=PEER_HEADER)])),
)
