"""Call a `speak.py` as clients do, and write what came of it as JSON.

call.py grpc TARGET < JSON     [{"method", "say": [text, ...], "metadata": {}, "seconds"}, ...]
call.py ws URL SIZE            repeats messages of text and bytes, the last SIZE long
call.py h2 HOST PORT SIZE      a request with SIZE bytes and a trailer, over HTTP/2 without TLS
call.py raw HOST PORT < BYTES  sends what it reads as it is, then reads to the end of the connection
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

SECONDS = 15


def call_grpc(target: str) -> list[Any]:
    import grpc

    answers: list[Any] = []
    with grpc.insecure_channel(target) as channel:
        for call in json.load(sys.stdin):
            path = f"/speak.Speak/{call['method']}"
            said = [text.encode() for text in call["say"]]
            options = {
                "metadata": [(key, str(value)) for key, value in call.get("metadata", {}).items()],
                "timeout": call.get("seconds", SECONDS),
                "wait_for_ready": True,
            }
            try:
                if call["method"] == "Chat":
                    answers.append([one.decode() for one in channel.stream_stream(path)(iter(said), **options)])
                elif call["method"] == "Count":
                    answers.append([one.decode() for one in channel.unary_stream(path)(said[0], **options)])
                else:
                    answers.append(channel.unary_unary(path)(said[0], **options).decode())
            except grpc.RpcError as error:
                answers.append(error.code().name)
    return answers


def call_ws(url: str, size: str) -> dict[str, Any]:
    from websockets.sync.client import connect

    with connect(url, open_timeout=SECONDS, close_timeout=SECONDS, max_size=None) as connection:
        answers: list[Any] = []
        for message in ("ahoy", b"\0\1\2", "x" * int(size)):
            connection.send(message)
            answers.append(connection.recv(timeout=SECONDS) == message)
        connection.ping().wait(SECONDS)
        return {"repeated": answers, "status": connection.response.status_code if connection.response else 0}


def call_h2(host: str, port: str, size: str) -> dict[str, Any]:
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived

    connection = H2Connection(H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    head = [(":method", "POST"), (":scheme", "http"), (":authority", host), (":path", "/h2"), ("te", "trailers")]
    connection.send_headers(1, head)
    left, seen, length = int(size), {}, 0
    with socket.create_connection((host, int(port)), timeout=SECONDS) as sock:
        while True:
            while left and (room := min(left, connection.local_flow_control_window(1), 16384)):
                connection.send_data(1, b"x" * room)
                left -= room
                if not left:
                    connection.send_headers(1, [("x-sent", size)], end_stream=True)
            sock.sendall(connection.data_to_send())
            data = sock.recv(65536)
            if not data:
                raise ConnectionError("the connection ended early")
            for event in connection.receive_data(data):
                if isinstance(event, ResponseReceived):
                    seen["headers"] = dict(event.headers)
                elif isinstance(event, DataReceived):
                    length += len(event.data)
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, TrailersReceived):
                    seen["trailers"] = dict(event.headers)
                elif isinstance(event, StreamEnded):
                    return {**seen, "length": length}


def call_raw(host: str, port: str) -> str:
    with socket.create_connection((host, int(port)), timeout=SECONDS) as sock:
        sock.sendall(sys.stdin.buffer.read())
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer.decode(errors="replace")


def main() -> None:
    actions = {"grpc": call_grpc, "ws": call_ws, "h2": call_h2, "raw": call_raw}
    try:
        answer: Any = actions[sys.argv[1]](*sys.argv[2:])
    except Exception as error:  # what went wrong is the answer
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
