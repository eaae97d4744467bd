"""The loops side by side: CPU time per request and per call, in rounds that take turns.

    python tests/benchmarks/loops.py [--loops io_uring,epoll,asyncio,uvloop] [--only servers|calls]
        [--rows REGEX] [--rounds 5] [--seconds 0.8] [--warmup 0.2] [--json FILE] [--list]

A loop is one of ours, asyncio, C (an echo server of system calls alone), aiofastnet (in uvloop), or a module
with new_event_loop; NAME@PYTHON runs it on another interpreter.  Each sample is a fresh server process on the
first core, and a client in C on the second, both before all other work (SCHED_RR) where that is allowed; the
CPU time is that of all the server's threads.  Ratios are taken within a round, to uvloop on the loop's own
interpreter, else to the first uvloop, else to asyncio: above 1, the loop needs less.  Where a loop failed a
sample, the JSON has the reason.  Needs a C compiler; for TLS OpenSSL's headers, and the program openssl.
`python docs/figures.py` makes the tables of docs/pages/benchmarks.md and the chart from docs/data.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SERVER = HERE / "loop_server.py"
PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a server under load, or calls on the loop where there is no `kind`."""

    name: str
    kind: str = ""
    size: int = 1024
    connections: int = 10
    depth: int = 1
    mode: str = "echo"
    unix: bool = False
    tls: bool = False
    fresh: bool = False
    call: str = ""
    aim: float = 0.0

    @property
    def floor(self) -> bool:
        """Whether the server in C does the same."""
        return self.kind in ("protocol", "streams") and not self.fresh


def served() -> list[Row]:
    """The rows of servers."""
    kib = 1024
    return [
        Row("protocol echo, 64 B, 10 connections", "protocol", 64),
        Row("protocol echo, 1 KiB, 1 connection", "protocol", connections=1),
        Row("protocol echo, 1 KiB, 10 connections", "protocol", aim=1.12),
        Row("protocol echo, 1 KiB, 100 connections", "protocol", connections=100, aim=1.12),
        Row("protocol echo, 1 KiB, 1,000 connections", "protocol", connections=1000, aim=1.12),
        Row("protocol echo, 10 KiB, 10 connections", "protocol", 10 * kib, aim=1.08),
        Row("protocol echo, 100 KiB, 10 connections", "protocol", 100 * kib, aim=1.1),
        Row("buffered protocol, 1 KiB", "buffered", aim=1.1),
        Row("buffered protocol, 100 KiB", "buffered", 100 * kib, aim=1.15),
        Row("streams, 64 B", "streams", 64, aim=1.5),
        Row("streams, 1 KiB", "streams", aim=1.45),
        Row("streams, 10 KiB", "streams", 10 * kib, aim=1.7),
        Row("streams, 100 KiB", "streams", 100 * kib, aim=1.15),
        Row("`sock_recv`, `sock_sendall`, 1 KiB", "sockets", aim=2.2),
        Row("the same, 100 connections", "sockets", connections=100, aim=2.2),
        Row("the same, 100 KiB, 10 connections", "sockets", 100 * kib, aim=1.3),
        Row("`add_reader`, 1 KiB", "readers", aim=1.0),
        Row("three writes for each answer, 1 KiB", "pieces", aim=2.5),
        Row("pipelined, 16 deep, 64 B", "protocol", 64, depth=16, aim=1.35),
        Row("pipelined, 16 deep, 1 KiB", "protocol", depth=16, aim=1.1),
        Row("HTTP, httptools", "httptools", mode="http", aim=1.15),
        Row("HTTP, parsed in Python", "http", mode="http", aim=1.15),
        Row("uvicorn, 50 connections", "uvicorn", connections=50, mode="http"),
        Row("hypercorn, 50 connections", "hypercorn", connections=50, mode="http"),
        Row("aiohttp, 50 connections", "aiohttp", connections=50, mode="http"),
        Row("connect, echo, close: protocol", "protocol", 64, 50, mode="churn", aim=1.2),
        Row("connect, echo, close: streams", "streams", 64, 50, mode="churn"),
        Row("connect, echo, close: `sock_accept`", "sockets", 64, 50, mode="churn", aim=1.75),
        Row("Unix socket, 1 KiB", "protocol", unix=True, aim=1.2),
        Row("Unix socket, 10 KiB", "protocol", 10 * kib, unix=True, aim=1.25),
        Row("Unix socket, streams, 10 KiB", "streams", 10 * kib, unix=True, aim=1.25),
        Row("UDP, 1 KiB", "udp", mode="udp", aim=1.45),
        Row("UDP, 1 KiB, 8 in flight", "udp", depth=8, mode="udp", aim=1.45),
        Row("TLS protocol, 1 KiB", "protocol", mode="tls", tls=True, aim=1.45),
        Row("TLS protocol, 10 KiB", "protocol", 10 * kib, mode="tls", tls=True, aim=1.35),
        Row("TLS streams, 1 KiB", "streams", mode="tls", tls=True, aim=1.4),
        Row("TLS streams, 10 KiB", "streams", 10 * kib, mode="tls", tls=True, aim=2.1),
        Row("TLS protocol, 1 KiB, fresh process", "protocol", mode="tls", tls=True, fresh=True, aim=1.45),
        Row("TLS streams, 10 KiB, fresh process", "streams", 10 * kib, mode="tls", tls=True, fresh=True),
        Row("TLS handshake and one echo", "protocol", 64, 1, mode="handshake", tls=True),
    ]


