"""Run the tests of files on each kind of file system that this machine's kernel has.

    python tests/kernels/file_systems.py [--on ext4,xfs,...] [--driver NAMES] [-m MARKS] [--json FILE]
                                         [TEST ...]
    python tests/kernels/file_systems.py --table FILE...     print the table of earlier runs

Needs Linux, root, loop devices, and for each file system some of Debian's packages: says what is missing,
with exit code 77 if nothing could run.  Images are files in $TMPDIR; what is mounted is so in a mount
namespace of its own.  `tmpfs-swap` is a tmpfs of processes that have so little memory that the kernel swaps;
the swap file is used for the time of that run only.  `fuse` is bindfs, `nfs` the server of the same kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import guest
from mounts import NAMES, Machine
from run import SKIPPED, CannotRun, tell

ROOT = Path(__file__).parents[2]
INSIDE = "PROACTORX_INSIDE"  # in the environment of the process that has the mount namespace


def check() -> None:
    """Raise if nothing can run here."""
    if sys.platform != "linux" or os.geteuid():
        raise CannotRun("needs root on Linux, to mount")
    for program in ("unshare", "mount", "umount"):
        if shutil.which(program) is None:
            raise CannotRun(f"needs the program {program}: Debian's packages util-linux and mount have it")
    if not Path("/dev/loop-control").exists():
        raise CannotRun("needs loop devices: there is no /dev/loop-control")


def swapped() -> int:
    """How many bytes this machine has swapped out since it booted."""
    found = re.search(r"^pswpout (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    return int(found[1]) * os.sysconf("SC_PAGE_SIZE") if found else 0


def run(name: str, home: Path, orders: dict[str, Any]) -> dict[str, Any]:
    """What the tests say on this file system."""
    before = swapped()
    with Machine(home) as machine:
        folder = machine.make(name)
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests/kernels"}
        place = guest.Place(str(ROOT), environment, str(home / "results.json"), machine.start)
        result = guest.run(orders, str(folder), place)
    return {**result, "files": name, "swapped": swapped() - before}


def table(results: list[dict[str, Any]]) -> str:
    """The table of the page, in Markdown."""
    lines = [
        "| file system | driver | passed | passed when tried again | failed | skipped |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for result in results:
        for driver, counts in result["drivers"].items():
            figures = [f"{counts[key]:,}" for key in ("passed", "again", "failed", "skipped")]
            lines.append(f"| {' | '.join([result['files'], driver, *figures])} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--on", default=",".join(NAMES), metavar="NAMES")
    parser.add_argument("--driver", default="io_uring,epoll,select", metavar="NAMES", help="as the tests'")
    parser.add_argument("-m", default="not exhaustive", metavar="MARKS", help="as pytest's")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path, nargs="+")
    parser.add_argument("tests", nargs="*", default=["tests/files"], metavar="TEST")
    options = parser.parse_args()
    if options.table is not None:
        print(table([result for path in options.table for result in json.loads(path.read_text())]))
        return 0
    try:
        check()
    except CannotRun as why:
        print(f"skipped: {why}", file=sys.stderr)
        return SKIPPED
    if INSIDE not in os.environ:
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe(words[0], words, {**os.environ, INSIDE: "1"})
    marks = ["-m", options.m, f"--driver={options.driver}"]
    orders = {"tests": options.tests, "marks": marks, "workers": 2, "timeout": 120}
    results = []
    with tempfile.TemporaryDirectory(prefix="proactorx-") as home:
        os.chmod(home, 0o755)  # tests become another user
        for name in options.on.split(","):
            try:
                results.append(run(name, Path(home) / name, orders))
            except CannotRun as why:
                print(f"{name}: not run: {why}", file=sys.stderr)
    print(table(results))
    code = tell(results, "files", options.json)
    return code if results else SKIPPED


if __name__ == "__main__":
    sys.exit(main())
