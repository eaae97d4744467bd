"""The C core of the port and its wakers under the sanitizers of gcc or clang: no data race,
no misuse of memory.

By hand: pytest tests/port/test_races.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "proactorx" / "port"

with_sources = pytest.mark.skipif(
    not (SOURCES / "scheduler_posix.h").exists(), reason="needs the sources of the package"
)
pytestmark = with_sources


def build(sanitizers: str, source: str, folder: Path) -> Path:
    """The program of races.c, or of `source`, with these sanitizers; without a compiler that has them,
    skip.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("needs a C compiler")
    file, program = folder / "program.c", folder / "program"
    flags = (
        f"-fsanitize={sanitizers}",
        "-fno-sanitize-recover=all",
        "-O1",
        "-g",
        "-Wno-unused-function",
        "-pthread",
    )
    file.write_text("int main(void) { return 0; }\n")
    if subprocess.run([compiler, *flags, file, "-o", program], capture_output=True, check=False).returncode:
        pytest.skip(f"the C compiler has no sanitizers for {sanitizers}")
    file.write_text(source)
    subprocess.run(
        [compiler, *flags, "-I", SOURCES, "-I", SOURCES.parents[1], file, "-o", program], check=True
    )
    return program


def run(program: Path) -> subprocess.CompletedProcess[str]:
    """Run it, with addresses that are not random: ThreadSanitizer knows only some layouts."""
    fixed = shutil.which("setarch")
    argv = [fixed, "-R", program] if fixed else [program]
    env = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1 exitcode=66"}
    return subprocess.run(argv, capture_output=True, text=True, timeout=45, check=False, env=env)


@pytest.mark.parametrize(
    "sanitizers", ["thread", pytest.param("address,undefined", marks=pytest.mark.exhaustive)]
)
def test_eight_threads(sanitizers: str, tmp_path: Path) -> None:
    program = build(sanitizers, (HERE / "races.c").read_text(), tmp_path)
    done = run(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("posted 13000, ")


def test_the_sanitizer_sees_a_race(tmp_path: Path) -> None:
    """... when a lock is left out: else the test above would mean nothing."""
    locked = "    pthread_mutex_lock(&p->mutex);\n    while (n < room"
    header = (SOURCES / "scheduler_posix.h").read_text()
    assert header.count(locked) == 1
    broken = header.replace(locked, "    while (n < room").replace(
        "packets[n++] = px_next(p);\n    pthread_mutex_unlock(&p->mutex);\n", "packets[n++] = px_next(p);\n"
    )
    (tmp_path / "shared_broken.h").write_text(broken)
    source = (HERE / "races.c").read_text().replace('"scheduler_posix.h"', '"shared_broken.h"')
    done = run(build("thread", source, tmp_path))
    assert done.returncode == 66
    assert "data race" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="eventfd(2) is Linux's")
@pytest.mark.parametrize("sanitizers", ["thread", "address,undefined"])
def test_wakers_are_made_given_up_and_closed(sanitizers: str, tmp_path: Path) -> None:
    """No wake-up is lost, and none goes to another file, while three threads post at any time."""
    done = run(build(sanitizers, (HERE / "wakes.c").read_text(), tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout.removeprefix("reused ")) > 0  # else nothing was tried


@pytest.mark.skipif(sys.platform != "linux", reason="eventfd(2) is Linux's")
def test_a_waker_that_does_not_wait_is_found_out(tmp_path: Path) -> None:
    """... for who may have read its number: the test above would see that."""
    header = (SOURCES.parent / "sys" / "event.h").read_text()
    wait = "    while (px_load(&w->users)) px_let_run();\n"
    assert header.count(wait) == 1
    broken = header.replace(wait, "").replace('#include "', '#include "proactorx/sys/')
    (tmp_path / "event_broken.h").write_text(broken)
    source = (HERE / "wakes.c").read_text().replace('"proactorx/sys/event.h"', '"event_broken.h"')
    program = build("address", source, tmp_path)
    assert any(run(program).returncode for _ in range(15))  # one time in two
