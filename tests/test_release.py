"""The release script: what it refuses."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "release.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the sources are not here")


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _project(folder: Path, *, named: str = "1.2.3", coded: str = "1.2.3", log: str = "") -> Path:
    (folder / "proactorx").mkdir()
    (folder / "pyproject.toml").write_text(f'[project]\nversion = "{named}"\n')
    (folder / "proactorx" / "__init__.py").write_text(f'__version__ = "{coded}"\n')
    (folder / "CHANGELOG.md").write_text(log)
    return folder


def test_this_project_has_one_version(release: ModuleType) -> None:
    assert release.version(ROOT)


@pytest.mark.parametrize(
    ("named", "coded"), [("1.2.3", "1.2.4"), ("1.2", "1.2"), ("1.2.3.dev0", "1.2.3.dev0")]
)
def test_a_wrong_version_is_refused(release: ModuleType, tmp_path: Path, named: str, coded: str) -> None:
    with pytest.raises(release.NotReady):
        release.version(_project(tmp_path, named=named, coded=coded))


def test_the_section_of_the_version_is_found(release: ModuleType, tmp_path: Path) -> None:
    log = "# Log\n\n## Unreleased\n\n## 1.2.3 - 2030-01-31\n\n- A line.\n\n## 1.2.2 - 2029-01-31\n\n- Old.\n"
    assert release.changes(_project(tmp_path, log=log), "1.2.3") == "- A line."


@pytest.mark.parametrize(
    "log",
    [
        "## Unreleased\n\n- A line.\n",
        "## 1.2.3\n\n- A line.\n",
        "## 1.2.3 - 2030-01-31\n\n## 1.2.2 - 2029-01-31\n\n- Old.\n",
        "## Unreleased\n\n- New.\n\n## 1.2.3 - 2030-01-31\n\n- A line.\n",
        "## 1.2.33 - 2030-01-31\n\n- A line.\n",
    ],
    ids=["none", "undated", "empty", "unreleased", "another"],
)
def test_a_changelog_that_is_not_ready_is_refused(release: ModuleType, tmp_path: Path, log: str) -> None:
    with pytest.raises(release.NotReady):
        release.changes(_project(tmp_path, log=log), "1.2.3")


def _archive(path: Path, names: list[str], time: int) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid, member.uname = 1, time, time, "somebody"
            tar.addfile(member, io.BytesIO(b"x"))


def test_sdists_of_other_order_clock_and_user_become_the_same(release: ModuleType, tmp_path: Path) -> None:
    one, other = tmp_path / "one.tar.gz", tmp_path / "other.tar.gz"
    _archive(one, ["p/a", "p/b"], 1000)
    _archive(other, ["p/b", "p/a"], 2000)
    for path in (one, other):
        release.pack_again(path, 1234)
    assert one.read_bytes() == other.read_bytes()
    with tarfile.open(one) as tar:
        assert [(member.name, member.mtime, member.uid) for member in tar] == [
            ("p/a", 1234, 0),
            ("p/b", 1234, 0),
        ]
