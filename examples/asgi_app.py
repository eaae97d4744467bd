"""A small ASGI application, and uvicorn on proactorx's loop to serve it.

Run it either way, and talk to it:

    python examples/asgi_app.py
    uvicorn --loop proactorx:new_event_loop --app-dir examples --port 8888 asgi_app:app   (uvicorn 0.36)
    curl http://127.0.0.1:8888/
    curl --data-binary @some.file http://127.0.0.1:8888/upload      (answers with its size and SHA-256)
    curl -o some.file http://127.0.0.1:8888/download/1000000        (a million bytes)
    curl -N http://127.0.0.1:8888/ticks                             (ticks until you disconnect)
"""

import asyncio
import contextlib
import hashlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Coroutine[Any, Any, Message]]
Pages = dict[str, Callable[..., AsyncIterator[bytes]]]
PIECE = bytes(range(256)) * 256


async def app(scope: Message, receive: Receive, send: Callable[[Message], Coroutine[Any, Any, None]]) -> None:
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    _, route, *rest = scope["path"].split("/")
    pages: Pages = {"upload": upload, "download": download, "ticks": ticks}
    page = pages.get(route, hello)(receive, *rest)
    piece = await anext(page, b"")  # read the upload before the answer starts
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": piece, "more_body": True})
    async for piece in page:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def hello(*_: Any) -> AsyncIterator[bytes]:
    yield b"Hello from proactorx!\n"


async def upload(receive: Receive) -> AsyncIterator[bytes]:
    digest, size, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()  # absent if the client has gone
        body, more = message.get("body", b""), message.get("more_body", False)
        digest.update(body)
        size += len(body)
    yield f"{size} {digest.hexdigest()}\n".encode()


async def download(_receive: Receive, size: str) -> AsyncIterator[bytes]:
    for left in range(int(size), 0, -len(PIECE)):
        yield PIECE[:left]


async def ticks(receive: Receive) -> AsyncIterator[bytes]:
    await receive()  # the request's empty body; the next message is the disconnect
    gone = asyncio.create_task(receive())
    while not gone.done():
        yield b"tick\n"
        await asyncio.wait([gone], timeout=0.1)
    print("the listener has gone", flush=True)


if __name__ == "__main__":
    import uvicorn
    from common import announce, listen, parser

    import proactorx

    args = parser(__doc__).parse_args()
    # uvicorn raises the signal again after its shutdown
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with listen(args) as listener, contextlib.suppress(KeyboardInterrupt):
        announce(listener.getsockname())
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off"))
        proactorx.run(server.serve(sockets=[listener]), backend=args.backend)
