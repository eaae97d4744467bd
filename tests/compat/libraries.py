"""Which libraries run: a real session of each, on asyncio, uvloop and proactorx.

    python tests/compat/libraries.py                     run all, write docs/data/libraries.json and the page
    python tests/compat/libraries.py --page              only write the page from the data
    python tests/compat/libraries.py --again aiohttp     run these, and write their rows anew
    python tests/compat/libraries.py aiohttp tornado     run these, print the answers
    python tests/compat/libraries.py --loop NAME aiohttp the same on one loop, in this process

Each session runs in a process of its own.  A library or a server that is not installed is left out, and the
page says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import traceback
import warnings
from typing import Any

import sessions_other
import sessions_web
from sessions import SESSIONS, NotHere, Steps
from tables import LOOPS, ROOT, Table, made_on, maker, row_of

LIMIT = 60

assert sessions_other
assert sessions_web


def run_here(package: str, name: str) -> dict[str, Any]:
    """Run the session of a library in this process: how many steps passed, and what went wrong."""
    os.environ["TESTED_LOOP"] = name
    warnings.simplefilter("ignore")
    steps = Steps()
    try:
        with asyncio.Runner(loop_factory=maker(name)) as runner:
            runner.run(asyncio.wait_for(SESSIONS[package](steps), LIMIT - 10))
    except NotHere as missing:
        return {"missing": str(missing)}
    except BaseException as error:
        if not steps.passed or os.environ.get("COMPAT_TRACEBACK"):
            traceback.print_exc()
        return {"passed": steps.passed, "error": f"{type(error).__name__}: {error}"[:200]}
    return {"passed": steps.passed}


def run(package: str, name: str) -> dict[str, Any]:
    """The same in a process of its own."""
    argv = [sys.executable, __file__, "--loop", name, package]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return {"passed": 0, "error": "hangs"}
    lines = done.stdout.decode().splitlines()
    if done.returncode or not lines:
        return {"passed": 0, "error": f"ends with {done.returncode}: {done.stderr.decode()[-300:]}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def run_again(packages: list[str]) -> dict[str, Any]:
    """The data, with new rows of these libraries."""
    data = TABLE.read()
    data["rows"] = [
        row_of(row["library"], run) if row["library"] in packages else row for row in data["rows"]
    ]
    return data


def run_all() -> dict[str, Any]:
    """All sessions on all loops."""
    return {**made_on(), "rows": [row_of(package, run) for package in sorted(SESSIONS)]}


def _cell(found: dict[str, Any], best: int) -> str:
    if "missing" in found:
        return f"not run: `{found['missing']}` is not here"
    if "error" in found:
        return f"**{found['passed']} of {best}**"
    return f"{found['passed']} of {found['passed']}"


def markdown(data: dict[str, Any]) -> str:
    """The table."""
    head = f"CPython {data['python']}, Linux {data['kernel']}, uvloop {data['uvloop']}."
    lines = [head, "", "| library | version | asyncio | uvloop | proactorx |", "|---|---|---|---|---|"]
    for row in data["rows"]:
        if not row["version"]:
            lines.append(f"| {row['library']} | not installed | | | |")
            continue
        best = max(row[name].get("passed", 0) for name in LOOPS)
        cells = " | ".join(_cell(row[name], best) for name in LOOPS)
        lines.append(f"| {row['library']} | {row['version']} | {cells} |")
    return "\n".join(lines)


TABLE = Table(ROOT / "docs" / "data" / "libraries.json", ROOT / "docs" / "pages" / "libraries.md", markdown)


def main() -> None:
    """Run, write, or print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("packages", nargs="*")
    options = parser.parse_args()
    if options.loop:
        print(json.dumps(run_here(options.packages[0], options.loop)))
    elif options.packages and not options.again:
        for package in options.packages:
            row_of(package, run)
    else:
        if not options.page:
            TABLE.write(run_again(options.packages) if options.again else run_all())
        TABLE.write_page()


if __name__ == "__main__":
    main()
