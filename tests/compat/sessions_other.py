"""Sessions of clients of databases and queues, of other protocols, and of tools."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from sessions import Steps, find, folder, free_port, program, session


@session("anyio")
async def anyio_(steps: Steps) -> None:
    import anyio
    from anyio.streams.text import TextReceiveStream

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def echo(stream: Any) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve, echo)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            for number in range(5):
                await stream.send(b"%d" % number)
                steps.check(await stream.receive(), b"%d" % number)
        group.cancel_scope.cancel()
    async with await anyio.open_process([sys.executable, "-c", "print('child')"]) as process:
        assert process.stdout is not None
        steps.check("".join([text async for text in TextReceiveStream(process.stdout)]), "child\n")
    steps.check(await anyio.to_thread.run_sync(lambda: 42), 42)
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep_forever()
    steps.check(scope.cancelled_caught)
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as udp:
        where = udp.extra(anyio.abc.SocketAttribute.local_address)
        await udp.sendto(b"x", *where)
        steps.check((await udp.receive())[0], b"x")


@contextlib.asynccontextmanager
async def postgres() -> Any:
    """A server of PostgreSQL: its port."""
    initdb, postgres, port, user = find("initdb"), find("postgres"), free_port(), "nobody"
    with folder(user) as home:
        options: dict[str, Any] = {"user": user} if os.geteuid() == 0 else {}
        made = [initdb, "-D", home / "data", "-A", "trust", "-U", "postgres", "--no-sync"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd="/", **options)  # noqa: ASYNC221
        argv = [postgres, "-D", home / "data", "-p", str(port), "-k", home, "-h", "127.0.0.1", "-F"]
        async with program(*argv, port=port, user=user):
            yield port


@session("asyncpg")
async def asyncpg_(steps: Steps) -> None:
    import asyncpg

    async with postgres() as port:
        for _ in range(50):
            try:
                pool = await asyncpg.create_pool(host="127.0.0.1", port=port, user="postgres", ssl=False)
                break
            except asyncpg.CannotConnectNowError:
                await asyncio.sleep(0.1)
        async with pool:
            steps.check(await pool.fetchval("select 1"), 1)
            await pool.execute("create table t (n int, words text)")
            await pool.executemany("insert into t values ($1, $2)", [(n, f"{n}" * 1000) for n in range(500)])
            steps.check(await pool.fetchval("select count(*) from t"), 500)
            many = await asyncio.gather(*(pool.fetchval("select $1::int", n) for n in range(50)))
            steps.check(many, [*range(50)])
            async with pool.acquire() as one:
                heard: list[str] = []
                await one.add_listener("channel", lambda *args: heard.append(args[-1]))
                await pool.execute("notify channel, 'news'")
                await asyncio.sleep(0.2)
                steps.check(heard, ["news"])
            try:
                await asyncio.wait_for(pool.fetchval("select pg_sleep(5)"), 0.1)
            except TimeoutError:
                steps.check(True)
            steps.check(len(await pool.fetch("select * from t")), 500)


@session("psycopg")
async def psycopg_(steps: Steps) -> None:
    import psycopg

    async with postgres() as port:
        where = f"host=127.0.0.1 port={port} user=postgres sslmode=disable gssencmode=disable"
        for _ in range(50):
            try:
                connection = await psycopg.AsyncConnection.connect(where, autocommit=True)
                break
            except psycopg.OperationalError:
                await asyncio.sleep(0.1)
        async with connection, connection.cursor() as cursor:
            await cursor.execute("select 1")
            steps.check(await cursor.fetchone(), (1,))
            await cursor.execute("create table t (n int)")
            async with cursor.copy("copy t from stdin") as copy:
                for number in range(5000):
                    await copy.write_row((number,))
            await cursor.execute("select sum(n) from t")
            steps.check(await cursor.fetchone(), (5000 * 4999 // 2,))
            steps.check(len([row async for row in cursor.stream("select n from t")]), 5000)
            task = asyncio.create_task(connection.execute("select pg_sleep(20)"))
            await asyncio.sleep(0.1)
            await connection.cancel_safe()
            try:
                await task
            except psycopg.errors.QueryCanceled:
                steps.check(True)


@session("redis")
async def redis_(steps: Steps) -> None:
    import redis.asyncio

    port = free_port()
    with folder() as home:
        argv = [find("redis-server"), "--port", str(port), "--save", "", "--dir", home]
        async with program(*argv, port=port), redis.asyncio.Redis(port=port) as client:
            steps.check(await client.ping())
            await client.set("key", b"x" * 1_000_000)
            steps.check(len(await client.get("key")), 1_000_000)
            async with client.pipeline() as pipe:
                for _ in range(1000):
                    pipe.incr("n")
                steps.check((await pipe.execute())[-1], 1000)
            async with client.pubsub() as heard:
                await heard.subscribe("channel")
                await heard.get_message(timeout=2)
                await client.publish("channel", "news")
                steps.check((await heard.get_message(timeout=2))["data"], b"news")
            found = await asyncio.gather(*(client.incr("m") for _ in range(50)))
            steps.check(sorted(found), [*range(1, 51)])


@session("aiomysql")
async def aiomysql_(steps: Steps) -> None:
    import aiomysql

    server, install, port = find("mariadbd"), find("mariadb-install-db"), free_port()
    with folder("nobody") as home:
        user: dict[str, Any] = {"user": "nobody"} if os.geteuid() == 0 else {}
        made = [install, "--no-defaults", f"--datadir={home}/data"]
        made.append("--auth-root-authentication-method=normal")
        nowhere = subprocess.DEVNULL
        subprocess.run(made, check=True, stdout=nowhere, stderr=nowhere, cwd="/", **user)  # noqa: ASYNC221
        argv = [server, "--no-defaults", f"--datadir={home}/data", f"--socket={home}/s", f"--port={port}"]
        async with program(*argv, "--bind-address=127.0.0.1", port=port, user="nobody"):
            connection = await aiomysql.connect(host="127.0.0.1", port=port, user="root")
            async with connection.cursor() as cursor:
                await cursor.execute("select 1")
                steps.check(await cursor.fetchone(), (1,))
                await cursor.execute("create database d")
                await cursor.execute("create table d.t (n int)")
                await cursor.executemany("insert into d.t values (%s)", [(n,) for n in range(500)])
                await cursor.execute("select sum(n) from d.t")
                steps.check(int((await cursor.fetchone())[0]), 500 * 499 // 2)
            connection.close()


@session("aiosqlite")
async def aiosqlite_(steps: Steps) -> None:
    import aiosqlite

    with folder() as home:
        async with aiosqlite.connect(home / "data") as base:
            await base.execute("create table t (n integer)")
            await base.executemany("insert into t values (?)", [(n,) for n in range(1000)])
            await base.commit()
            async with base.execute("select n from t order by n") as cursor:
                steps.check([row[0] async for row in cursor], [*range(1000)])
            rows = await asyncio.gather(*(base.execute_fetchall("select count(*) from t") for _ in range(20)))
            steps.check([next(iter(row))[0] for row in rows], [1000] * 20)


@session("asyncssh")
async def asyncssh_(steps: Steps) -> None:
    import asyncssh

    key = asyncssh.generate_private_key("ssh-ed25519")

    class Server(asyncssh.SSHServer):  # type: ignore[misc]
        def begin_auth(self, username: str) -> bool:
            return False

    async def handle(process: Any) -> None:
        if process.command == "cat":
            async for line in process.stdin:
                process.stdout.write(line)
        else:
            process.stdout.write(f"ran {process.command}")
        process.exit(3)

    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[key],
        server_factory=Server,
        process_factory=handle,
        sftp_factory=True,
    )
    with folder() as home:
        async with asyncssh.connect(
            "127.0.0.1", listener.get_port(), known_hosts=None, config=None
        ) as client:
            found = await client.run("words")
            steps.check((found.stdout, found.exit_status), ("ran words", 3))
            found = await client.run("cat", input="line\n" * 10_000)
            steps.check(len(found.stdout), 50_000)
            many = await asyncio.gather(*(client.run(f"{n}") for n in range(10)))
            steps.check([one.stdout for one in many], [f"ran {n}" for n in range(10)])
            async with client.start_sftp_client() as sftp:
                (home / "from").write_bytes(b"x" * 3_000_000)
                await sftp.get(str(home / "from"), str(home / "to"))
            steps.check((home / "to").stat().st_size, 3_000_000)
    listener.close()


@session("aiosmtpd")
async def aiosmtpd_(steps: Steps) -> None:
    import smtplib

    from aiosmtpd.smtp import SMTP

    seen: list[bytes] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            seen.append(envelope.content)
            return "250 OK"

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), hostname="h", loop=loop), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    def send(number: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="h") as client:
            client.sendmail("a@h", ["b@h"], f"Subject: {number}\r\n\r\n" + "line\r\n" * 1000)

    await asyncio.gather(*(asyncio.to_thread(send, number) for number in range(4)))
    steps.check(len(seen), 4)
    steps.check(all(mail.count(b"line\r\n") == 1000 for mail in seen))
    server.close()


@session("nats-py")
async def nats_(steps: Steps) -> None:
    import nats

    port = free_port()
    async with program(find("nats-server"), "-a", "127.0.0.1", "-p", str(port), port=port):
        client = await nats.connect(f"nats://127.0.0.1:{port}")
        heard: list[bytes] = []

        async def hear(message: Any) -> None:
            heard.append(message.data)

        async def answer(message: Any) -> None:
            await message.respond(message.data + b"!")

        await client.subscribe("news", cb=hear)
        await client.subscribe("ask", cb=answer)
        for number in range(1000):
            await client.publish("news", b"%d" % number)
        await client.flush()
        await asyncio.sleep(0.3)
        steps.check(heard, [b"%d" % number for number in range(1000)])
        steps.check((await client.request("ask", b"question")).data, b"question!")
        await client.drain()


@session("grpcio")
async def grpc_(steps: Steps) -> None:
    import grpc

    async def double(data: bytes, context: Any) -> bytes:
        return data * 2

    async def count(data: bytes, context: Any) -> Any:
        for number in range(20):
            yield b"%d" % number

    handlers = {
        "Double": grpc.unary_unary_rpc_method_handler(double),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        steps.check(await channel.unary_unary("/s/Double")(b"x"), b"xx")
        counted = [part async for part in channel.unary_stream("/s/Count")(b"")]
        steps.check(counted, [b"%d" % n for n in range(20)])
        many = await asyncio.gather(*(channel.unary_unary("/s/Double")(b"%d" % n) for n in range(30)))
        steps.check(many, [b"%d%d" % (n, n) for n in range(30)])
    await server.stop(None)


@session("pyzmq")
async def zmq_(steps: Steps) -> None:
    import zmq
    import zmq.asyncio

    context = zmq.asyncio.Context()
    with context.socket(zmq.REP) as server, context.socket(zmq.REQ) as client:
        port = server.bind_to_random_port("tcp://127.0.0.1")
        client.connect(f"tcp://127.0.0.1:{port}")
        for number in range(20):
            await client.send(b"%d" % number)
            await server.send(await server.recv())
            steps.check(await client.recv(), b"%d" % number)
    with context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        push.connect(f"tcp://127.0.0.1:{port}")
        for number in range(1000):
            await push.send(b"%d" % number)
        steps.check([await pull.recv() for _ in range(1000)], [b"%d" % number for number in range(1000)])
    context.term()


@session("aiodns")
async def aiodns_(steps: Steps) -> None:
    import aiodns

    class Server(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            question = data[12 : data.index(b"\0", 12) + 5]
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x0a\1\2\3"
            self.transport.sendto(data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + answer, address)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    resolver = aiodns.DNSResolver(nameservers=["127.0.0.1"], udp_port=port, flags=1 << 4)
    found = await asyncio.gather(*(resolver.query_dns(f"host{n}.test", "A") for n in range(20)))
    steps.check(len(found), 20)
    steps.check(all("10.1.2.3" in repr(one) for one in found))
    await resolver.close()
    transport.close()


@session("distributed")
async def distributed_(steps: Steps) -> None:
    import distributed

    options: dict[str, Any] = {"dashboard_address": None, "processes": False, "protocol": "tcp"}
    async with (
        distributed.LocalCluster(2, asynchronous=True, threads_per_worker=1, **options) as cluster,
        distributed.Client(cluster, asynchronous=True) as client,
    ):
        futures = client.map(lambda n: n + 1, range(200))
        steps.check(await client.gather(futures), [*range(1, 201)])
        steps.check(await client.submit(sum, futures), sum(range(1, 201)))
        steps.check(len(await client.scatter([b"x" * 1_000_000], broadcast=True)), 1)


@session("aioquic")
async def aioquic_(steps: Steps) -> None:
    import ssl

    import trustme
    from aioquic.asyncio import connect, serve
    from aioquic.quic.configuration import QuicConfiguration

    async def echo(reader: Any, writer: Any) -> None:
        writer.write(await reader.read())
        writer.write_eof()

    with folder() as home:
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(home / "pem"))
        configuration = QuicConfiguration(is_client=False)
        configuration.load_cert_chain(home / "pem", home / "pem")
    port = free_port()
    handler = lambda *streams: asyncio.ensure_future(echo(*streams))  # noqa: E731
    server = await serve("127.0.0.1", port, configuration=configuration, stream_handler=handler)
    client = QuicConfiguration(is_client=True, verify_mode=ssl.CERT_NONE)
    async with connect("127.0.0.1", port, configuration=client) as connection:
        for size in (1, 200_000):
            reader, writer = await connection.create_stream()
            writer.write(b"x" * size)
            writer.write_eof()
            steps.check(len(await reader.read()), size)
        await connection.ping()
        steps.check(True)
    server.close()


@session("aiofastnet")
async def aiofastnet_(steps: Steps) -> None:
    import aiofastnet

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    loop = asyncio.get_running_loop()
    server = await aiofastnet.create_server(loop, Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    for size in (1, 1_000_000):
        writer.write(b"x" * size)
        steps.check(len(await reader.readexactly(size)), size)
    writer.close()
    server.close()


@session("watchfiles")
async def watchfiles_(steps: Steps) -> None:
    import watchfiles

    with folder() as home:

        async def change() -> None:
            for number in range(200):
                await asyncio.sleep(0.1)
                (home / f"{number % 3}").write_text("x")

        task = asyncio.create_task(change())
        async for changes in watchfiles.awatch(home, step=20):
            steps.check({Path(name).parent.name for _, name in changes}, {home.name})
            break
        task.cancel()


@session("playwright")
async def playwright_(steps: Steps) -> None:
    """Its driver, a program of node's that it talks to over pipes; no browser."""
    from playwright.async_api import async_playwright

    async with async_playwright() as driver:
        steps.check(driver.chromium.name, "chromium")
        request = await driver.request.new_context()
        try:
            await request.get(f"http://127.0.0.1:{free_port()}/")
        except Exception as error:
            steps.check("ECONNREFUSED" in str(error))
        await request.dispose()


PLUGIN = """
import asyncio, pytest
from support.loops import maker

def pytest_asyncio_loop_factories(config, item):
    return {"loop": maker("LOOP")}
"""
TESTS = """
import asyncio

async def test_sleep():
    await asyncio.sleep(0)
    assert MODULE in type(asyncio.get_running_loop()).__module__

async def test_streams():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x\\n")
    assert await reader.read() == b"x\\n"
    writer.close()
    server.close()
"""


@session("pytest-asyncio")
async def pytest_asyncio_(steps: Steps) -> None:
    with folder() as home:
        name = os.environ["TESTED_LOOP"]
        (home / "conftest.py").write_text(PLUGIN.replace("LOOP", name))
        (home / "test_it.py").write_text(TESTS.replace("MODULE", repr(name)))
        here = Path(__file__).parent
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[1])])}
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", home,
            stdout=-1, stderr=-2, cwd=home, env=env,
        )  # fmt: skip
        printed, _ = await child.communicate()
        assert child.returncode == 0, printed.decode()
        steps.check(b"2 passed" in printed)
