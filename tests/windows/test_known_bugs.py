"""What goes wrong on asyncio's own proactor, by the numbers of its issues: here it must not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.ports import unused_port

from proactorx.drivers import probe_all

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(sys.platform != "win32", reason="bugs of Windows' proactor"),
]
LIMIT = 10


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh", 1, 0))
    sock.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()


async def asks(port: int) -> None:
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), LIMIT)
    writer.write(b"there?")
    assert await asyncio.wait_for(reader.readexactly(6), LIMIT) == b"there?"
    writer.close()
    await writer.wait_closed()


async def test_a_listener_survives_connections_that_are_gone_again() -> None:
    """python/cpython#93821: ERROR_NETNAME_DELETED (64)."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", port))
        reset(client)
        await asyncio.sleep(0)
    await asks(port)
    server.close()
    await server.wait_closed()


async def test_a_listener_survives_a_factory_that_raises() -> None:
    """python/cpython#156365."""
    loop = asyncio.get_running_loop()
    problems: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: problems.append(context["exception"]))
    broken = True

    def factory() -> asyncio.Protocol:
        if broken:
            raise ZeroDivisionError
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), echo)

    server = await loop.create_server(factory, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), LIMIT) == b""
        writer.close()
    broken = False
    await asks(port)
    server.close()
    assert [type(exc) for exc in problems] == [ZeroDivisionError] * 3


async def test_a_cancelled_receive_loses_nothing() -> None:
    """bpo-33694: whichever of the two comes first, the bytes are there for the next receive."""
    loop = asyncio.get_running_loop()
    ours, other = socket.socketpair()
    with ours, other:
        for sock in (ours, other):
            sock.setblocking(False)
        received, sent = b"", b""
        for n in range(200):
            task = asyncio.create_task(loop.sock_recv(ours, 100))
            for _ in range(n % 4):
                await asyncio.sleep(0)
            sent += b"%3d" % n
            other.send(b"%3d" % n)
            if n % 2:
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                received += await task
        while len(received) < len(sent):
            received += await asyncio.wait_for(loop.sock_recv(ours, 100), LIMIT)
        assert received == sent


class Datagrams(asyncio.DatagramProtocol):
    """Notes what it hears."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()
        self.errors: asyncio.Queue[Exception] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.errors.put_nowait(exc)


async def _udp() -> tuple[Any, Datagrams, Any]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    return transport, protocol, transport.get_extra_info("sockname")


async def test_udp_goes_on_after_port_unreachable() -> None:
    """python/cpython#91227, #127057: what one peer answers must not silence the others."""
    transport, protocol, address = await _udp()
    transport.sendto(b"is anybody there?", ("127.0.0.1", unused_port(kind=socket.SOCK_DGRAM)))
    await asyncio.sleep(0.05)
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.sendto(b"yes", address)
        assert await asyncio.wait_for(protocol.got.get(), LIMIT) == b"yes"
    transport.close()


async def test_port_unreachable_is_told() -> None:
    transport, protocol, _ = await _udp()
    transport.sendto(b"is anybody there?", ("127.0.0.1", unused_port(kind=socket.SOCK_DGRAM)))
    assert isinstance(await asyncio.wait_for(protocol.errors.get(), LIMIT), ConnectionResetError)
    transport.close()


async def test_udp_goes_on_after_a_write_error() -> None:
    """python/cpython#156698: paused for ever."""
    transport, protocol, address = await _udp()
    transport.sendto(bytes(70_000), address)
    assert isinstance(await asyncio.wait_for(protocol.errors.get(), LIMIT), OSError)
    transport.sendto(b"small", address)
    assert await asyncio.wait_for(protocol.got.get(), LIMIT) == b"small"
    assert transport.get_write_buffer_size() == 0
    transport.close()


async def test_a_socket_closed_with_operations_in_flight_ends_them() -> None:
    loop = asyncio.get_running_loop()
    ours, other = socket.socketpair()
    with other:
        ours.setblocking(False)
        task = asyncio.create_task(loop.sock_recv(ours, 10))
        await asyncio.sleep(0.01)
        ours.close()
        with pytest.raises(OSError):
            await asyncio.wait_for(task, LIMIT)


async def test_more_sockets_than_select_takes() -> None:
    """tornadoweb/tornado#2864: the selector loop ends at 512, this one must not."""
    loop: Any = asyncio.get_running_loop()
    if loop.backend_info().name != "iocp":
        pytest.skip("the select driver has that limit")
    pairs = [socket.socketpair() for _ in range(300)]
    heard: set[int] = set()
    for number, (ours, other) in enumerate(pairs):
        loop.add_reader(ours, heard.add, number)
        loop.add_reader(other, heard.add, -1)
    for _, other in pairs:
        other.send(b"x")
    async with asyncio.timeout(LIMIT):
        while len(heard) < 300:
            await asyncio.sleep(0.01)
    assert -1 not in heard
    for ours, other in pairs:
        loop.remove_reader(ours)
        loop.remove_reader(other)
        ours.close()
        other.close()