CALLS = [
    Row("`call_soon`", call="call_soon", aim=1.6),
    Row("`call_later`, `cancel`", call="call_later_cancel", aim=2.9),
    Row("timers that fire", call="timers_fire", aim=1.1),
    Row("`call_soon_threadsafe`", call="call_soon_threadsafe", aim=2.8),
    Row("`sleep(0)`", call="sleep0", aim=2.9),
    Row("`create_task`, awaited", call="task_create", aim=1.8),
    Row("`gather` of 100", call="gather100", aim=1.05),
    Row("a future, awaited", call="future_await", aim=2.4),
    Row("`timeout`", call="timeout_ctx", aim=1.4),
    Row("`run_in_executor`", call="executor", aim=1.1),
    Row("a child, awaited", call="subprocess"),
    Row("`readline`, 1 KiB, there", call="readline"),
    Row("`readexactly(16)`, there", call="readexactly"),
]


class Failed(Exception):
    """A sample that could not be taken, and why."""


def certify(folder: Path) -> list[str]:
    """The files of a new certificate and its key; none where there is no program to make them."""
    paths = [str(folder / "certificate"), str(folder / "key")]
    kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    if shutil.which("openssl") is None:
        return []
    made = ["openssl", *kind.split(), "-out", paths[0], "-keyout", paths[1]]
    return [] if subprocess.run(made, capture_output=True, check=False).returncode else paths


