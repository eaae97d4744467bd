from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zipapp
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Cli = Callable[..., CompletedProcess[str]]
Environment = Callable[..., dict[str, str]]

FACTS = """\
import json, sys

print(json.dumps({
    "argv": sys.argv,
    "path": sys.path[:1],
    "name": __name__,
    "file": __file__,
    "main": sys.modules["__main__"].__dict__ is globals(),
    "spec": __spec__ and __spec__.name,
    "package": __package__,
    "names": sorted(set(globals()) - {"__annotations__"}),
    "loader": type(__loader__).__name__,
    "builtins": type(__builtins__).__name__,
}))
"""

LOOPS = """\
import asyncio, json, sys, warnings

async def loop():
    found = asyncio.get_running_loop()
    return [type(found).__module__.partition(".")[0], getattr(found, "backend_info", str)()]

def with_runner():
    with asyncio.Runner() as runner:
        return runner.run(loop())

def with_new_event_loop():
    made = asyncio.new_event_loop()
    try:
        return made.run_until_complete(loop())
    finally:
        made.close()

def with_named_loop():
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(loop())

def with_get_event_loop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = asyncio.get_event_loop()
    try:
        return made.run_until_complete(loop())
    finally:
        made.close()

found = {}
if sys.version_info < (3, 14):  # newer ones make no loop here
    found["get_event_loop"] = with_get_event_loop()
found["run"] = asyncio.run(loop())
found["Runner"] = with_runner()
found["new_event_loop"] = with_new_event_loop()
found["named"] = with_named_loop()
print(json.dumps({name: [module, info and info.name] for name, (module, info) in found.items()}))
"""


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


@pytest.fixture
def python(tmp_path: Path, environment: Environment) -> Cli:
    """The same program under Python itself: what ``run`` is to be like."""

    def call(*args: str) -> CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            timeout=40,
        )

    return call


def facts(done: CompletedProcess[str]) -> dict[str, Any]:
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", ["script.py", "without_suffix", "folder/script.py", "./script.py"])
def test_a_script_sees_what_python_gives_it(cli: Cli, python: Cli, tmp_path: Path, name: str) -> None:
    write(tmp_path, name, FACTS)
    ours = facts(cli("run", name, "--backend", "-m", "--", "-h"))
    assert ours == facts(python(name, "--backend", "-m", "--", "-h"))
    assert ours["argv"] == [name, "--backend", "-m", "--", "-h"]


def test_a_link_is_followed_for_the_path_alone(cli: Cli, python: Cli, tmp_path: Path) -> None:
    write(tmp_path, "folder/script.py", FACTS)
    (tmp_path / "link.py").symlink_to(Path("folder", "script.py"))
    ours = facts(cli("run", "link.py"))
    assert ours == facts(python("link.py"))
    assert ours["path"] == [str(tmp_path / "folder")]


@pytest.mark.parametrize("name", ["module", "package", "package.inner"])
def test_a_module_sees_what_python_gives_it(cli: Cli, python: Cli, tmp_path: Path, name: str) -> None:
    for path in ("module.py", "package/__init__.py", "package/__main__.py", "package/inner.py"):
        write(tmp_path, path, "" if path.endswith("__init__.py") else FACTS)
    ours = facts(cli("run", "-m", name, "--backend", "-m", "x"))
    assert ours == facts(python("-m", name, "--backend", "-m", "x"))
    assert ours["argv"][1:] == ["--backend", "-m", "x"]
    assert facts(cli("run", f"-m{name}")) == facts(python(f"-m{name}"))


def test_a_folder_and_a_zip_file(cli: Cli, python: Cli, tmp_path: Path) -> None:
    write(tmp_path, "folder/__main__.py", FACTS)
    zipapp.create_archive(tmp_path / "folder", tmp_path / "app.pyz")
    for name in ("folder", "app.pyz"):
        assert facts(cli("run", name, "x")) == facts(python(name, "x"))


def test_a_name_that_looks_like_an_option(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, "-odd.py", FACTS)
    assert facts(cli("run", "--", "-odd.py", "--", "-h"))["argv"] == ["-odd.py", "--", "-h"]


