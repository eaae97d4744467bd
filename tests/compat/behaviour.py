"""What asyncio, uvloop and proactorx do, row by row: ``docs/data/behaviour.json`` and the page made of it.

    python tests/compat/behaviour.py              run all three, write the data and the page
    python tests/compat/behaviour.py --page       only write the page from the data
    python tests/compat/behaviour.py --loop NAME  print the answers of one loop as JSON

Each row runs in a process of its own, made by ``fork``: it may hang, crash or spoil its process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import signal
import subprocess
import sys
import warnings
from typing import Any

import rows_io
import rows_ipc
import rows_loop
from rows import ROWS, Make, Row
from tables import LOOPS, ROOT, Table, made_on, maker

LIMIT = 8.0

assert rows_io
assert rows_ipc
assert rows_loop


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


def run() -> dict[str, Any]:
    """The answers of all three."""
    found = {name: asked(name) for name in LOOPS}
    made: list[dict[str, str]] = []
    for topic, question in ROWS:
        key = f"{topic}: {question}"
        made.append({"topic": topic, "question": question, **{name: found[name][key] for name in LOOPS}})
    return {**made_on(), "rows": made}


def markdown(data: dict[str, Any]) -> str:
    """The table; what differs from stock asyncio is in bold."""
    rows: list[dict[str, str]] = data["rows"]
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


TABLE = Table(
    ROOT / "docs" / "data" / "behaviour.json", ROOT / "docs" / "pages" / "moving-from-uvloop.md", markdown
)


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
        TABLE.write(run())
    TABLE.write_page()


if __name__ == "__main__":
    main()
