"""Each family with fewer descriptors than it needs: an error, or a wait that can be cancelled,
and nothing is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
from typing import Any

import pytest

from .certs import Certificates
from .support import open_fds
from .test_cancelled_anywhere import SCENARIOS, _settled, _world, running


@contextlib.contextmanager
def _room_for(count: int) -> Any:
    """`count` descriptors can be had, and no more: the gaps are filled too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(open_fds())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
    fill: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                fill.append(os.dup(0))
        for _ in range(count):
            os.close(fill.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fill:
            os.close(fd)


def _explained(context: dict[str, Any]) -> bool:
    """What the loop may report: a listener that is out of descriptors, and handshakes that were given up."""
    exc = context.get("exception")
    return isinstance(exc, OSError) and (exc.errno in (errno.EMFILE, errno.ENFILE) or "SSL" in str(context))


@pytest.mark.ours  # stock asyncio leaves descriptors to the collector in several of these
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "files"])
async def test_nothing_is_left_when_descriptors_run_out(
    name: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.05)
    reported: list[dict[str, Any]] = []
    running().set_exception_handler(lambda _loop, context: reported.append(context))
    async with _world(certificates) as world:
        await SCENARIOS[name](world)
        await asyncio.sleep(0.01)
        before, others = open_fds(), asyncio.all_tasks()
        gc.collect()
        gc.disable()
        try:
            for count in range(9):
                with _room_for(count):
                    task = asyncio.ensure_future(SCENARIOS[name](world))
                    await asyncio.wait([task], timeout=0.1)
                task.cancel()
                # what a connection that the server has not accepted has still to send
                await asyncio.wait([task])
                if not task.cancelled() and task.exception() is not None:
                    # Older Pythons' create_server makes a server without a socket,
                    # and its first one is asked for.
                    assert isinstance(task.exception(), (OSError, IndexError)), task.exception()
                del task
                await _settled(before, others, count)
        finally:
            gc.enable()
        async with asyncio.timeout(10):
            await SCENARIOS[name](world)
        await _settled(before, others, -1)
    assert [context for context in reported if not _explained(context)] == []
