"""An aiohttp server on proactorx's loop: hello, an upload, a download, and a websocket that echoes.

Run it, and talk to it:

    python examples/aiohttp_app.py
    curl http://127.0.0.1:8888/
    curl --data-binary @some.file http://127.0.0.1:8888/upload            (answers with its size and SHA-256)
    curl -o some.file http://127.0.0.1:8888/download/1000000              (a million bytes)
"""

import hashlib

from aiohttp import WSMsgType, web
from common import announce, listen, parser

import proactorx

PIECE = bytes(range(256)) * 256


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text="Hello from proactorx!\n")


async def upload(request: web.Request) -> web.Response:
    digest, size = hashlib.sha256(), 0
    async for data in request.content.iter_any():
        digest.update(data)
        size += len(data)
    return web.Response(text=f"{size} {digest.hexdigest()}\n")


async def download(request: web.Request) -> web.StreamResponse:
    size = int(request.match_info["size"])
    response = web.StreamResponse()
    response.content_length = size
    await response.prepare(request)
    for sent in range(0, size, len(PIECE)):
        await response.write(PIECE[: size - sent])
    return response


async def websocket(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


def application() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_post("/upload", upload)
    app.router.add_get(r"/download/{size:\d+}", download)
    app.router.add_get("/ws", websocket)
    return app


if __name__ == "__main__":
    args = parser(__doc__).parse_args()
    listener = listen(args)
    announce(listener.getsockname())
    web.run_app(
        application(),
        sock=listener,
        loop=proactorx.new_event_loop(args.backend),
        print=None,
        shutdown_timeout=1,
    )
