"""An echo server without an event loop: four threads share one completion port.

Any free thread serves the next client; on a free-threaded Python they run in parallel. A connection has one
operation in flight, so no two threads ever serve the same one.
"""

import contextlib
import signal
import socket
import threading
import time

import common

import proactorx


class Connection:
    """Handles the packets of a client's socket: it is the key of that socket."""

    def __init__(
        self, port: proactorx.CompletionPort, sock: socket.socket, clients: set[socket.socket]
    ) -> None:
        self.port, self.sock, self.clients = port, sock, clients
        self.sending = False
        clients.add(sock)
        port.bind(sock, self)
        port.recv(sock, 64 * 1024)

    def serve(self, op: proactorx.Overlapped) -> None:
        """An operation has ended: start the next."""
        try:
            result = op.result()
        except OSError:
            result = b""  # the client has gone
        if not result:
            self.clients.discard(self.sock)
            self.sock.close()
            return
        self.sending = not self.sending
        if self.sending:
            self.port.send(self.sock, result)
        else:
            self.port.recv(self.sock, 64 * 1024)


class Listener:
    """Handles the packets of the listening socket."""

    def __init__(
        self, port: proactorx.CompletionPort, sock: socket.socket, clients: set[socket.socket]
    ) -> None:
        self.port, self.sock, self.clients = port, sock, clients
        port.bind(sock, self)
        port.accept(sock)

    def serve(self, op: proactorx.Overlapped) -> None:
        """A client has connected, or descriptors have run out."""
        self.port.accept(self.sock)
        with contextlib.suppress(OSError):
            Connection(self.port, op.result()[0], self.clients)


class Stopped(Exception):
    """A signal told the server to stop."""


def stop(number: int, frame: object) -> None:
    """Handle the signals that stop the server."""
    raise Stopped


def wait() -> None:
    """Wait for a signal, in short sleeps: Windows delivers none to a thread that waits for a lock."""
    while True:
        time.sleep(0.2)


def work(port: proactorx.CompletionPort) -> None:
    """Serve until the port is closed."""
    try:
        while True:
            packet = port.get()
            packet.key.serve(packet.overlapped)
    except proactorx.PortClosed:
        return


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--threads", type=int, default=4)
    args = parser.parse_args()
    with common.listen(args) as listener:
        port = proactorx.CompletionPort(backend=args.backend)
        clients: set[socket.socket] = set()
        Listener(port, listener, clients)
        threads = [threading.Thread(target=work, args=(port,)) for _ in range(args.threads)]
        for thread in threads:
            thread.start()
        with contextlib.suppress(Stopped):
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, stop)
            common.announce(listener.getsockname())
            wait()
        port.close()
        for thread in threads:
            thread.join()
        for sock in clients:
            sock.close()


if __name__ == "__main__":
    main()
