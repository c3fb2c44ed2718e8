"""A gRPC server for tests, without generated code: `/echo.Echo/Say` answers its version and what it was told."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/echo.Echo/Say"


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != METHOD:
            return None
        version = os.environ.get("SERVICE_VERSION", "")
        return grpc.unary_unary_rpc_method_handler(lambda request, context: version.encode() + b" " + request)


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Echo()])
    server.add_insecure_port(f"{os.environ.get('BIND', '0.0.0.0')}:{os.environ.get('PORT', '7070')}")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()


if __name__ == "__main__":
    main()
