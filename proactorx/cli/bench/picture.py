"""Draws the result of ``bench`` in the terminal: with colours where rich is installed, plain otherwise."""

from __future__ import annotations

import sys
import textwrap

from proactorx.cli.bench.rows import OURS, ROWS, Ratio, Result, Row

WIDTH = 79
BAR = 26

#: A line: pieces of text, each with a style of rich ("" for none).
Line = list[tuple[str, str]]


def lines(result: Result) -> list[Line]:
    """The picture, as lines of pieces."""
    about = result.about
    out: list[Line] = [
        [],
        [(" proactorx bench: CPU time per request, compared with ", "bold"), (result.base, "bold")],
        [],
        *_wrapped(f"{about['python']}, {about['system']}, {about['machine']}, {about['cores']} cores, "
                  f"{about['date']}"),
        *_wrapped(f"{about['rounds']} rounds of {about['seconds']} s for each loop, in turn; servers: "
                  f"{about['connections']} connections over loopback"),
    ]  # fmt: skip
    for name, what in result.loops.items():
        out += _wrapped(f"{name}: {what}")
    for why in dict.fromkeys(result.missing.values()):
        names = ", ".join(name for name, other in result.missing.items() if other == why)
        out += _wrapped(f"not measured: {names} ({why})", "yellow")
    for row in ROWS:
        if row.name in result.skipped:
            out += [
                [],
                [(f" {row.caption}", "bold")],
                *_wrapped(f"skipped: {result.skipped[row.name]}", "yellow"),
            ]
        elif result.samples.get(row.name):
            out += [[], [(f" {row.caption}", "bold")], *_row(result, row)]
    out += [
        [],
        *_wrapped(
            f"A longer bar is better: {result.base}'s CPU time over the loop's, the median of the rounds, "
            "± half the distance of their quartiles. Then the CPU time per request of the loop's process, "
            "and the rate, which depends on the client too. Dim: about equal."
        ),
    ]
    for note in result.notes:
        out += _wrapped(note, "yellow")
    return [*out, []]


def _wrapped(text: str, style: str = "dim") -> list[Line]:
    return [[(f" {line}", style)] for line in textwrap.wrap(text, WIDTH - 2, subsequent_indent="  ")]


def _row(result: Result, row: Row) -> list[Line]:
    found = {loop: result.ratio(row.name, loop) for loop in result.samples[row.name]}
    longest = max((ratio.median for ratio in found.values() if ratio is not None), default=1.0)
    out: list[Line] = []
    for loop, ratio in found.items():
        style = "green" if loop in OURS else "blue"
        cpu, rate = result.cpu(row.name, loop) * 1e6, result.rate(row.name, loop)
        length = round(BAR * ratio.median / longest) if ratio is not None else 0
        out.append(
            [
                (f"   {loop:<9}", style),
                ("█" * max(1, length) + " " * (BAR - max(1, length)), style),
                *_judged(ratio, loop == result.base),
                (f"{cpu:>9.{2 if cpu < 10 else 1}f} µs{rate:>12,.0f}/s", ""),
            ]
        )
    return out


def _judged(ratio: Ratio | None, base: bool) -> Line:
    if ratio is None:
        return [(f"{'':>12}", "")]
    if base:
        return [(f"{ratio.median:>6.2f}      ", "")]
    style = "bold green" if ratio.low > 1.03 else "bold red" if ratio.high < 0.97 else "dim"
    return [(f"{ratio.median:>6.2f} ±{min(ratio.noise, 9.99):>3.0%} ", style)]


def show(picture: list[Line]) -> None:
    """Print the picture."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        _print(picture)
        return
    console = Console(highlight=False, soft_wrap=True)
    if console.options.ascii_only:
        _print(picture)
        return
    for line in picture:
        console.print(Text.assemble(*line))


def _print(picture: list[Line]) -> None:
    text = "\n".join("".join(piece for piece, _ in line).rstrip() for line in picture)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        for there, instead in (("█", "#"), ("µ", "u"), ("±", "+-")):
            text = text.replace(there, instead)
        text = text.encode("ascii", "replace").decode()
    print(text)
