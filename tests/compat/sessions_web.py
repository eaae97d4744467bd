"""Sessions of web servers, clients and frameworks."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from sessions import Steps, app, folder, free_port, http, on_a_ring, program, session, until_open

HERE = Path(__file__).parent


@session("uvicorn")
async def uvicorn_(steps: Steps) -> None:
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    task = asyncio.create_task(server._serve())
    await until_open(port)
    await http(steps, port)
    server.should_exit = True
    await task
    steps.check(server.started)


@session("hypercorn")
async def hypercorn_(steps: Steps) -> None:
    import hypercorn.asyncio
    import hypercorn.config

    port, stop = free_port(), asyncio.Event()
    config = hypercorn.config.Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    task = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))
    await until_open(port)
    await http(steps, port)
    stop.set()
    await task
    steps.check(task.done())


def _environment() -> dict[str, str]:
    paths = [str(HERE), str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@session("gunicorn")
async def gunicorn_(steps: Steps) -> None:
    port = free_port()
    argv = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        "support.gunicorn_worker.Worker",
        "--bind",
        f"127.0.0.1:{port}",
    ]
    argv += ["-w", "2", "--no-control-socket", "sessions:app"]
    async with program(*argv, port=port, env=_environment()) as process:
        await http(steps, port)
        steps.check(on_a_ring(process.pid))
        process.terminate()
        steps.check(await asyncio.to_thread(process.wait, 10), 0)


@session("granian")
async def granian_(steps: Steps) -> None:
    port = free_port()
    argv = [sys.executable, HERE / "serve_granian.py", str(port)]
    async with program(*argv, port=port, env=_environment()) as process:
        await http(steps, port)
        steps.check(on_a_ring(process.pid))
        process.terminate()
        await asyncio.to_thread(process.wait, 10)
        steps.check(process.returncode in (0, -15))


@session("aiohttp")
async def aiohttp_(steps: Steps) -> None:
    import aiohttp
    from aiohttp import web

    async def echo(request: Any) -> Any:
        return web.Response(body=await request.read())

    async def talk(request: Any) -> Any:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data)
        return ws

    async def file(request: Any) -> Any:
        return web.FileResponse(__file__)

    server = web.Application(client_max_size=1 << 24)
    server.add_routes([web.post("/", echo), web.get("/ws", talk), web.get("/file", file)])
    runner = web.AppRunner(server)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        for size in (0, 1, 1_000_000):
            async with client.post("/", data=b"x" * size) as answer:
                steps.check(len(await answer.read()), size)
        async with client.get("/file") as answer:
            steps.check(await answer.read(), Path(__file__).read_bytes())  # noqa: ASYNC240
        async with client.ws_connect("/ws") as ws:
            for number in range(5):
                await ws.send_str(f"{number}")
                steps.check((await ws.receive()).data, f"{number}")

        async def one() -> int:
            async with client.post("/", data=b"x") as answer:
                return answer.status

        steps.check(await asyncio.gather(*(one() for _ in range(50))), [200] * 50)
    await runner.cleanup()


@session("fastapi")
async def fastapi_(steps: Steps) -> None:
    import fastapi
    import httpx
    import uvicorn

    api = fastapi.FastAPI()

    @api.get("/items/{number}")
    async def item(number: int) -> dict[str, int]:
        return {"number": number}

    @api.get("/blocking")
    def blocking() -> str:
        return "from a thread"

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    task = asyncio.create_task(server._serve())
    await until_open(port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for number in range(5):
            steps.check((await client.get(f"/items/{number}")).json(), {"number": number})
        steps.check((await client.get("/items/x")).status_code, 422)
        steps.check((await client.get("/blocking")).json(), "from a thread")
        steps.check((await client.get("/openapi.json")).json()["info"]["title"], "FastAPI")
    server.should_exit = True
    await task


@session("starlette")
async def starlette_(steps: Steps) -> None:
    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    done = asyncio.Event()

    async def parts() -> Any:
        for number in range(100):
            yield f"{number},"

    async def notify() -> None:
        done.set()

    routes = [
        Route("/file", lambda _request: FileResponse(__file__)),
        Route("/stream", lambda _request: StreamingResponse(parts())),
        Route("/task", lambda _request: PlainTextResponse("x", background=BackgroundTask(notify))),
    ]
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=port, log_level="error"))
    task = asyncio.create_task(server._serve())
    await until_open(port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        steps.check((await client.get("/file")).content, Path(__file__).read_bytes())  # noqa: ASYNC240
        steps.check((await client.get("/stream")).text.count(","), 100)
        steps.check((await client.get("/task")).text, "x")
        await asyncio.wait_for(done.wait(), 5)
        steps.check(done.is_set())
    server.should_exit = True
    await task


@session("tornado")
async def tornado_(steps: Steps) -> None:
    import tornado.httpclient
    import tornado.httpserver
    import tornado.iostream
    import tornado.tcpclient
    import tornado.tcpserver
    import tornado.web

    class Handler(tornado.web.RequestHandler):  # type: ignore[misc]
        def post(self) -> None:
            self.write(self.request.body)

    class Echo(tornado.tcpserver.TCPServer):  # type: ignore[misc]
        async def handle_stream(self, stream: Any, address: Any) -> None:
            try:
                while True:
                    await stream.write(await stream.read_until(b"\n"))
            except tornado.iostream.StreamClosedError:
                pass

    port = free_port()
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/", Handler)]))
    server.listen(port, "127.0.0.1")
    client = tornado.httpclient.AsyncHTTPClient()
    for size in (1, 100_000):
        answer = await client.fetch(f"http://127.0.0.1:{port}/", method="POST", body=b"x" * size)
        steps.check(len(answer.body), size)
    echo_port = free_port()
    echo = Echo()
    echo.listen(echo_port, "127.0.0.1")
    stream = await tornado.tcpclient.TCPClient().connect("127.0.0.1", echo_port)
    for number in range(5):
        await stream.write(b"%d\n" % number)
        steps.check(await stream.read_until(b"\n"), b"%d\n" % number)
    stream.close()
    server.stop()
    echo.stop()
    await server.close_all_connections()


@session("websockets")
async def websockets_(steps: Steps) -> None:
    from websockets.asyncio.client import connect
    from websockets.asyncio.server import serve

    async def echo(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)

    async with serve(echo, "127.0.0.1", 0, max_size=1 << 24) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", max_size=1 << 24, proxy=None) as ws:
            for message in ("text", b"bytes", b"x" * 1_000_000):
                await ws.send(message)
                steps.check(await ws.recv(), message)
            pong = await ws.ping()
            steps.check(await pong >= 0)

        async def one(number: int) -> bool:
            async with connect(f"ws://127.0.0.1:{port}", proxy=None) as ws:
                await ws.send(f"{number}")
                return bool(await ws.recv() == f"{number}")

        steps.check(all(await asyncio.gather(*map(one, range(20)))))


@session("httpx")
async def httpx_(steps: Steps) -> None:
    import httpx
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    task = asyncio.create_task(server._serve())
    await until_open(port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        steps.check((await client.get("/")).text, "hello")
        steps.check(len((await client.post("/", content=b"x" * 1_000_000)).content), 1_000_000)
        async with client.stream("POST", "/", content=b"y" * 100_000) as answer:
            steps.check(sum([len(part) async for part in answer.aiter_bytes()]), 100_000)
        answers = await asyncio.gather(*(client.get("/") for _ in range(30)))
        steps.check([answer.status_code for answer in answers], [200] * 30)
        try:
            await client.get(f"http://127.0.0.1:{free_port()}/")
        except httpx.ConnectError:
            steps.check(True)
    server.should_exit = True
    await task


@session("jupyter-server")
async def jupyter(steps: Steps) -> None:
    port = free_port()
    with folder() as home:
        argv = [sys.executable, HERE / "serve_jupyter.py", str(port), home]
        env = _environment() | {"HOME": str(home), "JUPYTER_RUNTIME_DIR": str(home)}
        async with program(*argv, port=port, env=env) as process:
            steps.check(on_a_ring(process.pid))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            words = {"/api": b"version", "/api/contents": b"content", "/api/status": b"kernels"}
            for path, word in words.items():
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                steps.check(head.startswith(b"HTTP/1.1 200"))
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                steps.check(word in await reader.readexactly(length))
            writer.close()
