"""How long others wait while uploads flood a loop: a table of drivers,
numbers of floods and kinds of victims.

    python tests/benchmarks/fairness.py [--loops io_uring,epoll,asyncio,uvloop] [--floods 1,8,64] [--kinds
    protocol]
                                        [--visits 40] [--json FILE]

Each flood is a connection whose peer sends without end, and whose data the loop digests (sha256).  The
victims come one after the other: a connection that was idle, a new one, a datagram, a signal, a line of a
child.  The figures are the median and the longest wait, in ms, among so many visits.
A visitor who waited for 2 s is given up (">2000").
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from outside.flooded import KINDS, VICTIMS, Flooded

PATIENCE = 2.0


def measure(word: str, kind: str, count: int, visits: int) -> dict[str, list[float]]:
    """Seconds that each visitor waited; one that was given up is the last of its kind."""
    waits: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
    waiting = list(VICTIMS)
    while waiting:  # a program in which somebody has starved is left; the others are tried in another
        with Flooded(word, kind, count, PATIENCE) as flooded:
            try:
                while min(len(waits[victim]) for victim in waiting) < visits:
                    for victim in waiting:
                        waits[victim].append(flooded.wait(victim))
                return waits
            except (TimeoutError, OSError):
                waits[victim].append(PATIENCE)
                waiting.remove(victim)
    return waits


def figures(waits: list[float]) -> dict[str, Any]:
    """Median and maximum in ms, and whether somebody starved."""
    return {
        "median": round(statistics.median(waits) * 1e3, 2) if waits else None,
        "longest": round(max(waits) * 1e3, 2) if waits else None,
        "starved": bool(waits) and max(waits) >= PATIENCE,
    }


def cell(found: dict[str, Any]) -> str:
    """The same in a table."""
    if found["median"] is None:
        return "-"
    return f">{PATIENCE * 1e3:.0f}" if found["starved"] else f"{found['median']:.1f} / {found['longest']:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", default="io_uring,epoll,select,asyncio,uvloop")
    parser.add_argument("--floods", default="1,8,64")
    parser.add_argument("--kinds", default="protocol", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--visits", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = []
    for kind in args.kinds.split(","):
        print(f"\n{kind}: wait in ms, median / longest of {args.visits}\n")
        print(f"| loop | floods | {' | '.join(VICTIMS)} |")
        print(f"|---|---|{'---|' * len(VICTIMS)}")
        for count in map(int, args.floods.split(",")):
            for word in args.loops.split(","):
                found = {
                    name: figures(waits) for name, waits in measure(word, kind, count, args.visits).items()
                }
                results.append({"kind": kind, "loop": word, "floods": count, "waits": found})
                print(
                    f"| {word} | {count} | {' | '.join(cell(found[victim]) for victim in VICTIMS)} |",
                    flush=True,
                )
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
