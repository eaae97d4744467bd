"""Shared by all examples: the command line, the first line of output, and ending on a signal."""

import argparse
import asyncio
import signal
import socket
import sys


def parser(doc: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8888, help="8888 unless told; 0 takes a free one")
    parser.add_argument(
        "--backend", help="io_uring, epoll or select; the best one that runs here unless told"
    )
    return parser


def listen(args: argparse.Namespace) -> socket.socket:
    """A listening socket, for examples that need a socket and not a server."""
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    return socket.create_server((args.host, args.port), family=family)


def announce(address: tuple[str, int]) -> None:
    host, port = address[:2]  # an IPv6 address has two more parts
    print(f"listening on [{host}]:{port}" if ":" in host else f"listening on {host}:{port}", flush=True)


def stop_signal() -> asyncio.Event:
    """An event that is set on Ctrl-C, or on SIGTERM from a service manager."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, stop.set)
    return stop


async def serve(server: asyncio.Server) -> None:
    """Serve until the stop signal; then drop the remaining clients."""
    stop = stop_signal()
    announce(server.sockets[0].getsockname())
    await stop.wait()
    server.close()
    if sys.version_info >= (3, 13):
        server.abort_clients()
        await server.wait_closed()
