"""``demo``: compare an echo server on this loop with one on stock asyncio under the same load.

It runs three or more processes: one server per loop, and the clients. Each round loads one server while the
other is idle. The rounds alternate, so that other load on the machine affects both. Each server reports its
own CPU time just before and just after a round, while it is idle,
so the figure covers exactly the requests counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from proactorx.cli.comparison import BUSY, LOOPS, Result, Round
from proactorx.cli.errors import NO_RICH, CliError

MAX_ROUNDS = 5
MIN_ROUND = 0.5  # seconds
SPARE_FDS = 40  # descriptors a server or client needs beside its connections
START_TIME = 20.0  # seconds for a child's first answer
ANSWER_TIME = 60.0  # seconds for an answer, in addition to the time of the load
FINISH_TIME = 5.0  # seconds for a child's end


class Child:
    """A process that reads commands as JSON lines on standard input and answers with JSON lines."""

    def __init__(self, module: str, *args: str) -> None:
        self.name = module
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115, closed in stop()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"proactorx.cli.{module}", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C is ours; the end of its standard input ends the child
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, **message: Any) -> None:
        """Send one command to the child; ``answer`` reads its reply."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # answer() tells why
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def answer(self, timeout: float = ANSWER_TIME) -> dict[str, Any]:
        """The child's next message.

        Raises:
            CliError: none within `timeout` seconds, the child has ended, or the message is an error.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise CliError(f"the demo's {self.name} did not answer within {timeout:.0f} s") from None
        if not line:
            raise CliError(f"the demo's {self.name} ended early:\n{self._last_words()}")
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise CliError(message["error"], 2 if message.get("usage") else 1)
        return message

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").replace("\r\n", "\n").strip()
        if len(said) > 2000:
            said = said[-2000:].partition("\n")[2]  # whole lines
        code = self._process.poll() or 0
        if code < 0:
            said += f"\nkilled by {signal.Signals(-code).name}"
            if said.endswith("SIGSYS"):
                said += ", as sandboxes do that forbid io_uring: try --backend epoll"
        return said.strip() or f"exit code {code}"

    def finish(self) -> None:
        """Wait for its end, and pass on what it wrote to standard error."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(FINISH_TIME)
        except subprocess.TimeoutExpired:
            raise CliError(f"the demo's {self.name} does not end") from None
        if code:
            raise CliError(f"the demo's {self.name} failed at its end:\n{self._last_words()}")
        if self._errors.tell():
            print(f"proactorx: the demo's {self.name} says:\n{self._last_words()}", file=sys.stderr)

    def close(self) -> None:
        """Kill the child."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                file and file.close()


@contextlib.contextmanager
def _child(module: str, *args: str) -> Iterator[Child]:
    child = Child(module, *args)
    try:
        yield child
        child.finish()
    finally:
        child.close()


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
        "proactorx": start(_child("echo_server", "--loop", "proactorx", *chosen)),
        "asyncio": start(_child("echo_server", "--loop", "asyncio")),
    }
    clients = [start(_child("load")) for _ in range(_client_count(result.connections))]
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
    machine, cpu = _machine_busy(), _cpu(server)
    got = _all(clients, ({"do": "go", "seconds": result.seconds} for _ in clients), result.seconds)
    cpu = _cpu(server) - cpu
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


def _cpu(server: Child) -> float:
    server.ask()
    return float(server.answer()["cpu"])


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
