"""The program of examples/ that reads many files, against wc(1)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from serving import EXAMPLES, PATIENCE, environment

pytestmark = pytest.mark.programs


def test_it_counts_as_wc_does(driver_name: str, tmp_path: Path) -> None:
    folder, report = tmp_path / "folder", tmp_path / "report"
    paths = [folder / f"{i % 7}" / f"{i}" for i in range(300)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"some words\nand more\n" * (i * 10))
    report.write_text("old")
    command = [sys.executable, "-W", "error", str(EXAMPLES / "word_count.py"), str(folder), str(report)]
    done = subprocess.run(
        [*command, "--backend", driver_name],
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    expected = subprocess.run(["wc", "-lwc", *sorted(map(str, paths))], capture_output=True, check=True)
    assert [line.split() for line in report.read_text().splitlines()] == [
        line.split() for line in expected.stdout.decode().splitlines()
    ]
    assert done.stdout.decode().split() == report.read_text().split()[-4:]
