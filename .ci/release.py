"""The checklist of a release, performed: nothing is published.

    python .ci/release.py                 every step; the files are left in dist/
    python .ci/release.py --no-build      only the version, the changelog and the tree
    python .ci/release.py --draft         only the version and the builds

Each build starts from what git has at HEAD, in a folder of its own.  Two builds must agree byte for byte:
times are those of the commit, and the sdist is packed again in a fixed order with neither users nor clocks.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


class NotReady(Exception):
    """A step of the checklist is not fulfilled."""


def version(root: Path) -> str:
    """The one version of the project.

    Raises:
        NotReady: two files differ, or it is not a version.
    """
    with (root / "pyproject.toml").open("rb") as file:
        named: str = tomllib.load(file)["project"]["version"]
    found = re.search(
        r'^__version__ = "(.+)"$', (root / "proactorx" / "__init__.py").read_text(), re.MULTILINE
    )
    if found is None or found[1] != named:
        raise NotReady(f"pyproject.toml says {named}, proactorx/__init__.py {found and found[1]}")
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", named):
        raise NotReady(f"{named} is not a version of the form 1.2.3 or 1.2.3rc1")
    return named


def changes(root: Path, named: str) -> str:
    """The changelog's section of this version.

    Raises:
        NotReady: there is none with a date, it is empty, or there are unreleased changes beside it.
    """
    text = (root / "CHANGELOG.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    dated = [title for title in sections if re.fullmatch(rf"{re.escape(named)} - \d{{4}}-\d\d-\d\d", title)]
    if not dated:
        raise NotReady(f'CHANGELOG.md has no section "{named} - YYYY-MM-DD"')
    if not sections[dated[0]].strip():
        raise NotReady(f"the section of {named} is empty")
    if sections.get("Unreleased", "").strip():
        raise NotReady("CHANGELOG.md has changes under Unreleased")
    return sections[dated[0]].strip()


def git(*words: str) -> str:
    """What a git command prints."""
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def clean(named: str) -> None:
    """That the tree is what was committed, and the tag is free.

    Raises:
        NotReady: it is not.
    """
    if changed := git("status", "--porcelain"):
        raise NotReady(f"the tree has changes that are not committed:\n{changed}")
    if git("tag", "--list", f"v{named}"):
        raise NotReady(f"the tag v{named} exists")


def pack_again(made: Path, time: int) -> None:
    """Write an sdist anew: sorted, one time, no users."""
    packed = io.BytesIO()
    with tarfile.open(made) as old, tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = time
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    with made.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=time) as out:
        out.write(packed.getvalue())


def build(folder: Path, commit: str) -> dict[str, Path]:
    """The sdist of a commit, and the wheel of that sdist: by name."""
    source, dist = folder / "source", folder / "dist"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(source, filter="data")
    time = int(git("log", "-1", "--format=%ct", commit))
    env = os.environ | {"SOURCE_DATE_EPOCH": str(time), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    steps = [[sys.executable, "-m", "build", "--sdist", "--outdir", dist, source]]
    steps.append([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", dist])
    for step in steps:
        command = [*step, *(dist.glob("*.tar.gz") if "wheel" in step else ())]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise NotReady(f"{' '.join(map(str, command))} failed:\n{done.stdout.decode()[-3000:]}")
        if "--sdist" in step:
            pack_again(next(dist.glob("*.tar.gz")), time)
    return {path.name: path for path in dist.iterdir()}


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def built_twice(into: Path) -> list[str]:
    """Build in two folders whose names differ in length, compare, and keep the first one's files.

    Returns:
        a line with digest and name for each file.

    Raises:
        NotReady: the two builds differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        commit = git("rev-parse", "HEAD")  # it may move while this builds
        first = build(Path(folder, "one"), commit)
        second = build(Path(folder, "another", "place"), commit)
        differ = sorted(first.keys() ^ second.keys())
        differ += [
            name for name in first.keys() & second.keys() if digest(first[name]) != digest(second[name])
        ]
        if differ:
            raise NotReady(f"two builds differ in {', '.join(differ)}")
        into.mkdir(exist_ok=True)
        for path in first.values():
            shutil.copy(path, into)
        return [f"{digest(path)}  {name}" for name, path in sorted(first.items())]


def main() -> int:
    """Perform the steps, and say which one is not fulfilled."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--no-build", action="store_true", help="leave out the builds")
    parser.add_argument("--draft", action="store_true", help="leave out the changelog and the tree")
    options = parser.parse_args()
    try:
        named = version(ROOT)
        print(f"version: {named}")
        if not options.draft:
            print(f"changelog: {len(changes(ROOT, named).splitlines())} lines")
            clean(named)
            print("tree: as committed, the tag is free")
        if not options.no_build:
            print("built twice, byte for byte the same:", *built_twice(ROOT / "dist"), sep="\n  ")
    except NotReady as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    if not options.draft:
        print(
            f"next: git tag v{named}, and upload dist/ with the wheels that cibuildwheel makes of the sdist"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
