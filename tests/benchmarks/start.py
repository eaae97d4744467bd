"""How long a program takes until it has a loop: import and new_event_loop, after asyncio and ssl.

python tests/benchmarks/start.py [--rounds 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

LOOPS = ("proactorx", "uvloop")
SCRIPT = """
import asyncio, ssl, subprocess, time
began = time.perf_counter()
import {module}
{module}.new_event_loop()
print(time.perf_counter() - began)
"""


def once(module: str) -> float:
    """Milliseconds, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(module=module)], stdout=subprocess.PIPE, check=True
    )
    return float(done.stdout) * 1000


def main() -> None:
    """Rounds in turn; the smallest and the median of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = [[once(module) for module in LOOPS] for _ in range(parser.parse_args().rounds)]
    for module, found in zip(LOOPS, zip(*rounds, strict=True), strict=True):
        print(f"{module}: {min(found):.1f} ms, median {statistics.median(found):.1f}")


if __name__ == "__main__":
    main()
