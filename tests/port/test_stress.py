"""Eight threads that do everything at once: each packet comes once, and every wake-up arrives."""

from __future__ import annotations

import functools
import random
import socket
from pathlib import Path

from proactorx import CompletionPort, PortClosed

from .conftest import NewPort
from .support import Member, Pairs

THREADS = 4
STEPS = 300


def _submit(
    port: CompletionPort, pool: list[tuple[socket.socket, socket.socket]], file: object, seed: int
) -> int:
    """How many packets will come of it."""
    dice, begun = random.Random(seed), 0
    for step in range(STEPS):
        one, other = dice.choice(pool)
        op = port.recv(one, 10)
        port.send(other, b"x")
        begun += 2
        if step % 5 == 0:
            op.cancel()
        if step % 7 == 0:
            port.post(step)
            begun += 1
        if step % 50 == 0:
            port.write(file, b"data", step)  # type: ignore[arg-type]
            begun += 1
    return begun


def _take(port: CompletionPort, seed: int) -> int:
    """How many came here."""
    dice, got = random.Random(seed), 0
    try:
        while True:
            got += len(port.get_many(5)) if seed % 2 else len([port.get()])
            chance = dice.random()
            if chance < 0.02:
                port.dissociate()
            elif chance < 0.04:
                with port.blocking():
                    pass
    except PortClosed:
        return got


def _run(
    port: CompletionPort, pool: list[tuple[socket.socket, socket.socket]], file: object, seed: int
) -> None:
    threads = [Member(port) for _ in range(2 * THREADS)]
    for number in range(THREADS):
        threads[number].begin(functools.partial(_submit, port, pool, file, 10 * seed + number))
        threads[THREADS + number].begin(functools.partial(_take, port, number))
    begun = sum(thread.outcome() for thread in threads[:THREADS])
    left = port.close()
    got = sum(thread.outcome() for thread in threads[THREADS:])
    for thread in threads:
        thread.end()
    assert got + len(left) == begun


def test_eight_threads(new_port: NewPort, pairs: Pairs, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        for seed in range(4):
            pool = [pairs.pair() for _ in range(8)]
            port = new_port(3)
            for sock in (*(sock for pair in pool for sock in pair), file):
                port.bind(sock)
            _run(port, pool, file, seed)
