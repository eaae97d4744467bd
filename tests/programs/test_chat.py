"""The chat of examples/: everybody hears everybody, and a client that does not listen is dropped."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from serving import EXAMPLES, Server, script

pytestmark = pytest.mark.programs


class Guest:
    """A client of the chat, on a blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lines = sock.makefile("rb")
        self.name = "{}:{}".format(*sock.getsockname()).encode()
        self.hears(b"* %b joined" % self.name)

    def says(self, text: bytes) -> None:
        self.sock.sendall(text + b"\n")

    def hears(self, *texts: bytes) -> None:
        for text in texts:
            assert self.lines.readline() == text + b"\n"

    def leave(self) -> None:
        self.lines.close()
        self.sock.close()


@contextlib.contextmanager
def guests(server: Server, count: int) -> Iterator[list[Guest]]:
    """So many clients, each of whom has seen those after it come."""
    with contextlib.ExitStack() as stack:
        room: list[Guest] = []
        for _ in range(count):
            guest = Guest(server.connect())
            stack.callback(guest.leave)
            for other in room:
                other.hears(b"* %b joined" % guest.name)
            room.append(guest)
        yield room


@pytest.fixture
def server(driver_name: str) -> Iterator[Server]:
    with script(EXAMPLES / "chat.py", driver_name) as server:
        yield server


def test_everybody_hears_every_line(server: Server) -> None:
    with guests(server, 10) as room:
        for speaker in room:
            speaker.says(b"good evening\r")
            for guest in room:
                guest.hears(speaker.name + b": good evening")
        room[0].sock.sendall(b"in ")
        room[0].sock.sendall(b"pieces\nand two\n")
        for guest in room:
            guest.hears(room[0].name + b": in pieces", room[0].name + b": and two")
        leaver = room[-1]
        leaver.leave()
        for guest in room[:-1]:
            guest.hears(b"* %b left" % leaver.name)


def test_a_client_that_does_not_listen_is_dropped(server: Server) -> None:
    """The others get every line, for as long as it takes; they see it go, and it sees that it is gone."""
    with guests(server, 2) as (speaker, listener), socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.settimeout(10)
        deaf.connect(server.address)
        name = "{}:{}".format(*deaf.getsockname()).encode()
        listener.hears(b"* %b joined" % name)
        speaker.hears(b"* %b joined" % name)
        line = b"%b: %b\n" % (speaker.name, b"x" * 4000)
        left = b"* %b left\n" % name
        for _ in range(4000):  # 16 MB: more than any kernel keeps for one connection
            speaker.says(b"x" * 4000)
            if (heard := {guest.lines.readline() for guest in (speaker, listener)}) == {left}:
                break
            assert heard == {line}
        else:
            pytest.fail("the deaf client was kept")
        with pytest.raises(ConnectionResetError):
            while deaf.recv(65536):
                pass
            raise ConnectionResetError  # an orderly end would do as well


def test_a_line_without_end_is_not_kept(server: Server) -> None:
    with guests(server, 2) as (guest, endless):
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                endless.sock.sendall(b"x" * 4096)
        guest.hears(b"* %b left" % endless.name)
