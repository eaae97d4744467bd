"""Whether the types of the package are complete for pyright: exit code 1 if a symbol lacks one.

Needs pyright, which fetches its own program when it is first run; where it cannot, nothing is checked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "proactorx"


def main() -> int:
    """Copy what is installed, ask pyright, and print what is not known."""
    with tempfile.TemporaryDirectory() as folder:
        # Else pyright finds the package by the working directory, and takes it for no installed one.
        kept = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.pyx", "*.pxd", "*.h")
        shutil.copytree(PACKAGE, Path(folder, "proactorx"), ignore=kept)
        env = os.environ | {"PYTHONPATH": folder}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
        argv = [sys.executable, "-m", "pyright", "--ignoreexternal", "--outputjson"]
        argv += ["--verifytypes", "proactorx"]
        done = subprocess.run(argv, env=env, cwd=folder, stdout=subprocess.PIPE, check=False)
    if not done.stdout.startswith(b"{"):
        print(f"not checked: pyright did not run, exit code {done.returncode}")
        return 0
    found = json.loads(done.stdout)["typeCompleteness"]
    for symbol in found["symbols"]:
        for said in symbol["diagnostics"]:
            if said["severity"] == "error":
                print(f"{symbol['name']}: {said['message']}")
    counts = found["exportedSymbolCounts"]
    print(f"{counts['withKnownType']} symbols, score {found['completenessScore']:.1%}")
    return int(found["completenessScore"] < 1)


if __name__ == "__main__":
    sys.exit(main())
