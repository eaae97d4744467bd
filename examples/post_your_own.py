"""Packets of your own: one thread posts them, others get them, between the operations of the same port.

Each packet carries three values that the port does not interpret. Here the key is the kind of packet, as in
programs for Windows.
"""

import argparse
import socket
import threading
from collections import Counter
from enum import Enum, auto

import proactorx


class Kind(Enum):
    JOB = auto()  # `overlapped` is the job
    SOCKET = auto()  # an operation has ended
    END = auto()  # one for each thread


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backend", help="io_uring, epoll or select; the best one that runs here unless told"
    )
    args = parser.parse_args()

    seen: Counter[str] = Counter()
    lock = threading.Lock()
    received = []
    one, other = socket.socketpair()

    with one, other, proactorx.CompletionPort(backend=args.backend) as port:

        def serve() -> None:
            while True:
                packet = port.get()
                with lock:
                    seen[packet.key.name] += 1
                match packet.key:
                    case Kind.JOB:
                        packet.overlapped(packet.nbytes)
                    case Kind.SOCKET:
                        received.append(packet.overlapped.result())
                        for _ in threads:
                            port.post(Kind.END)  # after everything posted before
                    case Kind.END:
                        return

        squares = []
        threads = [threading.Thread(target=serve) for _ in range(3)]
        for thread in threads:
            thread.start()

        port.bind(one, Kind.SOCKET)
        port.recv(one, 100)
        for number in range(10):
            port.post(Kind.JOB, lambda n: squares.append(n * n), number)
        other.send(b"hello")
        for thread in threads:
            thread.join()

    print(f"jobs: {seen['JOB']}, squares {sorted(squares)}")
    print(f"socket: {received[0].decode()}")
    print(f"ends: {seen['END']}")


if __name__ == "__main__":
    main()
