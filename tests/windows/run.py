"""Make a Windows Python under Wine, build the package for it, and run the suites there.

    python tests/windows/run.py 3.13 FOLDER             everything; FOLDER is made if it is not there
    python tests/windows/run.py 3.13 FOLDER tests/loop  only these

Run by a Python that has Cython (``.[dev]``).  The tests run in a copy, without the package beside them.  What is not
run is in ``excluded.txt`` and ``mixins.txt``, and counted: "not verified under Wine" is no pass.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SUITES = ("tests/windows", "tests/contract", "tests/transports", "tests/datagrams", "tests/loop", "tests/tls")
LIMIT = 1500  # seconds for a suite


def main(version: str, folder: Path, suites: list[str]) -> int:
    """The exit code: 0 if every suite has passed."""
    if not (folder / "run").exists():
        subprocess.run([sys.executable, HERE / "make_python.py", version, folder], check=True)
    subprocess.run([sys.executable, HERE / "build.py", folder], check=True)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        for part in ("tests", "examples", "pyproject.toml", "README.md"):
            source, target = ROOT / part, Path(name) / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        commands = {suite: ["-m", "pytest", "-q", suite, "--driver=iocp", "--no-stock"] for suite in suites or SUITES}
        if not suites:
            commands["CPython's tests"] = ["tests/windows/mixins.py"]
        for title, command in commands.items():
            print(f"--- {title}", flush=True)
            done = subprocess.run([folder / "run", *command], cwd=name, timeout=LIMIT, check=False)
            if done.returncode:
                failed.append(title)
    print("failed: " + ", ".join(failed) if failed else f"all passed, Python {version} under Wine")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit("usage: run.py VERSION FOLDER [SUITE...]")
    sys.exit(main(sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3:]))
