"""A server of gRPC over HTTP/2, as small as Envoy's questions need it. Why: docs/design/0025-mixer-server.md."""
