"""Ports, operations, keys and buffers are let go when they have ended."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from pathlib import Path

import pytest

from proactorx import CompletionPort

from .support import LIMIT, Pairs, until


def _use(name: str, pairs: Pairs, folder: Path) -> list[weakref.ref[object]]:
    """Everything that a port can do, once; what must be gone afterwards."""

    class Key:
        pass

    one, other = pairs.pair()
    with CompletionPort(2, name) as port, (folder / "file").open("w+b", buffering=0) as file:
        key, buffer = Key(), bytearray(100)
        port.bind(one, key)
        port.bind(file, key)
        ops = [
            port.recv(one, 10),
            port.recv_into(one, buffer),
            port.send(one, b"x" * 100),
            port.write(file, b"data", 0),
        ]
        other.send(b"y" * 10)
        ops[1].cancel()
        thread = threading.Thread(target=lambda: (port.get(LIMIT), port.post(key, [port])))
        thread.start()
        thread.join()
        for _ in range(2):
            port.get(LIMIT)
        ops.append(port.recv(one, 10))
        refs: list[weakref.ref[object]] = [weakref.ref(port), weakref.ref(key), *map(weakref.ref, ops)]
        port.close()
        port.dissociate()
        return refs


@pytest.mark.parametrize("collect", [False, True])
def test_nothing_is_left(variant: str, pairs: Pairs, tmp_path: Path, collect: bool) -> None:
    """... also when no garbage collector runs, so there are no cycles."""
    gc.collect()
    if not collect:
        gc.disable()
    try:
        refs = _use(variant.partition("-")[0], pairs, tmp_path)
        if collect:
            gc.collect()
        # an IO thread may hold the last one for a moment
        until(lambda: [ref() for ref in refs] == [None] * len(refs))
    finally:
        gc.enable()


@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="blocks are not counted there"
)
def test_memory_does_not_grow(variant: str, pairs: Pairs, tmp_path: Path) -> None:
    for _ in range(10):
        _use(variant.partition("-")[0], pairs, tmp_path)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(100):
        _use(variant.partition("-")[0], pairs, tmp_path)
    gc.collect()
    # the sockets of the fixture are 2 of some 10 blocks each round
    assert sys.getallocatedblocks() - before < 3000


def test_associated_threads_do_not_keep_a_port(variant: str) -> None:
    port = CompletionPort(1, variant.partition("-")[0])
    port.get_many(1, 0)
    port.close()
    ref = weakref.ref(port)
    del port  # this thread is still associated with it
    assert ref() is None