def test_nothing_is_put_on_a_safe_path(cli: Cli, python: Cli, tmp_path: Path) -> None:
    write(tmp_path, "script.py", FACTS)
    ours = facts(cli("run", "script.py", python=(sys.executable, "-P")))
    assert ours == facts(python("-P", "script.py"))


def loops(done: CompletedProcess[str]) -> dict[str, list[str]]:
    found = facts(done)
    assert found.pop("named") == ["asyncio", ""]  # a loop that the program names is the program's choice
    expected = {"run", "Runner", "new_event_loop"}
    assert found.keys() - {"get_event_loop"} == expected
    return found


def test_every_unnamed_loop_is_ours(cli: Cli, tmp_path: Path, driver_name: str, running: str) -> None:
    write(tmp_path, "script.py", LOOPS)
    for done in (
        cli("run", f"--backend={driver_name}", "-m", "script"),
        cli("run", "script.py", PROACTORX_BACKEND=driver_name),
    ):
        assert all(loop == ["proactorx", running] for loop in loops(done).values())


def test_the_option_beats_the_environment(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, "script.py", LOOPS)
    found = loops(cli("run", "--backend", "select", "script.py", PROACTORX_BACKEND="auto"))
    assert all(loop == ["proactorx", "select"] for loop in found.values())


def test_a_restricted_ring(cli: Cli, tmp_path: Path, driver_name: str) -> None:
    text = "import asyncio; print(repr(asyncio.new_event_loop().backend_info().restriction))"
    write(tmp_path, "script.py", text)
    said = [
        cli("run", f"--backend={driver_name}", *more, "script.py").stdout.strip()
        for more in ([], ["--restrict"])
    ]
    assert said[0] == "''"
    assert ("refuses" in said[1]) != ("nothing to restrict" in said[1])


def test_warnings_as_errors(cli: Cli, tmp_path: Path) -> None:
    """Policies are deprecated since Python 3.14: that is no concern of a program that does not use them."""
    write(tmp_path, "script.py", LOOPS)
    found = loops(cli("run", "script.py", python=(sys.executable, "-W", "error", "-X", "dev")))
    assert all(loop[0] == "proactorx" for loop in found.values())


def test_the_programs_own_policy_warning_stays(cli: Cli, python: Cli, tmp_path: Path) -> None:
    write(tmp_path, "script.py", "import asyncio\nasyncio.set_event_loop_policy(None)\n")
    ours, theirs = cli("run", "script.py"), python("script.py")
    assert (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr)


def test_a_python_without_policies(cli: Cli, tmp_path: Path, environment: Environment) -> None:
    """As Python 3.16 will be: nothing but the functions that make loops."""
    write(tmp_path, "future/sitecustomize.py", "import asyncio\ndel asyncio.set_event_loop_policy\n")
    write(tmp_path, "script.py", LOOPS.replace("sys.version_info < (3, 14)", "False"))
    found = loops(cli("run", "script.py", PYTHONPATH=environment(tmp_path / "future")["PYTHONPATH"]))
    assert all(loop[0] == "proactorx" for loop in found.values())


ENDINGS = {
    "exit code": "raise SystemExit(7)",
    "exit message": "raise SystemExit('enough')",
    "error": "def f():\n    raise ValueError('boom')\nf()",
    "error in a task": "import asyncio\nasync def main():\n    raise ValueError('boom')\nasyncio.run(main())",
    "failing import": "import no_such_module",
    "syntax error": "x = = 3",
    "interrupt": "raise KeyboardInterrupt",
    "interrupt in a task": (
        "import asyncio\nasync def main():\n    raise KeyboardInterrupt\nasyncio.run(main())"
    ),
    "exit handler": (
        "import atexit, sys\nmine = 1\natexit.register(lambda: print(sys.modules['__main__'].mine))"
    ),
}


