"""What runs inside a workload's network in tests: `python -I -S inside.py COMMAND ARGS...`. Standard library only.

proxy PORT...                  listen on each; tell every caller which port it reached, and what it had asked for
app PORT                       listen; greet every caller
call IP PORT [MARK [SOURCE]]   print what the other side says, or the error's name
ask IP PORT                    send a datagram, print the answer
seconds IP PORT [MARK]         as `call`, and then how long it took
"""

import errno
import select
import socket
import struct
import sys
import time

SO_ORIGINAL_DST = 80
SO_MARK = 36
PATIENCE_SECONDS = 5.0


def original(sock: socket.socket) -> str:
    """Return where the caller wanted to go, as `ip:port`."""
    try:
        port, address = struct.unpack_from(">2xH4s", sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    except OSError:  # the kernel knows of no redirect
        return "itself"
    return f"{socket.inet_ntoa(address)}:{port}"


def serve(ports: list[int], greet: bool) -> None:
    listeners = [socket.create_server(("0.0.0.0", port)) for port in ports]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for listener in select.select(listeners, [], [])[0]:
            sock, _ = listener.accept()
            with sock:
                port = listener.getsockname()[1]
                sock.sendall(b"app" if greet else f"{port} for {original(sock)}".encode())


def call(ip: str, port: str, mark: str = "0", source: str = "") -> str:
    sock = socket.socket()
    sock.settimeout(PATIENCE_SECONDS)
    try:
        if int(mark):
            sock.setsockopt(socket.SOL_SOCKET, SO_MARK, int(mark))
        if source:
            sock.bind((source, 0))
        sock.connect((ip, int(port)))
        return sock.recv(200).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "timeout")


def ask(ip: str, port: str) -> str:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(PATIENCE_SECONDS)
    sock.connect((ip, int(port)))
    sock.send(b"who?")
    return sock.recv(200).decode()


def main(command: str, *arguments: str) -> None:
    match command:
        case "proxy" | "app":
            serve([int(port) for port in arguments], greet=command == "app")
        case "call":
            sys.stdout.write(call(*arguments))
        case "ask":
            sys.stdout.write(ask(*arguments))
        case "seconds":
            begin = time.monotonic()
            said = call(*arguments)
            sys.stdout.write(f"{said} {time.monotonic() - begin:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
