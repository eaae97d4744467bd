"""The documentation: every file that a page names exists, and so do the functions on a byte's way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "proactorx"
PAGE = ROOT / "docs" / "pages" / "design" / "how-a-byte-travels.md"
DRIVERS = ("io_uring", "epoll", "select", "iocp")

pytestmark = pytest.mark.skipif(
    not (PAGE.exists() and (PACKAGE / "ops" / "op.pyx").exists()), reason="the sources are not here"
)

#: A file, and the functions that are called there.
HOP = re.compile(r"^ +(\S+/\S+\.\w+) +((?:\w+, )*\w+)", re.MULTILINE)


def _hops(section: str) -> list[tuple[str, list[str]]]:
    text = PAGE.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [(file, functions.split(", ")) for file, functions in HOP.findall(text)]


def _defined(file: str) -> set[str]:
    text = (PACKAGE / file).read_text()
    if file.endswith(".h"):
        return set(re.findall(r"\b(px_\w+)\([^;]*\)\s*\{", text))
    return set(re.findall(r"^ *(?:async )?(?:def|cdef|cpdef) [^=(\n]*?\b(\w+)\(", text, re.MULTILINE))


@pytest.mark.parametrize("section", [*DRIVERS, "Where it ends"])
def test_every_hop_exists(section: str) -> None:
    hops = _hops(section)
    assert len(hops) >= (5 if section == "Where it ends" else 12)
    for file, functions in hops:
        assert (PACKAGE / file).exists(), file
        assert [name for name in functions if name not in _defined(file)] == [], file


def test_every_line_is_a_hop_or_a_heading() -> None:
    """A line that the pattern does not see would not be checked."""
    page = PAGE.read_text()
    for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            assert not line.startswith(" ") or HOP.match(line), line


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "tests").glob("*.md"))]
NAMED = re.compile(
    r"`((?:proactorx|tests|drivers|ops|port|pool|transports|files|loop|cli|sys)/[\w/.-]+\.\w+)`"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = NAMED.findall(page.read_text())
    assert [name for name in named if not (ROOT / name).exists() and not (PACKAGE / name).exists()] == []


# The README's figures


def test_the_chart_and_the_tables_are_what_the_data_say() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "figures.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_diagrams_are_what_their_script_draws() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "diagrams.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


DIAGRAMS = (*(f"route-{driver}" for driver in DRIVERS), "two-pools", "port-rules")


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_in_a_page_and_holds_no_text_outside(name: str) -> None:
    drawn = ElementTree.parse(ROOT / "docs" / "pages" / "images" / f"{name}.svg").getroot()
    width, height = map(float, drawn.attrib["viewBox"].split()[2:])
    for text in drawn.iter("{http://www.w3.org/2000/svg}text"):
        x, half = (
            float(text.attrib["x"]),
            3.5 * len(text.text or ""),
        )  # the widest fonts are a little narrower
        left = x - half if "mid" in text.attrib["class"] else x
        assert left >= 0, text.text
        assert left + 2 * half <= width, text.text
        assert float(text.attrib["y"]) < height
    assert "prefers-color-scheme: dark" in (drawn[0].text or "")
    assert any(f"images/{name}.svg)" in page.read_text() for page in PAGES)


def test_the_readme_fits_one_screen_before_its_first_heading() -> None:
    before = (ROOT / "README.md").read_text().partition("\n## ")[0].splitlines()
    assert len(before) <= 32


# What is asked of newcomers


def test_contributing_and_the_readme_ask_for_the_same_installation() -> None:
    commands = (ROOT / "CONTRIBUTING.md").read_text().partition("```sh\n")[2].partition("```")[0].splitlines()
    assert len(commands) == 3
    assert " && ".join(commands[1:]) in (ROOT / "README.md").read_text()


def test_issue_templates_ask_for_the_probe() -> None:
    templates = [
        path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
    ]
    assert len(templates) >= 2
    for path in templates:
        assert "python -m proactorx probe --json" in path.read_text(), path.name


LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_of_the_pages_at_the_top_lead_somewhere(page: Path) -> None:
    assert [name for name in LINK.findall(page.read_text()) if not (page.parent / name).exists()] == []


# The reference


def test_the_reference_has_every_public_name_with_words() -> None:
    import proactorx

    script = "import reference; print(reference.page())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "docs", stdout=subprocess.PIPE, text=True, check=True
    )
    names = {f"proactorx.{name}" for name in proactorx.__all__} - {
        "proactorx.EventLoopPolicy",  # made when it is first asked for; see install
        "proactorx.open",  # the one of proactorx.files
    }
    assert {name for name in names if f"\n### {name}\n" not in done.stdout} == set()
    sections = re.split(r"^#{3,4} (.+)\n", done.stdout, flags=re.MULTILINE)
    silent = [
        title
        for title, body in zip(sections[1::2], sections[2::2], strict=True)
        if not re.sub(r"```.*?```", "", body, flags=re.DOTALL).strip() and "(" in body
    ]
    assert silent == []


def test_the_readme_counts_what_the_data_have() -> None:
    readme = (ROOT / "README.md").read_text()
    data = ROOT / "docs" / "data"
    libraries = json.loads((data / "libraries.json").read_text())["rows"]
    assert f"[{len(libraries)} libraries]" in readme
    behaviours = json.loads((data / "behaviour.json").read_text())["rows"]
    assert ("a hundred behaviours" in readme) == (95 <= len(behaviours) <= 110)
