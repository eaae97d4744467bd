"""Run tests under ThreadSanitizer, on a free-threaded CPython and compiled modules that are built for it.

    python tests/support/thread_sanitizer.py PYTHON [FOLDER] [TEST ...]

PYTHON was configured with --disable-gil and --with-thread-sanitizer, and has the packages of the extra
`test`, cython and setuptools.  The sources are copied to FOLDER (default ~/.cache/proactorx-tsan) and built
there.  Races in which neither thread was in code of this package are CPython's, and are not told.  The exit
code is 1 if there are others.  Building takes ten minutes, half an hour where the sources have not been
translated here (`pip install -e .`), and tests run some thirty times slower.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    *("tests/loop/test_threads.py", "tests/loop/test_executor.py", "tests/transports/test_stream_readers.py"),
    *("tests/pool", *(f"tests/port/test_{name}.py" for name in ("concurrency", "posts", "leaks", "ops"))),
)
BUILD = "from setuptools import setup; setup()"
#: A socket that one thread closes after another one has told epoll of it: their order is that of messages in
#: sockets, which ThreadSanitizer does not see.  And Cython's deallocators: they ask whether there are weak
#: references by a plain read, and take the lock only then.
SUPPRESSED = "race:sock_close\nrace_top:__pyx_tp_dealloc\n"
SEEN = 4  # innermost calls of a thread that may be ours: a libc function, an inline one, and who called it


def build(python: str, folder: Path) -> None:
    """Make the modules for this Python in a copy of the sources."""
    if not folder.exists():
        left_out = shutil.ignore_patterns(".git", "build", "*.so", "__pycache__", ".venv")
        shutil.copytree(ROOT, folder, ignore=left_out)
    # The flags of the compiler are those of this CPython, -fsanitize=thread among them.
    env = os.environ | {"TSAN_OPTIONS": "report_bugs=0"}
    argv = [python, "-c", BUILD, "-q", "build_ext", "--inplace"]
    subprocess.run(argv, cwd=folder, env=env, check=True)


def reports(text: str) -> list[str]:
    """The races of a log in which code of this package takes part, each once."""
    found: dict[str, str] = {}
    for report in re.split(r"^=+\n", text, flags=re.MULTILINE):
        stacks = re.split(r"^  (?:Previous |Atomic |Read|Write)", report, flags=re.MULTILINE)[1:3]
        inner = [line for stack in stacks for line in re.findall(r"^    #\d+ .*", stack, re.MULTILINE)[:SEEN]]
        if "WARNING: ThreadSanitizer" in report and any("proactorx/" in line for line in inner):
            places = " ".join(re.findall(r"\S+:\d+", " ".join(line for line in inner if "#0 " in line)))
            found.setdefault(places, report)
    return list(found.values())


def run(python: str, folder: Path, tests: list[str]) -> list[str]:
    """What ThreadSanitizer says of these tests."""
    with tempfile.TemporaryDirectory() as logs:
        (suppressions := Path(logs, "suppressions")).write_text(SUPPRESSED)
        options = f"suppressions={suppressions} log_path={logs}/log exitcode=0 history_size=5"
        env = os.environ | {"TSAN_OPTIONS": options, "PYTHONPATH": str(folder)}
        argv = [python, "-m", "pytest", "-n", "0", "--driver=io_uring,epoll", "--no-stock", "-q"]
        argv += ["-o", "timeout=0", "-o", "faulthandler_timeout=0", *tests]
        subprocess.run(argv, cwd=folder, env=env, check=False)
        return reports("\n".join(log.read_text(errors="replace") for log in Path(logs).glob("log*")))


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    python, *rest = sys.argv[1:]
    folder = Path(rest[0]) if rest else Path.home() / ".cache" / "proactorx-tsan"
    build(python, folder)
    found = run(python, folder, rest[1:] or list(TESTS))
    print(*found, f"{len(found)} races", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
