"""Libraries' own test suites on asyncio, uvloop and proactorx, as the libraries' packages contain them.

    python tests/compat/suites.py                    run all, write docs/data/suites.json and the page
    python tests/compat/suites.py --page             only write the page from the data
    python tests/compat/suites.py aioquic tornado    run these, print the answers

Each Python that a suite starts gets its loop by the policy, from a ``sitecustomize``.  Install the libraries
first; one that is not installed is left out.  What fails is tried once more on its own.  Takes ten minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask_hosts
from tables import LOOPS, ROOT, Table, installed, made_on, row_of

LIMIT = 400


@dataclass(frozen=True)
class Suite:
    """How the tests of a package are run."""

    command: tuple[str, ...]
    #: Whether they are in the source distribution only.
    source: bool = False


SUITES = {
    "aioquic": Suite(("unittest", "tests.test_asyncio"), source=True),
    "aiosqlite": Suite(("aiosqlite.tests",)),
    "tornado": Suite(("tornado.test",)),
}


def unpack(package: str, folder: Path) -> Path:
    """The source distribution of the version that is installed."""
    asked = f"{package}=={installed(package)}"
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        f"--no-binary={package}",
        "-d",
        folder,
        asked,
    ]
    subprocess.run(argv, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def counts(printed: str) -> dict[str, Any]:
    """What unittest says at the end: how many passed and were skipped, and the names of the others."""
    ran = re.search(r"^Ran (\d+) tests?", printed, re.MULTILINE)
    if ran is None:
        return {"error": printed[-300:]}
    skipped = re.search(r"skipped=(\d+)", printed[ran.end() :])
    failed = sorted(set(re.findall(r"^(?:FAIL|ERROR): \w+ \(([\w.]+)\)", printed, re.MULTILINE)))
    of_these = int(skipped[1]) if skipped else 0
    return {"passed": int(ran[1]) - of_these - len(failed), "skipped": of_these, "failed": failed}


def run(package: str, loop: str) -> dict[str, Any]:
    """Run a suite on a loop."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(dask_hosts.SITE)
        suite = SUITES[package]
        where = unpack(package, folder) if suite.source else folder
        paths = os.pathsep.join([name, dask_hosts.package()])
        env = os.environ | {"HOSTS_LOOP": loop, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}

        def python(*words: str) -> subprocess.CompletedProcess[bytes]:
            argv = [sys.executable, "-m", *words]
            return subprocess.run(argv, cwd=where, env=env, capture_output=True, timeout=LIMIT, check=False)

        try:
            done = python(*suite.command)
            found = counts((done.stdout + done.stderr).decode(errors="replace"))
            for test in list(found.get("failed", ())):
                if python(suite.command[0], test).returncode == 0:
                    found["failed"].remove(test)
                    found["passed"] += 1
        except subprocess.TimeoutExpired:
            return {"error": "hangs"}
    return found


def _cell(found: dict[str, Any]) -> str:
    if "error" in found:
        return "did not end"
    total = found["passed"] + len(found["failed"])
    if len(found["failed"]) > 2:
        return f"{found['passed']} of {total}"
    failed = "".join(f", not `{name.rpartition('.')[2]}`" for name in found["failed"])
    return f"{found['passed']} of {total}{failed}"


def markdown(data: dict[str, Any]) -> str:
    """The table."""
    head = f"CPython {data['python']}, Linux {data['kernel']}, uvloop {data['uvloop']}."
    lines = [head, "", "| library | version | asyncio | uvloop | proactorx |", "|---|---|---|---|---|"]
    for row in data["rows"]:
        cells = " | ".join(_cell(row[loop]) for loop in LOOPS)
        lines.append(f"| {row['library']} | {row['version']} | {cells} |")
    return "\n".join(lines)


TABLE = Table(
    ROOT / "docs" / "data" / "suites.json",
    ROOT / "docs" / "pages" / "libraries.md",
    markdown,
    ("<!-- suites -->", "<!-- end of suites -->"),
)


def main() -> None:
    """Run, write, or print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--page", action="store_true")
    parser.add_argument("packages", nargs="*")
    options = parser.parse_args()
    if options.packages:
        for package in options.packages:
            row_of(package, run)
        return
    if not options.page:
        TABLE.write(
            made_on() | {"rows": [row_of(package, run) for package in sorted(SUITES) if installed(package)]}
        )
    TABLE.write_page()


if __name__ == "__main__":
    main()
