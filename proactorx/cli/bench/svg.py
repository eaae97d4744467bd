"""Draws the result of ``bench`` as SVG, readable in dark and light."""

from __future__ import annotations

from html import escape

from proactorx.cli.bench.rows import OURS, ROWS, Ratio, Result

WIDTH, LEFT, RIGHT, TOP, BAR, GAP = 760, 290, 90, 66, 12, 14
MOST = 4.0  # a longer bar ends there, and its figure says how long it is: else one row makes all others tiny
PALETTE = ("#0969da", "#54aeff", "#8250df", "#bf8700", "#cf222e", "#1a7f37", "#bc4c00")
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.faint { fill: #59636e } .title { font-size: 15px; font-weight: 600 }
.page { fill: #ffffff } .base { stroke: #1f2328 } .noise { stroke: #59636e }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .page { fill: #0d1117 } .faint { fill: #9198a1 }
.base { stroke: #f0f6fc } .noise { stroke: #9198a1 }
}
</style>"""


def chart(result: Result) -> str:
    """The chart: bars for each row, with the quartiles of the rounds, and a line where the base is."""
    colours = _colours(result)
    shown: dict[str, dict[str, Ratio]] = {}
    for row in ROWS:
        found = {loop: result.ratio(row.name, loop) for loop in result.samples.get(row.name, {})}
        kept = {loop: ratio for loop, ratio in found.items() if ratio is not None and loop != result.base}
        if kept:
            shown[row.caption] = kept
    most = max([1.0, *(ratio.median for loops in shown.values() for ratio in loops.values())])
    most = min(most, MOST)
    scale = (WIDTH - LEFT - RIGHT) / most
    height = TOP + sum(len(loops) * BAR + GAP for loops in shown.values()) + 30
    about = result.about
    title = f"Requests per CPU second, {result.base} = 1"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
    out = [
        f'{head} aria-label="{title}">',
        STYLE,
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
        _text(0, 16, title, "title"),
        _text(WIDTH, 16, f"{about['python']}, {about['system']}, {about['date']}", "faint", "end"),
        *_legend(result, colours),
    ]
    y: float = TOP
    for caption, loops in shown.items():
        out.append(_text(LEFT - 10, y + len(loops) * BAR / 2 + 4, caption, "", "end"))
        for loop, ratio in loops.items():
            out += _bar(y, ratio, scale, colours[loop])
            y += BAR
        y += GAP
    x = f"{LEFT + scale:.1f}"
    out.append(f'<path class="base" d="M{x} {TOP - 8}V{y - 4:.1f}" stroke-dasharray="3 3"/>')
    out.append(_text(LEFT + scale, y + 10, result.base, "", "middle"))
    return "\n".join([*out, "</svg>", ""])


def _colours(result: Result) -> dict[str, str]:
    """Blue for this package's drivers; the base has a line instead of bars."""
    ours = [name for name in result.loops if name in OURS]
    others = [name for name in result.loops if name not in OURS and name != result.base]
    return dict(zip(ours, PALETTE, strict=False)) | dict(zip(others, ("#afb8c1", *PALETTE[2:]), strict=False))


def _legend(result: Result, colours: dict[str, str]) -> list[str]:
    out, x = [], float(LEFT)
    for loop, colour in colours.items():
        if loop != result.base:
            out.append(f'<rect x="{x:.1f}" y="34" width="11" height="{BAR - 2}" rx="2" fill="{colour}"/>')
            out.append(_text(x + 17, 43, loop, ""))
            x += 90
    return out


def _bar(y: float, ratio: Ratio, scale: float, colour: str) -> list[str]:
    longest = WIDTH - LEFT - RIGHT
    low, high, end = (LEFT + min(x * scale, longest) for x in (ratio.low, ratio.high, ratio.median))
    middle = y + (BAR - 2) / 2
    return [
        f'<rect x="{LEFT}" y="{y:.1f}" width="{end - LEFT:.1f}" height="{BAR - 2}" rx="2" fill="{colour}"/>',
        f'<path class="noise" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>',
        _text(max(high, end) + 5, y + 9, f"{ratio.median:.2f}{' »' if ratio.median > MOST else ''}", "faint"),
    ]


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'
