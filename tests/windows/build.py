"""Build proactorx for a Windows Python, on Linux: Cython makes C, mingw-w64 makes DLLs.

    python tests/windows/build.py FOLDER

FOLDER is one of ``make_python.py``; the package goes to its site-packages.  Run by a Python that has Cython.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
CC = "x86_64-w64-mingw32-gcc"
FLAGS = ["-O2", "-shared", "-s", "-Wall", "-Wno-unused-function", "-Wno-unknown-pragmas", "-D_WIN32_WINNT=0x0A00"]


def build_rules() -> ModuleType:
    """``proactorx/_build.py``: which modules there are, and how Cython is to treat them."""
    spec = importlib.util.spec_from_file_location("px_build", ROOT / "proactorx" / "_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources(rules: ModuleType) -> list[Path]:
    """The .pyx files of the Windows build."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["ext-modules"]
    names = rules.modules_for("win32", [one["name"] for one in listed])
    return [Path(name.replace(".", "/") + ".pyx") for name in names]


def newest(paths: list[Path]) -> float:
    """When one of them was changed last."""
    return max(path.stat().st_mtime for path in paths)


def compile_one(source: Path, work: Path, home: Path, tag: str, shared: float, rules: ModuleType) -> str:
    """Make the module of one .pyx, unless it is there and newer than its sources; what the compiler says."""
    target = home / "python" / "Lib" / "site-packages" / source.with_suffix(f".cp{tag}-win_amd64.pyd")
    if target.exists() and target.stat().st_mtime > max(shared, source.stat().st_mtime):
        return ""
    made = work / source.with_suffix(".c")
    made.parent.mkdir(parents=True, exist_ok=True)
    directives = [f"-X{name}={value}" for name, value in rules.DIRECTIVES.items()]
    cython = [sys.executable, "-m", "cython", "-3", *directives, "-o", str(made), str(source)]
    subprocess.run(cython, check=True, cwd=ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    folders = [f"-I{home / 'include'}", f"-I{ROOT}", f"-I{ROOT / source.parent}"]
    libraries = [f"-L{home / 'libs'}", f"-lpython{tag}", "-lws2_32"]
    command = [CC, *FLAGS, *folders, "-o", str(target), str(made), *libraries]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        target.unlink(missing_ok=True)
        raise SystemExit(f"{source}: the C compiler failed\n{done.stderr}")
    return done.stderr


def main(home: Path) -> None:
    """Build what has changed, and copy the Python half."""
    tag = next((home / "libs").glob("libpython*.a")).stem.removeprefix("libpython")
    rules = build_rules()
    shared = newest([*(ROOT / "proactorx").rglob("*.pxd"), *(ROOT / "proactorx").rglob("*.h")])
    work = home / "c"
    with ThreadPoolExecutor(2) as pool:
        said = pool.map(lambda one: compile_one(one, work, home, tag, shared, rules), sources(rules))
        for text in said:
            sys.stderr.write(text)
    package = home / "python" / "Lib" / "site-packages" / "proactorx"
    for source in (ROOT / "proactorx").rglob("*.py*"):
        if source.suffix in (".py", ".pyi"):
            target = package / source.relative_to(ROOT / "proactorx")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: build.py FOLDER")
    main(Path(sys.argv[1]).resolve())
