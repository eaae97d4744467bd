"""The page ``trouble.md``: each of its steps, and its images."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from serving import EXAMPLES, ROOT, environment

PAGE = ROOT / "docs" / "pages" / "trouble.md"
SCRIPT = ROOT / "docs" / "screens.py"

pytestmark = [
    pytest.mark.programs,
    pytest.mark.skipif(not SCRIPT.exists(), reason="the documentation is not here"),
]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("screens", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def line_of(report: str) -> str:
    """The line of the example that the innermost frame of a report is at."""
    return str(re.findall(r"troubled_service\.py\", line \d+, in \w+\n +(.*)", report)[-1])


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs CPU times of threads")
def test_each_fault_is_found_as_the_page_says(driver_name: str, tmp_path: Path) -> None:
    screens = script()
    service = screens.Troubled(tmp_path, "--backend", driver_name, env=environment())
    try:
        assert service.ask("hello") == "hello"
        assert "sock.recvfrom(512)" in line_of(screens.lookup(service))
        assert "WORDS.fullmatch(argument)" in line_of(screens.check(service))
        if not sysconfig.get_config_var("Py_GIL_DISABLED") and driver_name != "select":
            assert "waiting for the GIL held by thread report" in screens.report(service)
        answer = screens.subscribe(service, 1_000_000)
        (loop,) = answer["loops"]
        (buffer,) = loop["buffers"]
        assert buffer["peer"] == "{}:{}".format(*service.clients[-1])
        assert loop["transports"]["stream"]["paused_writing"] == 1
        tasks = screens.transfer(service).split("\n  transfer  ")[1:]
        assert len(tasks) == 2
        assert all("Service.transfer" in task and "Lock.acquire" in task for task in tasks)
    finally:
        code = service.stop()
    assert code == 0, service.log.read_text()


def test_the_images_show_what_was_recorded() -> None:
    pytest.importorskip("rich")
    command = [sys.executable, SCRIPT, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_shows_every_step_and_lines_of_the_example() -> None:
    page = PAGE.read_text(encoding="utf-8")
    example = (EXAMPLES / "troubled_service.py").read_text(encoding="utf-8")
    assert re.findall(r"\(images/trouble-(\w+)\.svg\)", page) == list(script().STEPS)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == len(script().STEPS)
    for block in blocks:
        for line in block.splitlines():
            assert line.strip() in example, line