async def test_a_reader_and_a_writer_of_one_socket() -> None:
    """python/cpython#81554: both at a time, merged into one poll."""
    loop: Any = asyncio.get_running_loop()
    ours, other = socket.socketpair()
    with ours, other:
        calls: list[str] = []
        loop.add_reader(ours, lambda: calls.append(f"read {ours.recv(10)!r}"))
        loop.add_writer(ours, lambda: (calls.append("write"), loop.remove_writer(ours)))
        other.send(b"x")
        for _ in range(200):
            if len(calls) == 2:
                break
            await asyncio.sleep(0.01)
        assert sorted(calls) == ["read b'x'", "write"]
        assert loop.remove_reader(ours)


def test_a_listening_socket_of_another_loops_port(loop_factory: Callable[[], Any]) -> None:
    """Kludex/uvicorn#1317: WinError 87, a handle belongs to one port for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def serve() -> None:
            server = await asyncio.start_server(echo, sock=listener.dup())
            await asks(listener.getsockname()[1])
            server.close()
            await server.wait_closed()

        for _ in range(2):
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(serve())


SHARER = """
import asyncio, proactorx, socket, sys
listener = socket.fromshare(bytes.fromhex(sys.stdin.readline()))
async def serve():
    async def answer(reader, writer):
        writer.write(await reader.readexactly(1) + b"child")
        writer.close()
    server = await asyncio.start_server(answer, sock=listener)
    print("serving", flush=True)
    await asyncio.to_thread(sys.stdin.read)
proactorx.run(serve(), backend={backend!r})
"""


def test_several_processes_accept_on_one_listening_socket(
    loop_factory: Callable[[], Any], driver_name: str
) -> None:
    """Kludex/uvicorn#1317: each has a port of its own, and the socket belongs to one of them."""
    code = SHARER.format(backend=driver_name)

    async def ask(port: int) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"?")
        said = await reader.read()
        writer.close()
        return said.decode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(1) + b"parent")
        writer.close()

    async def serve(listener: socket.socket) -> tuple[set[str], set[str]]:
        server = await asyncio.start_server(answer, sock=listener.dup())
        port = listener.getsockname()[1]
        async with asyncio.timeout(40):
            both = {await ask(port) for _ in range(40)}
            server.close()
            # What this process had begun to accept may take one more, and loses it.
            alone = {await ask(port) for _ in range(5)} - {""}
        return both, alone

    command = [sys.executable, "-c", code]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdin is not None
        assert child.stdout is not None
        with child:
            share: Any = listener.share  # type: ignore[attr-defined]
            child.stdin.write(share(child.pid).hex() + "\n")
            child.stdin.flush()
            assert child.stdout.readline().strip() == "serving"
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                both, alone = runner.run(serve(listener))
    assert both <= {"?parent", "?child"}
    assert alone == {"?child"}


LEFT_OPEN = """
import asyncio, proactorx, socket
async def main():
    loop = asyncio.get_running_loop()
    for _ in range(10):
        ours, other = socket.socketpair()
        ours.setblocking(False)
        left.append((ours, other, asyncio.ensure_future(loop.sock_recv(ours, 1000))))
    left.append(await asyncio.open_connection(sock=socket.create_connection(listener.getsockname())))
    await asyncio.sleep(0.01)
left = []
listener = socket.create_server(("127.0.0.1", 0))
loop = proactorx.new_event_loop({backend!r})
loop.run_until_complete(main())
{end}
for one in left[:-1]:
    one[1].send(b"x" * 100)
"""
ENDS = {"never closed": "", "dropped": "del loop", "closed": "loop.close()"}


@pytest.mark.parametrize("end", ENDS)
def test_operations_in_flight_at_the_end_of_the_interpreter(end: str, driver_name: str) -> None:
    """python/cpython#116773: memory that the kernel may still write outlives them;
    no noise on the way out.
    """
    code = LEFT_OPEN.format(backend=driver_name, end=ENDS[end])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Event loop is closed" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_end_of_a_run_is_quiet(driver_name: str) -> None:
    """python/cpython#83413: no "Event loop is closed" from destructors; #149388:
    nor errors of broken connections.
    """
    start_child = "kept.append(await asyncio.create_subprocess_exec(sys.executable, '-c', ''))"
    code = f"""
import asyncio, proactorx, sys
async def main():
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    global kept
    kept = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(5)]
    kept[0][1].transport.abort()
    {start_child if driver_name == "iocp" else ""}
proactorx.run(main(), backend={driver_name!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_iocp_is_the_first_choice() -> None:
    assert [found.name for found in probe_all() if found.available] == ["iocp", "select"]
