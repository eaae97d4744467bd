"""Draw the diagrams of the pages: the route of a byte on each driver, the two pools, the rules of a port.

    python docs/diagrams.py            write the files
    python docs/diagrams.py --check    exit code 1 if they are not what this would write

The routes are those of ``design/how-a-byte-travels.md``, whose hops the tests look up in the sources.
Each file has a background, light or dark as the reader's system says, so that it is readable on any page.
"""

from __future__ import annotations

import re
import sys
import textwrap
from html import escape
from pathlib import Path

PAGES = Path(__file__).parent / "pages"
IMAGES = PAGES / "images"
ROUTES = PAGES / "design" / "how-a-byte-travels.md"
DRIVERS = ("io_uring", "epoll", "select", "iocp")

STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .head { font-weight: 600 } .faint { fill: #59636e }
.code { font: 11px ui-monospace, monospace } .mid { text-anchor: middle }
.box { fill: #f6f8fa; stroke: #afb8c1 } .ours { fill: #ddf4ff; stroke: #0969da }
.yours { fill: #dafbe1; stroke: #1a7f37 }
.kernel { fill: #fff8c5; stroke: #9a6700 } .stopped { fill: #ffebe9; stroke: #cf222e }
.page { fill: #ffffff } .line { fill: none; stroke: #59636e } .lane { stroke: #d1d9e0 }
.dash { stroke-dasharray: 4 3 }
#arrow path { fill: #59636e }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .faint { fill: #9198a1 }
.box { fill: #212830; stroke: #656c76 } .ours { fill: #0c2d6b; stroke: #58a6ff }
.yours { fill: #04260f; stroke: #3fb950 }
.kernel { fill: #341a00; stroke: #d29922 } .stopped { fill: #490202; stroke: #f85149 }
.page { fill: #0d1117 } .line { stroke: #9198a1 } .lane { stroke: #3d444d } #arrow path { fill: #9198a1 }
}
</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0L8 4L0 8z"/></marker></defs>"""


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img"'
    background = f'<rect width="{width:g}" height="{height:g}" class="page"/>'
    return "\n".join([f'{head} aria-label="{escape(title)}">', STYLE, background, *parts, "</svg>", ""])


def _text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>'


def _box(
    x: float, y: float, width: float, height: float, kind: str, *lines: str, words: str = "mid"
) -> list[str]:
    """A box, with lines of text in its middle."""
    out = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" class="{kind}"/>']
    top = y + height / 2 + 4 - (len(lines) - 1) * 7
    return out + [_text(x + width / 2, top + n * 14, line, words) for n, line in enumerate(lines)]


def _arrow(*points: tuple[float, float], kind: str = "line") -> str:
    steps = "L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{steps}" class="{kind}" marker-end="url(#arrow)"/>'


# the route of a byte

LANES = ("sys", "ops", "drivers", "port", "loop", "transports", "yours")
CAPTIONS = {"sys": "sys/: calls", "yours": "your program"} | {
    name: f"{name}/" for name in LANES if name not in ("sys", "yours")
}
LANE, BOX, STEP = 138, 128, 16
HOP = re.compile(r"^ +((\w+)/\S+) +((?:\w+, )*\w+)")


def route(driver: str) -> str:
    """The trip of a TCP receive: a lane for each room, a box for each hop, a band where the kernel works."""
    section = ROUTES.read_text(encoding="utf-8").partition(f"\n## {driver}\n")[2]
    trip = section.partition("TCP receive\n\n")[2].partition("\n\n")[0]
    width = LANE * len(LANES)
    parts: list[str] = []
    y, before = 44.0, None
    for line in trip.splitlines():
        if line.startswith("~~~"):
            parts += _box(5, y, width - 10, 26, "kernel", f"kernel: {line.strip('~ ')}")
            if before is not None:
                parts.append(_arrow(before, (before[0], y)))
            before, y = (before[0] if before else LANE / 2, y + 26), y + 26 + STEP
            continue
        hop = HOP.match(line)
        lane, words = (hop[2], hop[3]) if hop else ("yours", line.strip("> "))
        lines = textwrap.wrap(words, 19, break_long_words=False) if hop else [words.replace("protocol.", "")]
        height = 10 + 14 * len(lines)
        x = LANE * LANES.index(lane)
        kind = "yours" if lane == "yours" else "ours" if lane == "drivers" else "box"
        if before is not None:
            middle, half = x + LANE / 2, y - STEP / 2
            parts.append(_arrow(before, (before[0], half), (middle, half), (middle, y)))
        parts += _box(x + (LANE - BOX) / 2, y, BOX, height, kind, *lines, words="code mid")
        before, y = (x + LANE / 2, y + height), y + height + STEP
    lanes = [_text(LANE * (n + 0.5), 18, CAPTIONS[name], "head mid") for n, name in enumerate(LANES)]
    lanes += [f'<path d="M{LANE * n} 4V{y:g}" class="lane"/>' for n in range(1, len(LANES))]
    return _svg(width, y, f"The route of a received byte on {driver}", lanes + parts)


# the two pools


def two_pools() -> str:
    """Who hands what to which threads."""
    parts = [
        *_box(20, 30, 180, 220, "yours", words="mid"),
        _text(110, 52, "the loop's thread", "head mid"),
        *_box(36, 66, 148, 34, "box", "coroutines, callbacks"),
        *_box(36, 110, 148, 34, "box", "all socket I/O"),
        *_box(36, 154, 148, 34, "box", "run_in_executor(None)", words="code mid"),
        *_box(36, 198, 148, 34, "box", "getaddrinfo, io_pool", words="code mid"),
        *_box(330, 30, 300, 96, "box"),
        _text(480, 50, "workers: up to min(32, CPUs + 4)", "head mid"),
        *(part for n in range(3) for part in _box(346 + n * 94, 62, 82, 30, "stopped", f"worker-{n + 1}")),
        _text(480, 114, "your blocking calls; all busy here", "faint mid"),
        *_box(330, 154, 300, 96, "box"),
        _text(480, 174, "IO threads: 8 at once, then slowly", "head mid"),
        *(part for n in range(3) for part in _box(346 + n * 94, 186, 82, 30, "ours", f"io-{n + 1}")),
        _text(480, 238, "what the loop itself must block for", "faint mid"),
        _arrow((184, 171), (260, 171), (260, 78), (330, 78)),
        _arrow((184, 215), (330, 215)),
        _text(480, 144, "nothing is shared between the two", "faint mid"),
    ]
    return _svg(650, 270, "The loop's thread, its workers and its IO threads", parts)


# the port's rules


def port_rules() -> str:
    """First in, first out for packets; last in, first out for threads; no more threads than the limit."""
    parts = [
        _text(20, 20, "A port with concurrency = 2", "head"),
        _text(115, 52, "packets: first in, first out", "mid"),
        *(
            part
            for n, name in enumerate(("packet 5", "packet 4", "packet 3"))
            for part in _box(70, 64 + n * 36, 90, 28, "kernel", name)
        ),
        _text(115, 190, "the oldest leaves first", "faint mid"),
        _arrow((160, 150), (256, 150)),
        *_box(256, 64, 150, 122, "ours"),
        _text(331, 84, "running: 2 of 2", "head mid"),
        *_box(272, 96, 118, 30, "yours", "thread A", words="mid"),
        *_box(272, 138, 118, 30, "yours", "thread B", words="mid"),
        _text(331, 206, "get() in B takes packet 3", "faint mid"),
        _text(331, 222, "without a switch", "faint mid"),
        _text(545, 52, "waiting: last in, first out", "mid"),
        *_box(490, 64, 110, 28, "box", "thread D"),
        *_box(490, 100, 110, 28, "box", "thread C"),
        _arrow((490, 78), (406, 78), kind="line dash"),
        _text(545, 148, "D came last, its caches are warm:", "faint mid"),
        _text(545, 164, "it is released when A or B blocks", "faint mid"),
        *_box(256, 246, 150, 34, "stopped", "in port.blocking()"),
        _arrow((331, 228), (331, 246), kind="line dash"),
        _text(420, 268, "does not count: another may run", "faint"),
    ]
    return _svg(680, 296, "Rules of a completion port", parts)


def files() -> dict[Path, str]:
    """What is to be written."""
    drawn = {f"route-{driver}.svg": route(driver) for driver in DRIVERS}
    drawn |= {"two-pools.svg": two_pools(), "port-rules.svg": port_rules()}
    return {IMAGES / name: text for name, text in drawn.items()}


def main() -> int:
    """Write the files, or compare them."""
    changed = 0
    for path, text in files().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            print(f"{path.name} is not what docs/diagrams.py writes", file=sys.stderr)
            changed = 1
        else:
            path.write_text(text, encoding="utf-8")
    return changed


if __name__ == "__main__":
    sys.exit(main())
