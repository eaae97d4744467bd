"""Behaviours of sockets, transports and servers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import tempfile
import warnings
from pathlib import Path
from typing import Any

from rows import Loop, Make, Recorder, arow, connection, error_of, raised, row, running, yes

READERS, SOCKETS, TRANSPORTS = "readers and writers", "sockets", "transports"
SERVERS, CONNECTING, FILES = "servers", "connecting", "sending files"


@arow(READERS, "`add_reader` of a plain file")
async def reader_of_file(loop: Loop) -> str:
    with tempfile.TemporaryFile() as file:
        return raised(lambda: loop.add_reader(file, print))


@arow(READERS, "`add_reader` of a transport's descriptor")
async def reader_of_transport(loop: Loop) -> str:
    async with connection(loop) as (transport, _, _peer):
        fd = transport.get_extra_info("socket").fileno()
        return raised(lambda: loop.add_reader(fd, print))


@arow(READERS, "`remove_reader` says whether there was one")
async def remove_reader(loop: Loop) -> str:
    a, b = socket.socketpair()
    with a, b:
        first = loop.remove_reader(a)
        loop.add_reader(a, print)
        return yes((first, loop.remove_reader(a)) == (False, True))


@arow(READERS, "a reader's callback may remove the reader and close the socket")
async def close_in_reader(loop: Loop) -> str:
    a, b = socket.socketpair()
    seen = loop.create_future()

    def ready() -> None:
        loop.remove_reader(a)
        a.close()
        seen.set_result("yes")

    with a, b:
        loop.add_reader(a, ready)
        b.send(b"x")
        return str(await seen)


@arow(SOCKETS, "`sock_recv` of a blocking socket, without debug mode")
async def blocking(loop: Loop) -> str:
    a, b = socket.socketpair()
    with a, b:
        b.send(b"x")
        return await error_of(loop.sock_recv(a, 1))


@row(SOCKETS, "the same in debug mode")
def blocking_debug(make: Make) -> str:
    with running(make) as loop:
        loop.set_debug(True)
        return str(loop.run_until_complete(blocking_inside(loop)))


async def blocking_inside(loop: Loop) -> str:
    """As above, in any mode."""
    a, b = socket.socketpair()
    with a, b:
        b.send(b"x")
        return await error_of(loop.sock_recv(a, 1))


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that do not block."""
    a, b = socket.socketpair()
    a.setblocking(False)
    b.setblocking(False)
    return a, b


@arow(SOCKETS, "two `sock_recv` at once on one socket")
async def two_receives(loop: Loop) -> str:
    a, b = pair()
    with a, b:
        tasks = [asyncio.ensure_future(loop.sock_recv(a, 1)) for _ in range(2)]
        await asyncio.sleep(0.01)
        b.send(b"12")
        _, pending = await asyncio.wait(tasks, timeout=0.3)
        for task in pending:
            task.cancel()
        found = []
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                try:
                    found.append(await task)
                except RuntimeError:
                    return "RuntimeError"
        return "both, in order" if found == [b"1", b"2"] else f"{len(found)} of 2 end"


@arow(SOCKETS, "bytes of a `sock_recv` that is cancelled as they come")
async def cancelled(loop: Loop) -> str:
    a, b = pair()
    with a, b:
        task = asyncio.ensure_future(loop.sock_recv(a, 10))
        await asyncio.sleep(0.01)
        b.send(b"bytes")
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if await task == b"bytes":
                return "received"
        try:
            return "go to the next" if await asyncio.wait_for(loop.sock_recv(a, 10), 0.2) else "lost"
        except TimeoutError:
            return "lost"


@arow(SOCKETS, "`sock_recvfrom` and `sock_sendto`")
async def recvfrom(loop: Loop) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        try:
            await loop.sock_sendto(sock, b"x", sock.getsockname())
            return yes((await loop.sock_recvfrom(sock, 10))[0] == b"x")
        except NotImplementedError:
            return "NotImplementedError"


@arow(SOCKETS, "`sock_connect` to a port where nobody listens")
async def refused(loop: Loop) -> str:
    with socket.socket() as taken, socket.socket() as sock:
        taken.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        return await error_of(loop.sock_connect(sock, taken.getsockname()))


@arow(SOCKETS, "what `sock_accept` returns does not block")
async def accepted(loop: Loop) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()):
            conn, _ = await loop.sock_accept(listener)
            with conn:
                return yes(conn.gettimeout() == 0)


@arow(TRANSPORTS, "TCP_NODELAY is set")
async def no_delay(loop: Loop) -> str:
    async with connection(loop) as (transport, _, _peer):
        sock = transport.get_extra_info("socket")
        return yes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@arow(TRANSPORTS, "`get_extra_info('socket')` is")
