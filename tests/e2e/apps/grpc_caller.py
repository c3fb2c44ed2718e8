"""Call `/echo.Echo/Say` of the target named as argument on one channel: each line read is how often.

Writes a JSON line for each: the answers, or how a call failed.
"""

from __future__ import annotations

import json
import sys

import grpc


def main() -> None:
    with grpc.insecure_channel(sys.argv[1]) as channel:
        say = channel.unary_unary("/echo.Echo/Say")
        for line in sys.stdin:
            answers = []
            for number in range(int(line)):
                try:
                    answers.append(say(b"hello %d" % number, timeout=10, wait_for_ready=True).decode())
                except grpc.RpcError as error:
                    answers.append(f"{error.code().name}: {error.details()}")
            print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
