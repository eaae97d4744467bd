"""Objects of the compiled classes that a program makes by hand: wrong use is an exception,
and never a crash.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from loop.helpers import script_environment

PROGRAM = Path(__file__).parent / "support" / "made_by_hand.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each call is made in a forked process")
@pytest.mark.parametrize(
    "room",
    [
        "loop",
        "transports",
        *(
            pytest.param(room, marks=pytest.mark.exhaustive)
            for room in ("drivers", "files", "ops", "pool", "port")
        ),
    ],
)
def test_no_method_of_any_compiled_class_crashes_without_init(room: str) -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, f"proactorx.{room}."],
        capture_output=True, text=True, timeout=45, env=script_environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert int(done.stderr.split()[-2]) > 20  # else the classes were not found
