"""What a type checker knows of files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import proactorx


@pytest.mark.timeout(300)
def test_a_program_is_checked(tmp_path: Path) -> None:
    """Its right lines are accepted, and its wrong ones found: a needless ``type: ignore`` is an error too."""
    pytest.importorskip("mypy")
    sources = Path(proactorx.__file__).parents[1]
    environment = dict(os.environ)
    if sources.name not in ("site-packages", "dist-packages"):
        environment["MYPYPATH"] = str(sources)
    program = Path(__file__).with_name("typed_program.py")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={tmp_path}",
        str(program),
    ]
    found = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert found.stdout.startswith("Success"), found.stdout + found.stderr
