"""``bench``: compare this loop with the others that this Python can import, on the user's machine.

Each loop has a process for all rows. The rounds of a row alternate between the loops, so that other load on
the machine affects all of them; each round starts with another loop. Installs nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import proactorx
from proactorx.cli.bench.picture import lines, show
from proactorx.cli.bench.rows import OURS, PEERS, ROWS, Result, Row, Sample
from proactorx.cli.bench.svg import chart
from proactorx.cli.children import START_TIME, Child, child, cpu_of
from proactorx.cli.errors import CliError
from proactorx.cli.probe import collect

FILE_BYTES = 8 << 20
CONNECTIONS = 10


def bench(
    *, quick: bool, loops: list[str] | None, rows: list[str] | None, svg: str | None, out: str | None
) -> int:
    """Run the command ``bench`` and return the exit code."""
    known = [row.name for row in ROWS]
    for name in rows or ():
        if name not in known:
            raise CliError(f"no row is called {name!r}: {', '.join(known)}", 2)
    wanted = [row for row in ROWS if rows is None or row.name in rows]
    rounds, seconds = (2, 0.02) if quick else (5, 0.3)
    result = Result(_about(rounds, seconds))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="proactorx-bench-")))
        servers = _start(result, _choose(result, loops), folder, wanted, stack)
        client = stack.enter_context(child("bench", "bench.load"))
        for row in wanted:
            if row.name not in result.skipped:
                _measure(result, row, servers, client, rounds, seconds)
        _progress("")
    if quick:
        result.notes.append("A quick run: the figures are noise.")
    if out is not None:
        _write(out, json.dumps(result.as_json(), indent=1) + "\n")
    if svg is not None:
        _write(svg, chart(result))
    show(lines(result))
    return 0


def _about(rounds: int, seconds: float) -> dict[str, object]:
    return {
        "proactorx": proactorx.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
        "rounds": rounds,
        "seconds": seconds,
        "connections": CONNECTIONS,
    }


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from None


def _choose(result: Result, asked: list[str] | None) -> list[str]:
    """The names of the loops to start; why others are not there goes to the result."""
    drivers = {one["name"]: one for one in collect()["drivers"]}
    ready = [name for name in OURS if name in drivers and drivers[name]["available"]]
    if asked is None:
        for name in OURS:
            if name in drivers and name not in ready:
                result.missing[name] = drivers[name]["reason"]
        # select is for systems that have nothing else
        asked = [name for name in ready if name != "select" or len(ready) == 1] + ["asyncio", *PEERS]
    found = []
    for name in dict.fromkeys(asked):
        if name in OURS and name not in ready:
            result.missing[name] = drivers[name]["reason"] if name in drivers else "not of this system"
        elif name in PEERS and importlib.util.find_spec(name) is None:
            result.missing[name] = "not installed"
        elif name in (*OURS, "asyncio", *PEERS):
            found.append(name)
        else:
            raise CliError(f"no loop is called {name!r}: {', '.join((*OURS, 'asyncio', *PEERS))}", 2)
    return found


def _start(
    result: Result, names: list[str], folder: Path, rows: list[Row], stack: contextlib.ExitStack
) -> dict[str, Child]:
    path = folder / "file"
    path.write_bytes(os.urandom(FILE_BYTES))
    more: list[str] = []
    if any(row.server == "tls" for row in rows):
        try:
            _make_certificate(folder)
            more = ["--certificate", str(folder / "certificate"), "--key", str(folder / "key")]
        except CliError as error:
            result.skipped["tls-1k"] = str(error)
    _progress(f"starting {', '.join(names)}")
    argv = ("bench", "bench.server", "--file", str(path), *more, "--loop")
    starting = {name: Child(*argv, name) for name in names}
    for name, server in starting.items():
        stack.callback(_end, result, name, server)
    servers = {}
    for name, server in starting.items():
        try:
            result.loops[name] = server.answer(START_TIME)["what"]
            servers[name] = server
        except CliError as error:
            result.missing[name] = str(error)
    if not servers:
        raise CliError(f"no loop to measure: {'; '.join(f'{a}: {b}' for a, b in result.missing.items())}")
    return servers


def _end(result: Result, name: str, server: Child) -> None:
    """A loop that crashes at its end, or before, does not take the figures of the others with it."""
    try:
        server.finish()
    except CliError as error:
        if name in result.loops:
            result.notes.append(str(error))
    finally:
        server.close()


def _make_certificate(folder: Path) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise CliError("needs the program openssl, for a certificate")
    kind = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    made = subprocess.run(
        [program, *kind.split(), "-keyout", str(folder / "key"), "-out", str(folder / "certificate")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if made.returncode:
        raise CliError(f"openssl makes no certificate: {made.stderr.strip().splitlines()[-1:]}")


def _measure(
    result: Result, row: Row, servers: dict[str, Child], client: Child, rounds: int, seconds: float
) -> None:
    found: dict[str, list[Sample]] = {}
    names = list(servers)
    ports: dict[str, int] = {}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            _progress(f"{row.caption}: round {turn + 1} of {rounds}, {name}")
            if turn and name not in found:
                continue  # it has failed
            try:
                sample = _sample(row, name, servers[name], client, ports, seconds)
            except CliError as error:
                result.notes.append(f"{row.caption}: {name} was left out, {error}")
                found.pop(name, None)
                continue
            found.setdefault(name, []).append(sample)
    result.samples[row.name] = {name: found[name] for name in names if name in found}


def _ask(server: Child, **message: object) -> dict[str, float]:
    server.ask(**message)
    answer = server.answer()
    if "failed" in answer:
        raise CliError(answer["failed"])
    return answer


def _sample(
    row: Row, name: str, server: Child, client: Child, ports: dict[str, int], seconds: float
) -> Sample:
    if not row.server:
        got = _ask(server, do="run", row=row.name, seconds=seconds)
        return Sample(got["cpu"] / got["count"], got["count"] / got["wall"])
    if name not in ports:
        ports[name] = int(_ask(server, do="serve", how=row.server)["port"])
    kind = "tls" if row.server == "tls" else "plain"
    _ask(client, do="open", kind=kind, port=ports[name], connections=CONNECTIONS, size=row.size)
    try:
        cpu = cpu_of(server)
        got = _ask(client, do="go", seconds=seconds)
        cpu = cpu_of(server) - cpu
    finally:
        client.ask(do="close")
        client.answer()
    return Sample(cpu / got["requests"], got["requests"] / got["wall"])


def _progress(text: str) -> None:
    """One line on a terminal, written over by the next; between samples only."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text[:78]}", end="", file=sys.stderr, flush=True)
