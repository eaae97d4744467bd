"""Make a Windows CPython that runs under Wine, and what extension modules for it are compiled against.

    python tests/windows/make_python.py 3.13 FOLDER

The interpreter is the one of python.org (built by Microsoft's compiler): a wheel on PyPI carries its DLLs,
the Python half of the standard library comes from a Linux interpreter of the same minor version.
Made in FOLDER:

    python/python.exe     the interpreter, with Lib (and CPython's tests of asyncio), DLLs and site-packages
    include, libs         headers and import library
    run                   runs it: FOLDER/run -m pytest ...; the exit code passes through
    prefix                what Wine writes: made by `run` where it is missing

A copy of the folder, without the prefix, does as well.

Needed (Debian's names): wine, wine64, gcc-mingw-w64-x86-64, and a Linux interpreter of that version.
About 20 seconds.

What Wine 8 wants, and `run` gives it: stdout is a pipe (Python does not start on a file or terminal handle),
the prefix says Windows 10, and there is no _wmi.pyd (platform.* would crash in it).
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
CC = "x86_64-w64-mingw32-gcc"
#: The release of panda3d whose wheel carries the DLLs of that Python, in deploy_libs.
CARRIERS = {"3.11": "1.10.14", "3.12": "1.10.14", "3.13": "1.10.15"}
#: The last three: pip decides on them by the Python and the system that it runs on.
PACKAGES = (
    "pytest>=9",
    "pytest-asyncio>=1.4",
    "pytest-timeout>=2.3",
    "rich>=13",
    "aiofiles>=25.1",
    "colorama",
    "tzdata",
    "typing-extensions",
)
NOT_WANTED = ("_wmi", "api-ms-", "tcl", "tk", "_tkinter")
#: Of the standard library; tests come in one by one below.
LEFT_OUT = {
    "__pycache__",
    "lib-dynload",
    "site-packages",
    "idlelib",
    "turtledemo",
    "tkinter",
    "ensurepip",
    "test",
}
TESTS = (
    "__init__.py",
    "support",
    "test_asyncio",
    "certdata",
    "libregrtest",
    "audit-tests.py",
    "echo.py",
    "echo2.py",
    "echo3.py",
)

RUN = """#!/bin/sh
# The Windows interpreter of this folder, under Wine. Its output goes through a pipe.
here=$(dirname "$(readlink -f "$0")")
unset PYTHONPATH PYTHONHOME  # those of Linux
export WINEDEBUG=-all WINEPREFIX="$here/prefix" DISPLAY= PYTHONUTF8=1
export WINEDLLOVERRIDES='mscoree,mshtml,winemenubuilder.exe=d'
if [ ! -e "$WINEPREFIX/windows-10" ]; then
  wineboot --init < /dev/null > "$here/prefix.log" 2>&1 &&
    wine reg add 'HKCU\\Software\\Wine' /v Version /d win10 /f < /dev/null >> "$here/prefix.log" 2>&1 &&
    touch "$WINEPREFIX/windows-10" || { cat "$here/prefix.log" >&2; exit 70; }
fi
exec 3>&1
status=$( { { wine "$here/python/python.exe" "$@" < /dev/null 2>&1; echo $? >&4; } | cat >&3; } 4>&1 )
exit "$status"
"""
LAUNCHER = """
#include <wchar.h>
__declspec(dllimport) int Py_Main(int argc, wchar_t **argv);
int wmain(int argc, wchar_t **argv) { return Py_Main(argc, argv); }
"""


def linux_python(version: str) -> str:
    """An interpreter of this version, which gives the standard library.

    Raises:
        SystemExit: there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for one in filter(None, found):
        if subprocess.run([one, "-c", ""], check=False, stderr=subprocess.DEVNULL).returncode == 0:
            return str(one)
    raise SystemExit(f"no Python {version} is installed here")


def ask(python: str, what: str) -> Path:
    """A path that this interpreter knows."""
    code = f"import sysconfig; print(sysconfig.get_path({what!r}))"
    return Path(subprocess.check_output([python, "-c", code], text=True).strip())


def download(version: str, folder: Path, *requirements: str, alone: bool = False) -> list[Path]:
    """Wheels for that Windows Python."""
    options = ["--platform", "win_amd64", "--only-binary=:all:", "--python-version", version]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    folder.mkdir()
    subprocess.run([*pip, *options, *["--no-deps"] * alone, "-d", str(folder), *requirements], check=True)
    return sorted(folder.glob("*.whl"))


