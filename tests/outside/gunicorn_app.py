"""The application that real gunicorn serves in the tests."""

from __future__ import annotations

import asyncio
import os
from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    """/pid answers at once; /slow when its process has been asked to end."""
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        print("in flight", flush=True)
        while os.path.exists(os.environ["GATE"]):  # noqa: ASYNC240
            await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": f"{os.getpid()}".encode()})