async def socket_type(loop: Loop) -> str:
    async with connection(loop) as (transport, _, _peer):
        kind = type(transport.get_extra_info("socket"))
        return f"`{kind.__module__}.{kind.__name__}`"


@arow(TRANSPORTS, "`get_extra_info('peername')` after the connection is lost")
async def peername(loop: Loop) -> str:
    async with connection(loop) as (transport, protocol, peer):
        transport.abort()
        await protocol.lost
        return "the address" if transport.get_extra_info("peername") == peer.getsockname() else "None"


@arow(TRANSPORTS, "`write(str)`")
async def write_text(loop: Loop) -> str:
    async with connection(loop) as (transport, _, _peer):
        return raised(lambda: transport.write("text"))


@arow(TRANSPORTS, "`write` of a memoryview of other items than bytes")
async def write_view(loop: Loop) -> str:
    async with connection(loop) as (transport, _, peer):
        found = raised(lambda: transport.write(memoryview(bytes(8)).cast("I")), otherwise="")
        await asyncio.sleep(0.01)
        peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return found or f"sends {len(peer.recv(100))} of 8 bytes"
        return found or "sends nothing"


@arow(TRANSPORTS, "a buffer that is changed after `write(bytearray)`")
async def changed(loop: Loop) -> str:
    async with connection(loop) as (transport, _, peer):
        data = bytearray(b"before")
        transport.write(data)
        error = raised(lambda: data.__setitem__(slice(None), b"after!"), otherwise="")
        await asyncio.sleep(0.01)
        return error or f"sends {peer.recv(100).decode()!r}"


@arow(TRANSPORTS, "`write` after `close()`")
async def write_closed(loop: Loop) -> str:
    async with connection(loop) as (transport, protocol, _peer):
        transport.close()
        found = raised(lambda: transport.write(b"x"), otherwise="ignored")
        await protocol.lost
        return found


@arow(TRANSPORTS, "`write_eof()`, and reading on")
async def half_close(loop: Loop) -> str:
    async with connection(loop) as (transport, protocol, peer):
        transport.write(b"x")
        transport.write_eof()
        await asyncio.sleep(0.01)
        assert peer.recv(10) == b"x"
        assert peer.recv(10) == b""
        peer.send(b"more")
        await asyncio.sleep(0.02)
        return yes(protocol.data == b"more")


@arow(TRANSPORTS, "`connection_lost` inside `close()`")
async def lost_inside(loop: Loop) -> str:
    async with connection(loop) as (transport, protocol, _peer):
        transport.close()
        inside = "lost" in protocol.calls
        await protocol.lost
        return yes(inside)


@arow(TRANSPORTS, "`abort()`: `connection_lost` is told")
async def abort(loop: Loop) -> str:
    async with connection(loop) as (transport, protocol, _peer):
        transport.abort()
        await protocol.lost
        return repr(protocol.error)


@arow(TRANSPORTS, "a peer that resets: `connection_lost` is told")
async def reset(loop: Loop) -> str:
    async with connection(loop) as (_transport, protocol, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        await protocol.lost
        return type(protocol.error).__name__


@arow(TRANSPORTS, "`pause_reading()` twice")
async def pause_twice(loop: Loop) -> str:
    async with connection(loop) as (transport, _, _peer):
        transport.pause_reading()
        return raised(transport.pause_reading)


@arow(TRANSPORTS, "data that arrive right after `pause_reading()`")
async def paused(loop: Loop) -> str:
    async with connection(loop) as (transport, protocol, peer):
        peer.send(b"1")
        await asyncio.sleep(0.02)
        transport.pause_reading()
        peer.send(b"2")
        await asyncio.sleep(0.02)
        return "kept back" if protocol.data == b"1" else "delivered"


@arow(TRANSPORTS, "`get_write_buffer_limits()` by default")
async def limits(loop: Loop) -> str:
    async with connection(loop) as (transport, _, _peer):
        return str(transport.get_write_buffer_limits())


@arow(TRANSPORTS, "`set_protocol`, then data")
async def set_protocol(loop: Loop) -> str:
    async with connection(loop) as (transport, old, peer):
        new = Recorder()
        transport.set_protocol(new)
        peer.send(b"x")
        await asyncio.sleep(0.02)
        transport.set_protocol(old)
        return "go to the new one" if new.data else "go to the old one"


@arow(TRANSPORTS, "an exception in `data_received`")
async def failing(loop: Loop) -> str:
    seen: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: seen.append(context))
    async with connection(loop) as (_transport, protocol, peer):
        protocol.data_received = lambda _data: 1 // 0
        peer.send(b"x")
        await asyncio.sleep(0.02)
        closed = "lost" in protocol.calls
    return f"{'reported' if seen else 'silent'}, {'closes' if closed else 'keeps'} the connection"