def exported(dll: Path) -> Iterator[str]:
    """The names that a 64-bit DLL exports: the PE format, "The .edata Section"."""
    data = dll.read_bytes()
    header = struct.unpack_from("<I", data, 0x3C)[0]
    sections, optional_size = struct.unpack_from("<H12xH", data, header + 6)
    table = header + 24 + optional_size

    def place(address: int) -> int:
        for i in range(sections):
            size, start, raw_size, raw = struct.unpack_from("<IIII", data, table + 40 * i + 8)
            if start <= address < start + max(size, raw_size):
                return int(raw + address - start)
        raise ValueError(f"no section of {dll.name} holds address {address:#x}")

    exports = place(struct.unpack_from("<I", data, header + 24 + 112)[0])
    count, _, names = struct.unpack_from("<III", data, exports + 24)
    for i in range(count):
        start = place(struct.unpack_from("<I", data, place(names) + 4 * i)[0])
        yield data[start : data.index(b"\0", start)].decode("ascii")


def unpack_interpreter(wheel: Path, tag: str, home: Path) -> None:
    """The DLLs and modules of the interpreter."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = Path(member).name
            free_threaded = f"cp{tag}t" in name or name.startswith((f"python{tag}t", "python3t"))
            if not member.startswith("deploy_libs/") or free_threaded or name.startswith(NOT_WANTED):
                continue
            beside_exe = name.lower().startswith(("python", "vcruntime"))
            target = home / name.lower() if beside_exe else home / "DLLs" / name
            target.write_bytes(archive.read(member))


def copy_library(stdlib: Path, home: Path) -> None:
    """The Python half of the standard library, with CPython's tests of asyncio."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        here = set(LEFT_OUT if folder == str(stdlib) else {"__pycache__"})
        return {name for name in names if name in here or name.startswith(("config-", "_sysconfigdata"))}

    shutil.copytree(stdlib, home / "Lib", ignore=ignored, dirs_exist_ok=True)
    for name in TESTS:
        source = stdlib / "test" / name
        if source.is_dir():
            shutil.copytree(source, home / "Lib" / "test" / name, ignore=ignored)
        elif source.exists():
            (home / "Lib" / "test").mkdir(exist_ok=True)
            shutil.copy(source, home / "Lib" / "test" / name)
    for pem in [*(stdlib / "test").glob("*.pem"), *(stdlib / "test").glob("*.key")]:
        shutil.copy(pem, home / "Lib" / "test")


def make(version: str, out: Path) -> None:
    """Make it all in `out`."""
    tag, home, libs = version.replace(".", ""), out / "python", out / "libs"
    linux = linux_python(version)
    for old in (home, libs, out / "include", out / "prefix"):
        shutil.rmtree(old, ignore_errors=True)
    (out / "run").unlink(missing_ok=True)
    for folder in (home / "DLLs", home / "Lib" / "site-packages", libs):
        folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        carrier = f"panda3d=={CARRIERS[version]}"
        unpack_interpreter(download(version, work / "carrier", carrier, alone=True)[0], tag, home)
        for wheel in download(version, work / "wheels", *PACKAGES):
            zipfile.ZipFile(wheel).extractall(home / "Lib" / "site-packages")
        copy_library(ask(linux, "stdlib"), home)
        shutil.copytree(ask(linux, "include"), out / "include")
        shutil.copy(HERE / "pyconfig.h", out / "include" / "pyconfig.h")
        dll = home / f"python{tag}.dll"
        names = work / "names.def"
        names.write_text("\n".join([f"LIBRARY {dll.name}", "EXPORTS", *exported(dll)]))
        dlltool = CC.replace("gcc", "dlltool")
        subprocess.run([dlltool, "-d", str(names), "-l", str(libs / f"libpython{tag}.a")], check=True)
        launcher = work / "launcher.c"
        launcher.write_text(LAUNCHER)
        exe = ["-o", str(home / "python.exe"), str(launcher), f"-L{libs}", f"-lpython{tag}"]
        subprocess.run([CC, "-O2", "-s", "-municode", *exe], check=True)
    run = out / "run"
    run.write_text(RUN)  # last: what says that it is whole
    run.chmod(0o755)
    subprocess.run(
        [run, "-c", "import sys, asyncio.windows_events; print(sys.version, sys.platform)"], check=True
    )


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in CARRIERS:
        raise SystemExit(f"usage: make_python.py {'|'.join(CARRIERS)} FOLDER")
    make(sys.argv[1], Path(sys.argv[2]).resolve())
