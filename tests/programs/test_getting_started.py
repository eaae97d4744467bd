"""The page that newcomers begin with, done as it says: its files and commands, section by section."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import Program, complaints, environment, running, tool
from support.pages import PAGES, blocks, command_argv, sections, write_files
from support.ports import unused_port

PAGE = PAGES / "getting-started.md"
if not PAGE.exists():
    pytest.skip("the page is not here", allow_module_level=True)

pytestmark = [pytest.mark.programs, pytest.mark.ours]
SERVED_WITHIN = 20.0


def _run(argv: list[str], folder: Path) -> str:
    done = subprocess.run(
        argv, env=environment(), cwd=folder, capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def _until_it_listens(port: int, server: Program) -> None:
    until = time.monotonic() + SERVED_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until or server.process.poll() is not None:
                server.fail("does not listen")
            time.sleep(0.05)
        else:
            return


def test_an_echo_server(tmp_path: Path) -> None:
    port = unused_port()
    text = sections(PAGE)["An echo server"]
    ports = {"8888": str(port)}
    write_files(text, tmp_path, ports)
    start, talk = blocks(text, "sh")
    with running(*command_argv(start, ports), env=environment(), cwd=tmp_path) as server:
        _until_it_listens(port, server)
        assert _run(command_argv(talk, ports), tmp_path) == "b'hello'\n"
        server.stop(signal.SIGTERM)
        assert complaints(server.printed) == []


def test_an_application_under_uvicorn(tmp_path: Path) -> None:
    if importlib.util.find_spec("uvicorn") is None:
        pytest.skip("needs uvicorn")
    port = unused_port()
    text = sections(PAGE)["Your application under uvicorn"]
    ports = {"8000": str(port)}
    write_files(text, tmp_path, ports)
    start, ask = blocks(text, "sh")
    install, serve = start.splitlines()
    assert install == "python -m pip install 'uvicorn>=0.36'"
    assert tuple(map(int, importlib.metadata.version("uvicorn").split(".")[:2])) >= (0, 36)
    env = environment()
    env["PYTHONPATH"] += os.pathsep + str(tmp_path)
    tool("curl")
    with running(*command_argv(serve, ports), env=env, cwd=tmp_path) as server:
        _until_it_listens(port, server)
        (url,) = ask.replace("8000", str(port)).split()[1:]
        argv = ["curl", "--disable", "-sS", "--noproxy", "*", url]
        assert subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout == b"Hello, world\n"
        server.stop(signal.SIGTERM)
        assert complaints(server.printed) == []


def test_a_file(tmp_path: Path) -> None:
    text = sections(PAGE)["A file"]
    write_files(text, tmp_path, {})
    (command,) = blocks(text, "sh")
    assert _run(command_argv(command, {}), tmp_path) == (tmp_path / "read.py").read_text()


def test_a_port_with_three_threads(tmp_path: Path) -> None:
    text = sections(PAGE)["A port with three threads"]
    write_files(text, tmp_path, {})
    (command,) = blocks(text, "sh")
    lines = _run(command_argv(command, {}), tmp_path).splitlines()
    assert [line.partition(" got ")[2] for line in lines] == [f"packet {number}" for number in range(9)]
    assert {line.partition(" got ")[0] for line in lines} <= {"thread 0", "thread 1", "thread 2"}


TESTED = {
    "proactorx": "import asyncio\nasync def test_it():\n"
    "    assert type(asyncio.get_running_loop()).__module__.partition('.')[0] in ('proactorx', 'asyncio')\n",
    "anyio": "import asyncio, pytest\n@pytest.mark.anyio\nasync def test_it():\n"
    "    assert type(asyncio.get_running_loop()).__module__.startswith('proactorx')\n",
}


@pytest.mark.parametrize(("plugin", "passed"), [("pytest_asyncio", 2), ("anyio", 1)])
def test_a_conftest(plugin: str, passed: int, tmp_path: Path) -> None:
    if importlib.util.find_spec(plugin) is None:
        pytest.skip(f"needs {plugin}")
    (text,) = (block for block in blocks(sections(PAGE)["Tests"], "python") if plugin in block)
    (tmp_path / "conftest.py").write_text(text)
    (tmp_path / "test_it.py").write_text(TESTED["anyio" if plugin == "anyio" else "proactorx"])
    mode = "strict" if plugin == "anyio" else "auto"
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("pytest_asyncio") is not None:
        argv += ["-o", f"asyncio_mode={mode}", "-o", "asyncio_default_fixture_loop_scope=function"]
    assert f"{passed} passed" in _run(argv, tmp_path)


def test_sources_that_are_not_compiled_say_so(tmp_path: Path) -> None:
    """What a newcomer meets who has installed the package and starts Python in the clone."""
    sources = PAGES.parents[1] / "proactorx"
    if not sources.exists():
        pytest.skip("the sources are not here")
    shutil.copytree(sources, tmp_path / "proactorx", ignore=shutil.ignore_patterns("*.so", "*.pyd", "*.c"))
    # Without site: after `pip install -e` it finds some modules in the clone.
    argv = [sys.executable, "-S", "-m", "proactorx", "probe"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not compiled for this Python" in done.stderr.splitlines()[-1]


def test_every_section_with_a_command_is_tested() -> None:
    with_command = {title for title, text in sections(PAGE).items() if blocks(text, "sh")}
    tested = {"An echo server", "Your application under uvicorn", "A file", "A port with three threads"}
    assert with_command == {"", *tested}
    assert blocks(sections(PAGE)[""], "sh") == ["python -m pip install .\n"]  # CI's step of that name