@pytest.mark.parametrize("text", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize(
    "how",
    [["script.py"], pytest.param(["-m", "script"], marks=pytest.mark.exhaustive)],
    ids=["script", "module"],
)
def test_it_ends_as_under_python(cli: Cli, python: Cli, tmp_path: Path, how: list[str], text: str) -> None:
    write(tmp_path, "script.py", text)
    ours, theirs = cli("run", *how), python(*how)
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert last_lines(ours) == last_lines(theirs)
    assert not re.search(r"proactorx.(cli|__main__)", ours.stderr)


def last_lines(done: CompletedProcess[str]) -> list[str]:
    """The error, and where in the program it was; what lies between may be the loop's own."""
    lines = done.stderr.splitlines()
    return [line for line in lines[1:] if "script.py" in line] + lines[-1:]


def test_a_missing_script(cli: Cli) -> None:
    done = cli("run", "nowhere.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("proactorx: can't open file 'nowhere.py': [Errno 2]")


def test_a_missing_module(cli: Cli, python: Cli) -> None:
    done = cli("run", "-m", "no_such_module")
    assert (done.returncode, done.stderr) == (1, python("-m", "no_such_module").stderr)


SLEEPER = """\
import asyncio

async def main():
    print("ready", flush=True)
    try:
        await asyncio.sleep(30)
    finally:
        print("cleaned up", flush=True)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_ctrl_c(tmp_path: Path, environment: Environment, driver_name: str) -> None:
    write(tmp_path, "script.py", SLEEPER)
    with subprocess.Popen(
        [sys.executable, "-m", "proactorx", "run", "--backend", driver_name, "script.py"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            os.kill(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out) == (-signal.SIGINT, "cleaned up\n")
    assert err.splitlines()[-1] == "KeyboardInterrupt"


POOL = """\
import asyncio, concurrent.futures, multiprocessing, pickle

class Thing:
    pass

def double(number):
    return number * 2

async def main():
    assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        print(await asyncio.get_running_loop().run_in_executor(pool, double, 21))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_main_can_be_pickled_and_imported_by_a_process_pool(cli: Cli, tmp_path: Path) -> None:
    write(tmp_path, "script.py", POOL)
    done = cli("run", "script.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")


class TestObserving:
    """``run --watchdog`` and ``run --metrics``."""

    def test_the_watchdog(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "slow.py").write_text(
            "import asyncio, sys, time\n"
            "async def main():\n"
            "    time.sleep(0.5)\n"
            "    await asyncio.sleep(0.2)\n"
            "asyncio.run(main())\n"
            "print(sys.argv[1:])\n"
        )
        done = cli("run", "--watchdog", "50ms", "slow.py", "--watchdog")
        assert done.returncode == 0
        assert done.stdout == "['--watchdog']\n"
        assert "the loop goes on after 0." in done.stderr

    def test_metrics(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "asks.py").write_text(
            "import asyncio, threading\n"
            "async def main():\n"
            "    await asyncio.sleep(0)\n"
            "    names = [thread.name for thread in threading.enumerate()]\n"
            "    print('proactorx-metrics' in names)\n"
            "asyncio.run(main())\n"
        )
        done = cli("run", "--metrics", "127.0.0.1:0", "asks.py")
        assert (done.returncode, done.stdout) == (0, "True\n")
        assert re.fullmatch(r"proactorx: metrics at http://127\.0\.0\.1:\d+/metrics\n", done.stderr)

    def test_where_nothing_can_be_served(self, cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "never.py").write_text("raise SystemExit('it ran')")
        done = cli("run", "--metrics", "192.0.2.1:80", "never.py")
        assert done.returncode == 1
        assert "proactorx: cannot serve metrics at 192.0.2.1:80: " in done.stderr

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--watchdog", "soon"), ("--watchdog", "0"), ("--metrics", "80"), ("--metrics", ":80"),
         ("--metrics", "host:99999")],
    )  # fmt: skip
    def test_values_that_mean_nothing(self, cli: Cli, option: str, value: str) -> None:
        done = cli("run", option, value, "never.py")
        assert done.returncode == 2
        assert value in done.stderr
