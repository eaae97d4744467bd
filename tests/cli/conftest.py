"""The command line is tested as it is used: one process for each call, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import proactorx

PACKAGE_ROOT = str(Path(proactorx.__file__).parents[1])

Environment = Callable[..., dict[str, str]]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Terminal = Callable[..., "tuple[subprocess.Popen[bytes], int]"]


@pytest.fixture
def environment() -> Environment:
    """The package found wherever the command runs;
    nothing of the caller's environment that changes what it shows.
    """

    def make(*first: Path, **more: str) -> dict[str, str]:
        if sys.platform == "win32":
            more = {"PYTHONUTF8": "1"} | more  # else what goes to a pipe is in the code page of the system
        drop = ("PROACTORX_", "PYTHON", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(drop)}
        return kept | {"PYTHONPATH": os.pathsep.join([*map(str, first), PACKAGE_ROOT])} | more

    return make


@pytest.fixture
def cli(tmp_path: Path, environment: Environment) -> Cli:
    """Run ``python -m proactorx ARGS`` to its end, without a terminal; keywords are environment variables."""

    def call(
        *args: str, python: tuple[str, ...] = (sys.executable,), **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*python, "-m", "proactorx", *args],
            cwd=tmp_path,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=40,
        )

    return call


@pytest.fixture
def refused() -> Callable[[str], tuple[str, ...]]:
    """A Python to which the kernel answers io_uring's calls with an errno, or with the end of the process."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64", "riscv64"):
        pytest.skip("needs Linux's seccomp")
    script = str(Path(__file__).parents[1] / "support" / "refuse_io_uring.py")
    return lambda answer: (sys.executable, script, "--answer", answer, sys.executable)


@pytest.fixture
def running(driver_name: str) -> str:
    """The driver that ``driver_name`` leads to; another word only for ``auto``."""
    loop = proactorx.new_event_loop(driver_name)
    try:
        return loop.backend_info().name
    finally:
        loop.close()


@pytest.fixture
def no_rich(tmp_path: Path, environment: Environment) -> str:
    """A PYTHONPATH on which rich is not installed."""
    hidden = tmp_path / "hidden" / "rich"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'rich'\", name='rich')\n"
    )
    return environment(hidden.parent)["PYTHONPATH"]


@pytest.fixture
def terminal(tmp_path: Path, environment: Environment) -> Iterator[Terminal]:
    """Start ``python -m proactorx ARGS`` on a terminal of its own, 100 columns wide;
    gives the terminal's other end.
    """
    pytest.importorskip("termios", reason="no terminals of this kind")
    import termios

    with contextlib.ExitStack() as stack:

        def start(*args: str) -> tuple[subprocess.Popen[bytes], int]:
            here, there = os.openpty()
            stack.callback(os.close, here)
            termios.tcsetwinsize(there, (40, 100))
            process = subprocess.Popen(
                [sys.executable, "-m", "proactorx", *args],
                cwd=tmp_path,
                env=environment(TERM="xterm-256color"),
                preexec_fn=lambda: os.login_tty(there),
            )
            os.close(there)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process, here

        yield start
