"""What asyncio, uvloop and proactorx do, row by row: ``docs/data/behaviour.json`` and the page made of it.

    python tests/compat/behaviour.py              run all three, write the data and the page
    python tests/compat/behaviour.py --page       only write the page from the data
    python tests/compat/behaviour.py --loop NAME  print the answers of one loop as JSON

Each row runs in a process of its own, made by ``fork``: it may hang, crash or spoil its process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import select
import signal
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import rows_io  # noqa: E402
import rows_loop  # noqa: E402
from rows import ROWS, Make, Row  # noqa: E402

ROOT = Path(__file__).parents[2]
DATA = ROOT / "docs" / "data" / "behaviour.json"
PAGE = ROOT / "docs" / "pages" / "moving-from-uvloop.md"
START, END = "<!-- table -->", "<!-- end of table -->"
LOOPS = ("asyncio", "uvloop", "proactorx")
LIMIT = 8.0

assert rows_io
assert rows_loop


def maker(name: str) -> Make:
    """What makes a loop of this kind."""
    if name == "asyncio":
        return asyncio.SelectorEventLoop
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    import proactorx

    return proactorx.new_event_loop


def _in_child(row: Row, make: Make, pipe: int) -> None:
    logging.disable()
    warnings.simplefilter("ignore")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        answer = str(row(make))
    except BaseException as error:
        answer = type(error).__name__
    os.write(pipe, answer.encode())


def ask(row: Row, make: Make) -> str:
    """The answer of one row: what the function returns, or which exception leaves it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setpgrp()
            _in_child(row, make, write)
        finally:
            os._exit(0)
    os.close(write)
    try:
        if not select.select([read], [], [], LIMIT)[0]:
            return "hangs"
        answer = os.read(read, 4096).decode()
        status = 0
        if not answer:
            status = os.waitpid(child, 0)[1]
            child = 0
        return answer or f"ends the process with {os.waitstatus_to_exitcode(status)}"
    finally:
        os.close(read)
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def answers(name: str) -> dict[str, str]:
    """The answers of a loop, by topic and question."""
    make = maker(name)
    return {f"{topic}: {question}": ask(row, make) for (topic, question), row in ROWS.items()}


def asked(name: str) -> dict[str, str]:
    """The answers of a loop in a new process, which has no threads when it forks."""
    argv = [sys.executable, __file__, "--loop", name]
    found: dict[str, str] = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    return found


def run() -> dict[str, object]:
    """The answers of all three."""
    found = {name: asked(name) for name in LOOPS}
    made: list[dict[str, str]] = []
    for topic, question in ROWS:
        key = f"{topic}: {question}"
        made.append({"topic": topic, "question": question, **{name: found[name][key] for name in LOOPS}})
    return {
        "python": platform.python_version(),
        "kernel": platform.release().split("-")[0],
        "uvloop": version("uvloop"),
        "rows": made,
    }


def table(data: dict[str, object]) -> str:
    """The table in Markdown; what differs from stock asyncio is in bold."""
    rows: list[dict[str, str]] = data["rows"]  # type: ignore[assignment]
    lines = [
        f"CPython {data['python']}, Linux {data['kernel']}, uvloop {data['uvloop']}; {len(rows)} rows.",
    ]
    topic = ""
    for row in rows:
        if row["topic"] != topic:
            topic = row["topic"]
            lines += ["", f"### {topic[0].upper()}{topic[1:]}", "", "| | asyncio | uvloop | proactorx |"]
            lines.append("|---|---|---|---|")
        cells = [row["asyncio"]]
        cells += [row[name] if row[name] == row["asyncio"] else f"**{row[name]}**" for name in LOOPS[1:]]
        lines.append(f"| {row['question']} | {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def page(data: dict[str, object]) -> str:
    """The page with this table."""
    before, start, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    return f"{before}{start}\n\n{table(data)}\n\n{END}{after}"


def main() -> None:
    """Run, write, or print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", choices=LOOPS)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.loop:
        print(json.dumps(answers(options.loop)))
        return
    if not options.page:
        DATA.write_text(json.dumps(run(), indent=1) + "\n")
    PAGE.write_text(page(json.loads(DATA.read_text())))


if __name__ == "__main__":
    main()
