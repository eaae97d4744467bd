"""``demo``: compare an echo server on this loop with one on stock asyncio under the same load.

It runs three or more processes: one server per loop, and the clients. Each round loads one server while the
other is idle. The rounds alternate, so that other load on the machine affects both. Each server reports its
own CPU time just before and just after a round, while it is idle,
so the figure covers exactly the requests counted.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from proactorx.cli.children import ANSWER_TIME, START_TIME, Child, child, cpu_of
from proactorx.cli.comparison import BUSY, LOOPS, Result, Round
from proactorx.cli.errors import NO_RICH, CliError

MAX_ROUNDS = 5
MIN_ROUND = 0.5  # seconds
SPARE_FDS = 40  # descriptors a server or client needs beside its connections


def demo(*, connections: int, seconds: float, size: int, backend: str | None) -> int:
    """Run the command ``demo`` and return the exit code."""
    try:
        from proactorx.cli import render
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        raise CliError(NO_RICH, 2) from None
    rounds = max(1, min(MAX_ROUNDS, int(seconds / MIN_ROUND)))
    result = Result(connections, size, seconds / rounds)
    _fit_descriptors(result)
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(render.progress(2 * rounds))
        _measure(result, rounds, backend, stack, show)
    _note_limits(result)
    render.show_demo(result)
    return 0


def _measure(
    result: Result, rounds: int, backend: str | None, stack: contextlib.ExitStack, show: Callable[[str], None]
) -> None:
    show("starting")
    chosen = ["--backend", backend] if backend is not None else []
    start = stack.enter_context
    servers = {
        "proactorx": start(child("demo", "echo_server", "--loop", "proactorx", *chosen)),
        "asyncio": start(child("demo", "echo_server", "--loop", "asyncio")),
    }
    clients = [start(child("demo", "load")) for _ in range(_client_count(result.connections))]
    for name, server in servers.items():
        result.servers[name] = server.answer(START_TIME)
    for number in range(rounds):
        for name, server in servers.items():
            show(f"round {number + 1} of {rounds}: {name}")
            result.rounds[name].append(_round(result, server, result.servers[name]["port"], clients))


def _client_count(connections: int) -> int:
    """Return the number of clients: up to three, as cores allow,
    because one may cost more CPU than the server.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(3, cores - 1, connections))


def _round(result: Result, server: Child, port: int, clients: Sequence[Child]) -> Round:
    share = [len(range(at, result.connections, len(clients))) for at in range(len(clients))]
    _all(clients, ({"do": "open", "port": port, "connections": n, "size": result.size} for n in share))
    machine, cpu = _machine_busy(), cpu_of(server)
    got = _all(clients, ({"do": "go", "seconds": result.seconds} for _ in clients), result.seconds)
    cpu = cpu_of(server) - cpu
    now = _machine_busy()
    _all(clients, ({"do": "close"} for _ in clients))
    requests = sum(one["requests"] for one in got)
    wall = max(one["wall"] for one in got)
    p50, p90, p99 = _percentiles(got)
    others = None
    if machine is not None and now is not None:
        others = max(0.0, (now - machine - cpu - sum(one["cpu"] for one in got)) / wall)
    client_busy = max(one["cpu"] / one["wall"] for one in got)
    return Round(requests / wall, p50, p90, p99, cpu / requests, cpu / wall, client_busy, others)


def _all(
    clients: Sequence[Child], commands: Iterator[dict[str, Any]], seconds: float = 0.0
) -> list[dict[str, Any]]:
    for client, command in zip(clients, commands, strict=True):
        client.ask(**command)
    return [client.answer(seconds + ANSWER_TIME) for client in clients]


def _percentiles(got: list[dict[str, Any]]) -> list[float]:
    """The median and the 90th and 99th percentile, in seconds, over all clients."""
    times: Counter[int] = Counter()
    for one in got:
        times.update({int(micros): count for micros, count in one["latencies"].items()})
    total = times.total()
    out, seen = [], 0
    wanted = [0.50, 0.90, 0.99]
    for micros in sorted(times):
        seen += times[micros]
        while wanted and seen >= wanted[0] * total:
            out.append(micros / 1e6)
            del wanted[0]
    return out


def _machine_busy() -> float | None:
    """Return the CPU seconds that the machine has spent on everything, or None if it does not report them."""
    if sys.platform != "linux":
        return None
    try:
        with open("/proc/stat", "rb") as file:
            user, nice, system, _idle, _wait, irq, soft, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + soft + steal) / float(os.sysconf("SC_CLK_TCK"))


def _fit_descriptors(result: Result) -> None:
    """Raise the limit of open files as far as possible; if that is too low, use fewer connections."""
    if sys.platform == "win32":
        return
    import resource

    need = result.connections + SPARE_FDS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return
    limit = need if hard == resource.RLIM_INFINITY else min(need, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, soft), hard))
    except (OSError, ValueError):
        limit = soft
    if limit < need:
        fewer = max(1, limit - SPARE_FDS)
        result.notes.append(
            f"Connections cut from {result.connections} to {fewer}: a process here may open only {limit} "
            "files (ulimit -Hn)."
        )
        result.connections = fewer


def _note_limits(result: Result) -> None:
    """Add notes on conditions that affect the figures."""
    others = [one.others for loop in LOOPS for one in result.rounds[loop] if one.others is not None]
    taken = statistics.median(others) if others else 0.0
    if taken >= 0.25:
        result.notes.append(
            f"Other programs took {taken:.1f} of the machine's {os.cpu_count()} cores meanwhile."
        )
    if not result.loaded:
        busy = " and ".join(f"{result.median(loop, 'server_busy'):.0%}" for loop in LOOPS)
        client = max(result.median(loop, "client_busy") for loop in LOOPS)
        limit = ", the bottleneck" if client >= BUSY else ""
        result.notes.append(
            f"The servers were busy only {busy} of the time (the client: {client:.0%}{limit}), so requests/s "
            "and latency depend on the client and the machine too. Compare CPU per request."
        )