class Harness:
    """The programs and the folder of one run."""

    def __init__(self, folder: Path, seconds: float, warmup: float) -> None:
        self.folder, self.seconds, self.warmup = folder, seconds, warmup
        self.certificate = certify(folder)
        self.tls = bool(self.certificate) and self._compile("-DWITH_TLS", "-lssl", "-lcrypto")
        if not self.tls:
            self._compile()
        self.number = 0

    def _compile(self, *options: str) -> bool:
        for name in ("load", "floor"):
            command = ["cc", "-O2", *options[:1], "-o", str(self.folder / name), str(HERE / f"{name}.c")]
            done = subprocess.run([*command, *options[1:]], capture_output=True, text=True, check=False)
            if done.returncode and options:
                return False
            if done.returncode:
                raise SystemExit(done.stderr)
        return True

    def _start(self, command: list[str], core: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        cores = sorted(os.sched_getaffinity(0))
        try:
            os.sched_setaffinity(process.pid, {cores[min(core, len(cores) - 1)]})
            os.sched_setscheduler(process.pid, os.SCHED_RR, os.sched_param(10))
        except OSError:  # it has ended, or only root may
            pass
        return process

    def _command(self, loop: str, row: Row) -> list[str]:
        name, _, python = loop.partition("@")
        self.number += 1
        address = str(self.folder / f"socket-{self.number}") if row.unix else "0"
        if name == "C":
            return [str(self.folder / "floor"), address, *(self.certificate if row.tls else [])]
        command = [python or sys.executable, str(SERVER), name]
        if row.call:
            return [*command, "call", row.call, str(self.seconds)]
        command += ["serve", row.kind, address]
        return command + ["--tls", *self.certificate] * row.tls + ["--fresh"] * row.fresh

    def sample(self, loop: str, row: Row) -> dict[str, float]:
        """One sample: a fresh process."""
        server = self._start(self._command(loop, row), 0)
        try:
            assert server.stdout is not None
            there = select.select([server.stdout], [], [], PATIENCE + self.seconds)[0]
            line = server.stdout.readline().strip() if there else ""
            if not there:
                raise Failed(f"no answer in {PATIENCE + self.seconds:.0f} s")
            if not line:
                raise Failed((server.communicate()[1].strip().splitlines() or ["no answer"])[-1])
            if row.call:
                return dict(json.loads(line))
            numbers = (row.size, row.connections, row.depth, self.warmup, self.seconds, server.pid)
            client = self._start([str(self.folder / "load"), row.mode, line, *map(str, numbers)], 1)
            out, err = client.communicate(timeout=PATIENCE)
            if client.returncode:
                raise Failed(err.strip())
            got = dict(json.loads(out))
            if not got["cpu"]:  # the answers were there already, and others had its core for all that time
                raise Failed("the server did not run in the measurement")
            return got
        finally:
            server.kill()
            server.communicate()


def describe(loop: str) -> str:
    """The version of a loop; Failed: it cannot be had."""
    name, _, python = loop.partition("@")
    if name == "C":
        return ""
    command = [python or sys.executable, str(SERVER), name, "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(done.stderr.strip().splitlines()[-1])
    return str(json.loads(done.stdout)["version"])


def label(loop: str, loops: list[str]) -> str:
    """What a loop is called in the table: its name, with the interpreter where that name is there twice."""
    name = loop.partition("@")[0]
    return loop if [one.partition("@")[0] for one in loops].count(name) > 1 else name


def ratios(mine: list[float | None], base: list[float | None]) -> list[float]:
    """The base's CPU time over the loop's, round by round."""
    return [b / m for m, b in zip(mine, base, strict=True) if m and b]


def spread(values: list[float]) -> float:
    """Half the distance of the quartiles, as a part of the median."""
    if len(values) < 3:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle


def base_of(loop: str, loops: list[str]) -> str:
    """What the ratios of this loop are taken to."""
    names = [one.partition("@")[0] for one in loops]
    same = "@".join(["uvloop", *loop.split("@")[1:]])
    first = next((loops[names.index(one)] for one in ("uvloop", "asyncio") if one in names), loops[0])
    return same if same in loops else first


def summary(mine: list[float | None], base: list[float | None], rates: list[float]) -> dict[str, Any]:
    """A loop's rounds of a row, as they go to the JSON; some have a sample."""
    held = ratios(mine, base)
    return {
        "ratio": round(statistics.median(held), 2) if held else None,
        "noise": round(spread(held), 3),
        "cpu": round(statistics.median(value for value in mine if value), 2),
        "rate": round(statistics.median(rates)),
        "rounds": [value and round(value, 2) for value in mine],
    }


def measure(harness: Harness, rows: list[Row], loops: list[str], rounds: int) -> list[dict[str, Any]]:
    """All samples, as they go to the JSON: one entry for each row and loop."""
    found = []
    for row in rows:
        if row.tls and not harness.tls:
            print(f"{row.name}: needs OpenSSL's headers and the program openssl", flush=True)
            continue
        mine = [loop for loop in loops if loop != "C" or row.floor]
        cpu: dict[str, list[float | None]] = {loop: [] for loop in mine}
        rate: dict[str, list[float]] = {loop: [] for loop in mine}
        failed: dict[str, str] = {}
        for turn in range(rounds):
            for loop in mine[turn % len(mine) :] + mine[: turn % len(mine)]:
                try:
                    got = harness.sample(loop, row)
                except (Failed, subprocess.TimeoutExpired) as error:
                    print(f"{row.name}, {loop}: {error}", file=sys.stderr, flush=True)
                    failed[loop] = str(error)
                    cpu[loop].append(None)
                    continue
                cpu[loop].append(got["cpu"] / got["requests"] * 1e6)
                rate[loop].append(got["requests"] / got["wall"])
        cells = []
        for loop in mine:
            entry: dict[str, Any] = {"row": row.name, "loop": label(loop, loops)}
            if rate[loop]:
                entry |= summary(cpu[loop], cpu[base_of(loop, mine)], rate[loop])
                cells.append(f"{entry['loop']} {entry['cpu']:.2f} ({entry['ratio']})")
            if loop in failed:
                entry["failed"] = failed[loop]
            found.append(entry)
        print(f"{row.name}: {', '.join(cells)}", flush=True)
    return found


def about(loops: dict[str, str], rounds: int, seconds: float) -> dict[str, Any]:
    """What the run says of itself."""
    return {
        "about": "CPU time per request in µs, and uvloop's over the loop's. See pages/benchmarks.md.",
        "command": "python tests/benchmarks/loops.py " + " ".join(sys.argv[1:]),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "date": f"{datetime.date.today():%B %Y}",
        "uvloop": ".".join(loops.get("uvloop", "").split(".")[:2]),
        "versions": loops,
        "rounds": rounds,
        "seconds": seconds,
        "aims": {row.name: row.aim for row in (*served(), *CALLS) if row.aim},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", default="io_uring,epoll,asyncio,uvloop,C")
    parser.add_argument("--only", choices=("servers", "calls"))
    parser.add_argument("--rows", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8)
    parser.add_argument("--warmup", type=float, default=0.2)
    parser.add_argument("--json")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    rows = {"servers": served(), "calls": CALLS}.get(args.only, [*served(), *CALLS])
    rows = [row for row in rows if re.search(args.rows, row.name)]
    if args.list:
        print("\n".join(row.name for row in rows))
        return
    loops = {}
    for loop in args.loops.split(","):
        try:
            loops[loop] = describe(loop)
        except Failed as error:
            print(f"{loop} is left out: {error}", flush=True)
    with tempfile.TemporaryDirectory(prefix="loops-") as folder:
        harness = Harness(Path(folder), args.seconds, args.warmup)
        samples = measure(harness, rows, list(loops), args.rounds)
    if args.json:
        names = {label(loop, list(loops)): version for loop, version in loops.items()}
        data = json.dumps(about(names, args.rounds, args.seconds), indent=1)[:-2]
        lines = ",\n".join(json.dumps(sample) for sample in samples)
        Path(args.json).write_text(f'{data},\n "samples": [\n{lines}\n]\n}}\n')


if __name__ == "__main__":
    main()