@row(TRANSPORTS, "a transport that is forgotten warns")
def unclosed(make: Make) -> str:
    async def forget(loop: Loop) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await loop.create_connection(asyncio.Protocol, *listener.getsockname())

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        loop = make()
        loop.run_until_complete(forget(loop))
        loop.close()
        del loop
        gc.collect()
    return yes([one for one in seen if "transport" in str(one.message)])


@arow(SERVERS, "`Server.sockets` is a")
async def server_sockets(loop: Loop) -> str:
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    try:
        return f"{type(server.sockets).__name__} of `{type(server.sockets[0]).__name__}`"
    finally:
        server.close()


@arow(SERVERS, "`close_clients()` and `abort_clients()`")
async def close_clients(loop: Loop) -> str:
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    try:
        return yes(hasattr(server, "close_clients") and hasattr(server, "abort_clients"))
    finally:
        server.close()


@arow(SERVERS, "`wait_closed()` waits for the connections that are open")
async def wait_closed(loop: Loop) -> str:
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()):
        await asyncio.sleep(0.02)
        server.close()
        try:
            await asyncio.wait_for(server.wait_closed(), 0.1)
        except TimeoutError:
            return "yes"
    return "no"


@arow(SERVERS, "`create_server` on a name with several addresses listens on each")
async def several(loop: Loop) -> str:
    server = await loop.create_server(asyncio.Protocol, ["127.0.0.1", "127.0.0.2"], 0)
    try:
        return yes(len(server.sockets) == 2)
    finally:
        server.close()


@arow(SERVERS, "`close()` removes the path of a Unix socket")
async def unix_path(loop: Loop) -> str:
    with tempfile.TemporaryDirectory(prefix="px", dir="/tmp") as folder:
        path = Path(folder, "socket")
        server = await loop.create_unix_server(asyncio.Protocol, str(path))
        server.close()
        await server.wait_closed()
        return yes(not os.path.lexists(path))  # noqa: ASYNC240


@arow(SERVERS, "`create_unix_server(cleanup_socket=)`")
async def cleanup(loop: Loop) -> str:
    with tempfile.TemporaryDirectory(prefix="px", dir="/tmp") as folder:
        path = str(Path(folder, "socket"))
        try:
            server = await loop.create_unix_server(asyncio.Protocol, path, cleanup_socket=False)
        except TypeError:
            return "TypeError"
        server.close()
        return "accepted"


@arow(SERVERS, "`create_server(keep_alive=)`")
async def keep_alive(loop: Loop) -> str:
    try:
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, keep_alive=True)
    except TypeError:
        return "TypeError"
    server.close()
    return "accepted"


@arow(CONNECTING, "`create_connection(happy_eyeballs_delay=)`")
async def eyeballs(loop: Loop) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = listener.getsockname()
        try:
            transport, _ = await loop.create_connection(asyncio.Protocol, *where, happy_eyeballs_delay=0.1)
        except TypeError:
            return "TypeError"
        transport.close()
        return "accepted"


@arow(CONNECTING, "`create_connection(all_errors=True)` of what refuses")
async def all_errors(loop: Loop) -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return await error_of(loop.create_connection(asyncio.Protocol, *taken.getsockname(), all_errors=True))


@arow(CONNECTING, "message of a refused connection")
async def message(loop: Loop) -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        try:
            await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
        except OSError as error:
            return str(error).replace(str(port), "PORT").replace("'", "")
    return "connected"


@arow(CONNECTING, "`create_connection(sock=)` of a datagram socket")
async def wrong_kind(loop: Loop) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        return await error_of(loop.create_connection(asyncio.Protocol, sock=sock))


@arow(CONNECTING, "a cancelled `create_connection` leaves no descriptor")
async def cancelled_connect(loop: Loop) -> str:
    await asyncio.sleep(0.001)
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())
            task = asyncio.ensure_future(loop.create_connection(asyncio.Protocol, *full.getsockname()))
            await asyncio.sleep(0.02)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.02)
    gc.collect()
    return yes(len(os.listdir("/proc/self/fd")) <= before)


@arow(FILES, "`loop.sendfile`")
async def sendfile(loop: Loop) -> str:
    async with connection(loop) as (transport, _, peer):
        with tempfile.TemporaryFile() as file:
            file.write(b"contents")
            file.flush()
            try:
                await loop.sendfile(transport, file)
            except NotImplementedError:
                return "NotImplementedError"
        return yes(peer.recv(100) == b"contents")


@arow(FILES, "`loop.sock_sendfile`")
async def sock_sendfile(loop: Loop) -> str:
    a, b = pair()
    with a, b, tempfile.TemporaryFile() as file:
        file.write(b"contents")
        file.flush()
        try:
            await loop.sock_sendfile(a, file)
        except NotImplementedError:
            return "NotImplementedError"
        return yes(b.recv(100) == b"contents")
