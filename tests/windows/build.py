"""Build proactorx for a Windows Python, on Linux: Cython makes C, mingw-w64 makes DLLs.

    python tests/windows/build.py FOLDER

FOLDER is one of ``make_python.py``; the package goes to its site-packages.  Run by a Python that has Cython.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from setuptools import Extension  # type: ignore[import-untyped, unused-ignore]

ROOT = Path(__file__).parents[2]
CC = "x86_64-w64-mingw32-gcc"
FLAGS = [
    "-O2",
    "-shared",
    "-s",
    "-Wall",
    "-Wno-unused-function",
    "-Wno-unknown-pragmas",
    "-D_WIN32_WINNT=0x0A00",
]


def build_rules() -> ModuleType:
    """``proactorx/_build.py``: which modules there are, and how Cython is to treat them."""
    spec = importlib.util.spec_from_file_location("px_build", ROOT / "proactorx" / "_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def translated(rules: ModuleType, folder: Path) -> list[Path]:
    """The C files of the Windows build, made in this folder where a source has changed."""
    with open("pyproject.toml", "rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["ext-modules"]
    names = rules.modules_for("win32", [one["name"] for one in listed])
    extensions = [Extension(name, [name.replace(".", "/") + ".pyx"]) for name in names]
    extensions.append(Extension(rules.SHARED, []))
    made = rules.translate(extensions, processes=2, build_dir=str(folder))
    for copied in folder.rglob("*.h"):  # Cython's copies, but not of the headers that those include
        copied.unlink()
    return [Path(one.sources[0]).relative_to(folder) for one in made]


def compile_one(source: Path, folder: Path, home: Path, tag: str, headers: float) -> str:
    """Make the module of one C file, unless it is there and newer; what the compiler says."""
    target = home / "python" / "Lib" / "site-packages" / source.with_suffix(f".cp{tag}-win_amd64.pyd")
    made = folder / source
    if target.exists() and target.stat().st_mtime > max(headers, made.stat().st_mtime):
        return ""
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
    os.chdir(ROOT)
    tag = next((home / "libs").glob("libpython*.a")).stem.removeprefix("libpython")
    headers = max(path.stat().st_mtime for path in Path("proactorx").rglob("*.h"))
    folder = home / "c"
    with ThreadPoolExecutor(2) as pool:
        said = pool.map(
            lambda one: compile_one(one, folder, home, tag, headers), translated(build_rules(), folder)
        )
        for text in said:
            sys.stderr.write(text)
    package = home / "python" / "Lib" / "site-packages" / "proactorx"
    for source in Path("proactorx").rglob("*.py*"):
        if source.suffix in (".py", ".pyi"):
            target = package / source.relative_to("proactorx")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: build.py FOLDER")
    main(Path(sys.argv[1]).resolve())
