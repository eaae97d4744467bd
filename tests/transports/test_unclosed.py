"""What is forgotten is named by a ResourceWarning, with the place where it was made (tracemalloc),
and is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .certs import Certificates
from .support import CAT, backend_of, open_fds, pipe_of_files

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="tracemalloc of Python 3.11 finds no object of a Python class"
)

Factory = Callable[[], asyncio.AbstractEventLoop]


def running() -> Any:
    return asyncio.get_running_loop()


async def stream(certificates: Certificates) -> list[Any]:
    left, right = socket.socketpair()
    transport, _ = await running().create_connection(asyncio.Protocol, sock=left)
    return [transport, right]


async def secured(certificates: Certificates) -> list[Any]:
    """Both ends, since one alone would not get through its handshake."""
    left, right = socket.socketpair()
    accept = running().connect_accepted_socket(asyncio.Protocol, right, ssl=certificates.server())
    accepted = asyncio.create_task(accept)
    transport, _ = await running().create_connection(
        asyncio.Protocol, sock=left, ssl=certificates.client(), server_hostname="localhost"
    )
    return [transport, (await accepted)[0]]


async def datagrams(certificates: Certificates) -> list[Any]:
    transport, _ = await running().create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    return [transport]


async def read_pipe(certificates: Certificates) -> list[Any]:
    read, write = pipe_of_files()
    transport, _ = await running().connect_read_pipe(asyncio.Protocol, read)
    return [transport, write]


async def write_pipe(certificates: Certificates) -> list[Any]:
    read, write = pipe_of_files()
    transport, _ = await running().connect_write_pipe(asyncio.Protocol, write)
    return [transport, read]


async def subprocess(certificates: Certificates) -> list[Any]:
    transport, _ = await running().subprocess_exec(asyncio.SubprocessProtocol, *CAT, stdout=None, stderr=None)
    return [transport]


@pytest.fixture
def shown() -> Iterator[list[tuple[str, list[int]]]]:
    """Each ResourceWarning, as it is shown: its text,
    and the lines of this file in its object's traceback.
    """
    seen: list[tuple[str, list[int]]] = []

    def show(warning: warnings.WarningMessage) -> None:
        # At this moment: an object that lives on is given a new traceback.
        where = None if warning.source is None else tracemalloc.get_object_traceback(warning.source)
        lines = [frame.lineno for frame in where or () if frame.filename == __file__]
        seen.append((str(warning.message), lines))

    with warnings.catch_warnings():
        warnings.simplefilter("always", ResourceWarning)
        warnings._showwarnmsg_impl = show  # type: ignore[attr-defined]  # put back at the end of the block
        tracemalloc.start(30)
        yield seen
        tracemalloc.stop()


def _is_in(function: Any, line: int) -> bool:
    return any(line == number for _, _, number in function.__code__.co_lines())


@pytest.mark.parametrize("make", [stream, secured, datagrams, read_pipe, write_pipe, subprocess])
def test_a_transport(
    loop_factory: Factory, make: Any, certificates: Certificates, shown: list[tuple[str, list[int]]]
) -> None:
    if make is subprocess and backend_of(loop_factory) == "asyncio":
        pytest.skip("its pidfd is left open")
    loop = loop_factory()
    kept, other = loop.run_until_complete(make(certificates)), None
    for other in kept[1:]:
        if not isinstance(other, asyncio.BaseTransport):
            other.close()
    pid = kept[0].get_pid() if make is subprocess else None
    loop.close()
    del kept, other
    gc.collect()
    if pid is not None and sys.platform != "win32":
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    found = [lines for text, lines in shown if text.startswith("unclosed transport")]
    assert any(_is_in(make, line) for lines in found for line in lines), shown


def test_a_loop(loop_factory: Factory, shown: list[tuple[str, list[int]]]) -> None:
    loop = loop_factory()
    loop.run_until_complete(asyncio.sleep(0))
    del loop
    gc.collect()
    found = [lines for text, lines in shown if text.startswith("unclosed event loop")]
    assert any(_is_in(test_a_loop, line) for lines in found for line in lines), shown


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What ResourceWarnings say that are raised, as with ``-W error``,
    in finalizers that cannot pass them on.
    """
    seen: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(str(unraisable.exc_value)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        yield seen


@pytest.mark.ours
@pytest.mark.parametrize("make", [stream, secured, datagrams, read_pipe, write_pipe, subprocess])
def test_a_transport_is_closed_where_warnings_are_errors(
    loop_factory: Factory, make: Any, certificates: Certificates, refused: list[str]
) -> None:
    before = open_fds()
    loop = loop_factory()
    kept, other = loop.run_until_complete(make(certificates)), None
    for other in kept[1:]:
        if not isinstance(other, asyncio.BaseTransport):
            other.close()
    pid = kept[0].get_pid() if make is subprocess else None
    loop.close()
    del kept, other
    gc.collect()
    if pid is not None and sys.platform != "win32":
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    assert any(text.startswith("unclosed transport") for text in refused)
    assert open_fds() == before


@pytest.mark.ours
def test_a_loop_is_closed_where_warnings_are_errors(loop_factory: Factory, refused: list[str]) -> None:
    before = open_fds()
    loop = loop_factory()
    loop.run_until_complete(asyncio.sleep(0.001))
    del loop
    gc.collect()
    assert [text.startswith("unclosed event loop") for text in refused] == [True]
    assert open_fds() == before
