"""Draw the README's chart and write the tables of the README and of the page on benchmarks.

    python docs/figures.py            write the files
    python docs/figures.py --check    exit code 1 if they are not what this would write

``python tests/benchmarks/loops.py --json FILE`` makes the data.  ``samples`` has one
entry for each row and loop.  A ratio is the CPU time per request of uvloop divided by that of the loop.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
PAGE = DOCS / "pages" / "benchmarks.md"
IMAGES = DOCS / "pages" / "images"

#: Rows of the chart: their names in the data, and on the chart.
CHART = {
    "protocol echo, 1 KiB, 10 connections": "echo, 10 connections",
    "protocol echo, 1 KiB, 100 connections": "echo, 100 connections",
    "HTTP, httptools": "HTTP, httptools",
    "streams, 1 KiB": "streams",
    "TLS protocol, 1 KiB": "TLS",
    "UDP, 1 KiB": "UDP",
    "`sock_recv`, `sock_sendall`, 1 KiB": "sock_recv, sock_sendall",
    "three writes for each answer, 1 KiB": "three writes per answer",
}
#: Rows of the README's table.
TABLE = (
    "protocol echo, 1 KiB, 10 connections",
    "HTTP, httptools",
    "streams, 1 KiB",
    "TLS protocol, 1 KiB",
    "UDP, 1 KiB",
)
LOOPS = ("io_uring", "epoll", "asyncio")
NAMES = {"io_uring": "proactorx, io_uring", "epoll": "proactorx, epoll", "asyncio": "asyncio"}
START, END = "<!-- figures -->", "<!-- end of figures -->"
#: The loops of the page's tables, where they were measured.
COLUMNS = ("io_uring", "epoll", "asyncio", "zuvloop", "rsloop", "rloop", "blazio", "aiofastnet", "C")
OURS = ("io_uring", "epoll")

PARTS = ("text", "faint", *LOOPS)
THEMES = {
    "light": dict(zip(PARTS, ["#1f2328", "#59636e", "#0969da", "#54aeff", "#afb8c1"], strict=True)),
    "dark": dict(zip(PARTS, ["#f0f6fc", "#9198a1", "#1f6feb", "#79c0ff", "#656c76"], strict=True)),
}
WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 720, 190, 44, 64, 11, 14


def read(name: str) -> Any:
    """One of the files of data."""
    return json.loads((DOCS / "data" / f"{name}.json").read_text())


def load() -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """What the data says of itself, and the ratios by row and loop."""
    data = read("benchmarks")
    rows: dict[str, dict[str, float]] = {}
    for sample in data["samples"]:
        if "failed" not in sample:
            rows.setdefault(sample["row"], {})[sample["loop"]] = sample["ratio"]
    return data, rows


def _text(x: float, y: float, words: str, fill: str, **more: object) -> str:
    options = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}"{options}>{escape(words)}</text>'


def _bar(x: float, y: float, width: float, fill: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR - 2}" rx="2" fill="{fill}"/>'


def chart(theme: str, about: dict[str, Any], rows: dict[str, dict[str, float]]) -> str:
    """The chart as SVG: a group of bars for each row, and a line where uvloop is."""
    colour = THEMES[theme]
    dark, faint = colour["text"], colour["faint"]
    shown = {name: [loop for loop in LOOPS if loop in rows[name]] for name in CHART if name in rows}
    scale = (WIDTH - LEFT - RIGHT) / max(rows[name][loop] for name in shown for loop in shown[name])
    height = TOP + sum(len(loops) * BAR + GAP for loops in shown.values()) + 12
    title = "Requests per CPU second, uvloop = 1"
    where = f"CPython {about['python']}, Linux {about['kernel']}, {about['date']}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
    out = [f'{head} aria-label="{title}" font-family="system-ui, sans-serif" font-size="12">']
    out.append(_text(0, 16, title, dark, font_size=15, font_weight=600))
    out.append(_text(WIDTH, 16, where, faint, text_anchor="end"))
    for n, loop in enumerate(LOOPS):
        out.append(_bar(LEFT + n * 160, 34, 11, colour[loop]))
        out.append(_text(LEFT + n * 160 + 17, 42, NAMES[loop], dark))
    y: float = TOP
    for name, loops in shown.items():
        out.append(_text(LEFT - 10, y + len(loops) * BAR / 2 + 4, CHART[name], dark, text_anchor="end"))
        for loop in loops:
            ratio = rows[name][loop]
            out.append(_bar(LEFT, y, ratio * scale, colour[loop]))
            out.append(_text(LEFT + ratio * scale + 5, y + 8.5, f"{ratio:.2f}", faint, font_size=10))
            y += BAR
        y += GAP
    x = f"{LEFT + scale:.1f}"
    out.append(f'<path d="M{x} {TOP - 8}V{y - 6:.1f}" stroke="{dark}" stroke-dasharray="3 3"/>')
    out.append(_text(LEFT + scale, y + 6, "uvloop", dark, text_anchor="middle", font_size=11))
    return "\n".join([*out, "</svg>", ""])


def table(about: dict[str, Any], rows: dict[str, dict[str, float]]) -> str:
    """The README's table, in Markdown."""
    lines = [f"| requests per CPU second, uvloop {about['uvloop']} = 1 | io_uring | epoll | asyncio |"]
    lines.append("|---|---:|---:|---:|")
    for name in TABLE:
        cells = [f"{rows[name][loop]:.2f}" if loop in rows[name] else "not measured" for loop in LOOPS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: dict[str, float], loop: str, aim: float) -> str:
    best = max(ratio for name, ratio in row.items() if name != "C")
    mark = "**" if loop != "C" and row[loop] == best else "*" if loop in OURS and row[loop] < aim else ""
    return f"{mark}{row[loop]:.2f}{mark}"


