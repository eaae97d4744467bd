"""The port of a server is free as soon as its process has ended, however that was."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

import pytest

from .support import Child, dial

SERVER = """
async def main():
    async def serve(reader, writer):
        await reader.read()
    server = await asyncio.start_server(serve, "127.0.0.1", ARGS[1])
    sock = server.sockets[0]
    def command(how):
        if how == "exit":
            os._exit(7)
        if how == "close":  # and do not wait
            server.close()
            say("closed")
    told(command)
    say(sock.getsockname()[1])
    await forever()
run(main())
"""


def is_free(port: int) -> bool:
    """Whether somebody else can take the port now."""
    # Without SO_REUSEADDR: nobody has connected, so that nothing is in TIME_WAIT.
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
            sock.listen()
        except OSError:
            return False
        return True


def seconds_until_free(port: int) -> float:
    """How long somebody else has to wait for the port."""
    before = time.monotonic()
    while not is_free(port):
        assert time.monotonic() - before < 10, "the port is never free"
        time.sleep(0.001)
    return time.monotonic() - before


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "exit"])
def test_the_port_is_free_when_the_process_has_ended(how: str, child: Callable[..., Child]) -> None:
    taken = 0
    for _ in range(5):
        program = child(SERVER, how, 0)
        port = program.hear()
        if how == "exit":
            program.tell("exit")
        else:
            program.kill(signal.Signals[how])
        program.wait()
        taken += not is_free(port)
    assert taken == 0


def test_the_port_is_free_when_the_server_has_been_closed(child: Callable[..., Child]) -> None:
    program = child(SERVER, "close", 0)
    port = program.hear()
    assert program.ask("close") == "closed"
    # Ours waits for the operation to be taken back, in the next turn.
    assert seconds_until_free(port) < 5


def test_a_client_is_refused_when_the_process_has_ended(child: Callable[..., Child]) -> None:
    program = child(SERVER, "", 0)
    port = program.hear()
    with dial(("127.0.0.1", port)) as peer:
        program.kill()
        program.wait()
        assert peer.told() in ("FIN", "RST")
    with pytest.raises(ConnectionRefusedError):
        dial(("127.0.0.1", port))
