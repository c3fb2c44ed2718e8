"""Model values in, Envoy v3 protobufs out: pure functions, one input to one message.

    names       names of clusters, listeners and server names; no protobuf, for the model too
    clusters    `build_outbound_cluster`, `build_inbound_cluster`, and the fixed clusters
    endpoints   `build_endpoints`
    routes      `build_route_config`, `build_virtual_host`
    listeners   `build_outbound_listener`, `build_virtual_outbound`, `build_http_proxy_listener`
    inbound     `build_inbound_listeners`
    gateway     `build_gateway_listener`
    pack        `resource_of`: a message, serialised, with its version

Import the modules themselves: this package loads none of them, for names are cheap and Envoy's messages are not.
"""

__all__: list[str] = []
