"""The site of the documentation, as built: its links, and its pages and pictures as a browser draws them."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (360, 1440)
CONTRAST = 4.5  # what WCAG asks of text
LIGHT, DARK = "#ffffff", "#0d1117"  # the pages that pictures lie on
LIMIT = 100  # seconds for a browser with all pages, on a busy machine

BUILT = os.environ.get("PROACTORX_SITE")  # the site that CI has built

if BUILT is None and (importlib.util.find_spec("mkdocs") is None or not (DOCS.parent / "proactorx").exists()):
    pytest.skip("needs mkdocs and the sources", allow_module_level=True)

pytestmark = pytest.mark.timeout(2 * LIMIT)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as CI builds it."""
    if BUILT is not None:
        return Path(BUILT)
    folder = tmp_path_factory.mktemp("site")
    argv = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "-f",
        DOCS / "mkdocs.yml",
        "-d",
        folder,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return folder


# Links


class _Page(HTMLParser):
    """What a page links to, and what it can be linked by."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("href", "src") and value:
                self.links.append(value)
            elif key == "id" and value:
                self.names.add(value)


def _broken(site: Path) -> Iterator[str]:
    pages = {path: _Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue  # the network is not asked; the links of 404.html begin at the root of a server
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            lost = parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].names
            if not target.exists() or lost:
                yield f"{path.relative_to(site)}: {link}"


def test_no_link_is_broken(site: Path) -> None:
    assert list(_broken(site)) == []


def test_a_broken_link_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="x"></h1><a href="b.html"></a><a href="#x"></a><img src="c.svg">'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#y"></a><a href="https://example.org"></a>')
    assert sorted(_broken(tmp_path)) == ["a.html: c.svg", "b.html: a.html#y"]


# In a browser


def _browse(page: Path, *options: str) -> Any:
    """What the script of a page has written into its body, as JSON."""
    argv = [
        *(BROWSER or "", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={page.parent / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *("--virtual-time-budget=60000", *options, "--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=True)
    found = re.search(r"<body[^>]*>(.*?)</body>", done.stdout, re.DOTALL)
    assert found is not None, done.stdout[-1000:]
    return json.loads(html.unescape(found[1]))


#: In each page: what reaches beyond its right edge and cannot be scrolled to, and pictures without a picture.
LOOK = """<script>addEventListener('load', () => {
const scrolls = one => one && one !== document.body
  && (/auto|scroll|hidden/.test(getComputedStyle(one).overflowX) || scrolls(one.parentElement));
const whole = document.documentElement, main = document.querySelector('[role=main]') || document.body;
const wide = [...main.querySelectorAll('*')]
  .filter(one => one.getBoundingClientRect().right > whole.clientWidth + 1 && !scrolls(one))
  .map(one => one.tagName + ' ' + one.textContent.slice(0, 60));
if (whole.scrollWidth > whole.clientWidth) wide.push('the page, to ' + whole.scrollWidth);
const lost = [...document.images].filter(one => !one.naturalWidth).map(one => one.src);
parent.postMessage({words: main.textContent.length, width: innerWidth, wide, lost}, '*');
})</script>"""
#: One frame after the other, so that a slow machine has one page to lay out at a time.
FRAMES = """<!doctype html><body></body><script>
const left = LEFT, found = [];
function next() {
  if (!left.length) { document.body.textContent = JSON.stringify(found); return; }
  const [name, width] = left.shift(), frame = document.createElement('iframe');
  addEventListener('message', event => {
    found.push({name, asked: width, ...event.data}); frame.remove(); next();
  }, {once: true});
  frame.style = `width: ${width}px; height: 900px; border: 0`; frame.src = name; document.body.append(frame);
}
next();
</script>"""


def _look_at_pages(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    for name in names:
        path = folder / name
        path.write_text(
            path.read_text(encoding="utf-8").replace("</body>", f"{LOOK}</body>"), encoding="utf-8"
        )
    asked = json.dumps([[name, width] for name in names for width in WIDTHS])
    (folder / "frames.html").write_text(FRAMES.replace("LEFT", asked))
    found: list[dict[str, Any]] = _browse(folder / "frames.html")
    assert [(one["name"], one["width"]) for one in found] == [(n, w) for n in names for w in WIDTHS]
    return found


@needs_browser
def test_pages_fit_a_phone_and_a_screen_and_have_their_pictures(site: Path, tmp_path: Path) -> None:
    copy = tmp_path / "site"
    shutil.copytree(site, copy)
    names = [path.relative_to(copy).as_posix() for path in sorted(copy.rglob("*.html"))]
    names = [name for name in names if name not in ("404.html", "search.html")]
    assert len(names) > 20
    found = _look_at_pages(copy, names)
    assert [one for one in found if one["wide"] or one["lost"]] == []
    assert min(one["words"] for one in found) > 200


@needs_browser
def test_what_is_too_wide_or_lost_would_be_found(tmp_path: Path) -> None:
    wide = "<pre style='width: 900px'>wide</pre>"
    page = f"<body><div style='overflow: auto'>{wide}</div>%s</body>"
    (tmp_path / "good.html").write_text(page % "")
    (tmp_path / "bad.html").write_text(page % (wide + "<img src='lost.svg'>"))
    found = {(one["name"], one["width"]): one for one in _look_at_pages(tmp_path, ["bad.html", "good.html"])}
    assert found["bad.html", 360]["wide"][0] == "PRE wide"
    assert found["bad.html", 1440]["wide"] == []
    assert [len(one["lost"]) for one in found.values()] == [1, 1, 0, 0]
    assert found["good.html", 360]["wide"] == []


# Pictures

#: For each text of each picture: the contrast of its colour to that of the last shape below its middle.
READ = """<script>
const PICTURES = DRAWN;
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const light = colour => { const [r, g, b] = rgb(colour).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const opaque = one => { const fill = getComputedStyle(one).fill;
  return fill.startsWith('rgb') && (rgb(fill)[3] ?? 1) > 0.5 && !one.closest('defs'); };
const found = [];
for (const holder of document.querySelectorAll('div')) {
  const root = holder.attachShadow({mode: 'open'});  // the styles of a picture are its own
  root.innerHTML = PICTURES[holder.id];
  const shapes = [...root.querySelectorAll('rect, path, circle, polygon')].filter(opaque);
  for (const text of root.querySelectorAll('text')) {
    if (!text.textContent.trim()) continue;
    const box = text.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
    const under = shapes.filter(one => { const b = one.getBoundingClientRect();
      return b.left <= x && x <= b.right && b.top <= y && y <= b.bottom
        && one.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING; }).pop();
    const [a, b] = [getComputedStyle(text).fill,
      under ? getComputedStyle(under).fill : getComputedStyle(holder).backgroundColor].map(light);
    found.push([holder.id, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text.textContent.slice(0, 40)]);
  }
}
document.body.textContent = JSON.stringify([matchMedia('(prefers-color-scheme: dark)').matches, found]);
</script>"""


def _contrasts(folder: Path, pictures: list[tuple[str, str, str]], *, dark: bool) -> list[list[Any]]:
    """Of each text of the pictures (a name, the page's colour, the drawing): name, contrast, beginning."""
    held = [f'<div id="{name}" style="background: {page}; width: 900px"></div>' for name, page, _ in pictures]
    drawn = json.dumps({name: picture for name, _, picture in pictures}).replace("</", "<\\/")
    page = folder / "pictures.html"
    page.write_text(f"<!doctype html><body>{''.join(held)}{READ.replace('DRAWN', drawn)}</body>")
    is_dark, texts = _browse(page, f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    assert is_dark == dark
    return list(texts)


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pictures_can_be_read(dark: bool, tmp_path: Path) -> None:
    """On a light page and on a dark one; the README chooses its chart by the scheme."""
    files = {
        path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "pages" / "images").glob("*.svg")
    }
    charts = {name: files.pop(name) for name in ("cpu-light", "cpu-dark")}
    chart = "cpu-dark" if dark else "cpu-light"
    assert len(files) > 5
    pictures = [(chart, DARK if dark else LIGHT, charts[chart])]
    for page in (LIGHT, DARK):
        pictures += [(f"{name} on {page}", page, drawn) for name, drawn in files.items()]
    found = _contrasts(tmp_path, pictures, dark=dark)
    assert {name for name, *_ in found} == {name for name, *_ in pictures}
    assert [one for one in found if one[1] < CONTRAST] == []


@needs_browser
def test_a_picture_that_cannot_be_read_would_be_found(tmp_path: Path) -> None:
    picture = (
        '<svg viewBox="0 0 90 40"><rect width="90" height="20" fill="#000"/>'
        '<text x="2" y="14" fill="#fff">a</text><text x="2" y="34" fill="#fff">b</text></svg>'
    )
    found = _contrasts(tmp_path, [("picture", LIGHT, picture)], dark=False)
    assert [(one[2], round(one[1])) for one in found] == [("a", 21), ("b", 1)]