def page_table(about: dict[str, Any], kind: str) -> str:
    """A table of the page, in Markdown: the rows in the order of the run; `kind` says what they are.

    A loop that failed a sample of a row has no figure there.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for sample in about["samples"]:
        found.setdefault(sample["row"], {})[sample["loop"]] = sample
    loops = [name for name in COLUMNS if any(name in row for row in found.values())]
    lines = [f"| {kind} | uvloop, µs | {' | '.join(loops)} | aim | noise |"]
    lines.append("|---|" + "---:|" * (len(loops) + 3))
    for name, row in found.items():
        ratios = {loop: sample["ratio"] for loop, sample in row.items() if "failed" not in sample}
        cells = dict.fromkeys(loops, "") | dict.fromkeys(row, "fails")
        aim = about["aims"].get(name, 0)
        cells |= {loop: _cell(ratios, loop, aim) for loop in ratios}
        noise = max(row[loop]["noise"] for loop in OURS if loop in ratios)
        base = f"{row['uvloop']['cpu']:.2f}"
        shown = " | ".join(cells[loop] for loop in loops)
        lines.append(f"| {name} | {base} | {shown} | {aim or ''} | {noise:.0%} |")
    return "\n".join(lines)


def busy_table() -> str:
    """The table of requests beside threads that compute, from ``data/convoy.json``."""
    lines = ["| busy threads | loop | requests/s | p50, ms | p99, ms | the threads keep |"]
    lines.append("|---:|---|---:|---:|---:|---:|")
    for one in read("convoy"):
        waits = f"{one['p50']:.2f} | {one['p99']:.2f}"
        kept = f"{one['kept']:.0%}" if one["busy"] else ""
        lines.append(f"| {one['busy']} | {one['loop']} | {one['rate']:,.0f} | {waits} | {kept} |")
    return "\n".join(lines)


def between(text: str, name: str, start: str, end: str, made: str) -> str:
    """`text` with `made` between the two markers."""
    before, start, rest = text.partition(start)
    _, end, after = rest.partition(end)
    if not start or not end:
        raise SystemExit(f"{name} lacks the marker of a table")
    return f"{before}{start}\n\n{made}\n\n{end}{after}"


def files() -> dict[Path, str]:
    """What is to be written."""
    about, rows = load()
    found = {IMAGES / f"cpu-{theme}.svg": chart(theme, about, rows) for theme in THEMES}
    found[README] = between(README.read_text(), README.name, START, END, table(about, rows))
    page = PAGE.read_text()
    made = {
        "workloads": page_table(about, "workload"),
        "calls": page_table(read("calls"), "call"),
        "busy threads": busy_table(),
        "workloads on CPython 3.14": page_table(read("benchmarks-3.14"), "workload"),
        "calls on CPython 3.14": page_table(read("calls-3.14"), "call"),
    }
    for name, lines in made.items():
        page = between(page, PAGE.name, f"<!-- table of {name} -->", f"<!-- end of {name} -->", lines)
    found[PAGE] = page
    return found


def main() -> int:
    """Write the files, or compare them."""
    changed = [path for path, text in files().items() if not path.exists() or path.read_text() != text]
    if "--check" not in sys.argv[1:]:
        IMAGES.mkdir(exist_ok=True)
        for path, text in files().items():
            path.write_text(text)
        return 0
    for path in changed:
        print(f"{path.relative_to(DOCS.parent)} is not what docs/figures.py writes", file=sys.stderr)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
