"""CPython's own tests of asyncio on Windows: our loop must pass wherever ``ProactorEventLoop`` does.

    FOLDER/run tests/windows/mixins.py            all on iocp; what fails there on asyncio's proactor too
    FOLDER/run tests/windows/mixins.py --table    all on both, and a table in Markdown
    FOLDER/run tests/windows/mixins.py --child LOOP   the names on stdin, one result a line

What does not pass although the proactor does must be in ``mixins.txt``, with the reason.  Prints a table and,
for what fails, why; exit code 1 if there is such a thing, or if a test in ``mixins.txt`` passes.
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from conformance import child  # noqa: E402

LIMIT = 30  # seconds for a test: the machine may be busy
BATCH = 150  # tests in one process
BATCH_LIMIT = 600  # seconds for it; a test that hangs ends it earlier
GRACE = 2  # seconds for what it has printed last

#: Of each test: passed, failed or skipped, and what there is to say of it.
Outcomes = dict[str, tuple[str, str]]


def factory_of(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if loop == "proactor":
        return asyncio.ProactorEventLoop  # type: ignore[attr-defined, no-any-return]
    import proactorx

    return lambda: proactorx.new_event_loop(loop)


def run_child(loop: str) -> None:
    """Run what is asked for; each answer is one line, so that a test that hangs costs only itself."""
    factory = factory_of(loop)
    found = child.classes(factory)
    for line in sys.stdin:
        outcome, details = child.run_here(factory, found, line.strip(), LIMIT)
        print("\n@" + json.dumps([line.strip(), outcome, details]), flush=True)


def run_batch(loop: str, names: list[str]) -> tuple[list[str], int]:
    """Run these tests in a process of their own: the lines that it has printed, and its exit code."""
    said: list[str] = []
    argv = [sys.executable, __file__, "--child", loop]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdin is not None
    # Not to its end: a child of a test that hung may keep the pipe open for long.
    reader = threading.Thread(target=lambda: said.extend(process.stdout or ()), daemon=True)
    reader.start()
    process.stdin.write("\n".join(names))
    process.stdin.close()
    try:
        process.wait(BATCH_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    reader.join(GRACE)
    return list(said), process.returncode


def run_all(loop: str, names: list[str]) -> Outcomes:
    """The outcome of each test, and what there is to say of it."""
    results: Outcomes = {}
    left = list(names)
    while left:
        said, status = run_batch(loop, left[:BATCH])
        for line in said:
            if line.startswith("@["):
                name, outcome, details = json.loads(line[1:])
                results[name] = (outcome, details)
        unanswered = [name for name in left[:BATCH] if name not in results]
        if unanswered:
            results[unanswered[0]] = ("failed", f"the process ended: {status}\n{''.join(said[-40:])}")
        left = [name for name in left if name not in results]
        ended = f", the process ended in {unanswered[0]}" if unanswered else ""
        print(f"{loop}: {len(results)} of {len(names)}{ended}", flush=True)
    return results


def excused() -> list[str]:
    lines = (HERE / "mixins.txt").read_text("utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def table(names: list[str], ours: Outcomes, theirs: Outcomes) -> str:
    """A table for the docs, in Markdown: a line for each class of CPython's."""
    lines = ["| class | tests | iocp | proactor |", "| --- | ---: | ---: | ---: |"]
    for cls in (*dict.fromkeys(name.rpartition(".")[0] for name in names), ""):
        mine = [name for name in names if name.startswith(cls)]
        passed = [sum(outcomes[name][0] == "passed" for name in mine) for outcomes in (ours, theirs)]
        lines.append(f"| {f'`{cls}`' if cls else 'all'} | {len(mine)} | {passed[0]} | {passed[1]} |")
    return "\n".join(lines)


def main() -> int:
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2])
        return 0
    started = time.monotonic()
    arguments = [word for word in sys.argv[1:] if word != "--table"]
    wanted = arguments[0] if arguments else "*"
    names = fnmatch.filter(child.names(asyncio.ProactorEventLoop), wanted)  # type: ignore[attr-defined]
    complete = "--table" in sys.argv
    ours = run_all("iocp", names)
    # Once more what has failed, as run.py does: Wine's server answers late when the machine is busy.
    ours.update(run_all("iocp", [name for name in names if ours[name][0] == "failed"]))
    asked = names if complete else [name for name in names if ours[name][0] == "failed"]
    theirs = run_all("proactor", asked)
    patterns = excused()
    wrong: list[str] = []
    known = unverified = 0
    for name in names:
        mine, reference = ours[name][0], theirs.get(name, ("not asked", ""))[0]
        expected = any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        if mine == "passed" and expected:
            wrong.append(f"{name}: is in mixins.txt and passes")
        elif mine == "passed" and reference == "failed":
            print(f"passes on iocp only: {name}")
        elif mine == "failed" and reference != "passed":
            unverified += 1
            print(f"not verified: {name} (fails there on asyncio's proactor too)")
        elif mine == "failed" and expected:
            known += 1
            print(f"known to fail, see mixins.txt: {name}")
        elif mine == "failed":
            wrong.append(f"{name}: fails\n{ours[name][1]}")
    if complete:
        print(table(names, ours, theirs))
    print("\n".join(wrong))
    print(f"not verified under Wine: {unverified}")
    passed, skipped = (sum(outcome == what for outcome, _ in ours.values()) for what in ("passed", "skipped"))
    skipped += known + unverified  # as in pytest's line; run.py takes what is not verified off again
    failed = len(names) - passed - skipped
    print(f"{failed} failed, {passed} passed, {skipped} skipped in {time.monotonic() - started:.0f}s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
