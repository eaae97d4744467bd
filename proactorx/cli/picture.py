"""Draws the two pools over time, with rich."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from proactorx.cli.story import Pool, Story

HEIGHTS = "▁▂▃▄▅▆▇█"
NUMBERS = "0123456789"
COLOURS = {"workers": "blue", "IO threads": "green"}
MARGIN = 12  # columns before a chart
LAST = 10  # lines about decisions
MEANING = {
    "minimum": "no thread was idle, below the minimum",
    "starvation": "packets waited, none was taken for a gate period",
    "compensation": "packets waited, blocked threads left too few",
    "blocking": "a callback used blocking()",
    "idle": "nothing to do",
    "closed": "the pool was closed",
    "limit lowered": "the maximum was lowered",
}


@contextlib.contextmanager
def live(story: Story) -> Iterator[Callable[[], None]]:
    """Yield a function that redraws the picture, which disappears at the end;
    without a terminal it does nothing.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        yield lambda: None
        return
    ascii_only = console.options.ascii_only
    with Live(console=console, auto_refresh=False, transient=True) as screen:
        yield lambda: screen.update(_picture(story, ascii_only, running=True), refresh=True)


def show_story(story: Story) -> None:
    """Print the whole story."""
    console = Console(highlight=False)
    console.print(_picture(story, console.options.ascii_only, running=False))


def _picture(story: Story, ascii_only: bool, *, running: bool) -> RenderableType:
    title = Text(" proactorx demo threads", style="bold")
    if running:
        title.append(f"   {story.samples[-1].at:3.1f} of {story.seconds:g} s: {story.phase}", style="yellow")
    note = (
        f"{story.seconds:g} s on the driver {story.backend}. IO threads: 2 at once, then one per "
        f"{story.gate:.2g} s; they end after {story.idle:.2g} s idle."
    )
    parts: list[RenderableType] = [
        Text(),
        title,
        Padding(Text(note, style="dim"), (0, 0, 1, 1)),
        _phases(story),
    ]
    parts.append(_chart("workers", [sample.workers for sample in story.samples], ascii_only))
    parts.append(_chart("IO threads", [sample.io for sample in story.samples], ascii_only))
    if not running:
        parts.append(_waits(story))
    parts.append(_decisions(story))
    return Group(*parts)


def _phases(story: Story) -> RenderableType:
    """Name the phases, and mark where each begins in the charts below."""
    names: list[str] = []
    marks = Text(" " * MARGIN, style="yellow")
    for sample in story.samples:
        if new := sample.phase not in names:
            names.append(sample.phase)
        marks.append(str(len(names)) if new else " ")
    legend = "   ".join(f"{number} {name}" for number, name in enumerate(names, 1))
    return Group(Text(f" {legend}", style="yellow"), marks)


def _chart(name: str, pools: Sequence[Pool], ascii_only: bool) -> RenderableType:
    """Draw one line each for threads, busy threads and queued calls, one column per sample."""
    now = pools[-1]
    lines = Text(f" {name}: ", style=f"bold {COLOURS[name]}")
    lines.append(f"{now.threads} threads, {now.busy} busy, {now.queued} queued now\n", style="bold")
    for what in ("threads", "busy", "queued"):
        values = [int(getattr(pool, what)) for pool in pools]
        lines.append(f"   {what}".ljust(MARGIN), style="dim")
        lines.append(_bars(values, ascii_only), style="red" if what == "queued" else COLOURS[name])
        lines.append(f" at most {max(values)}\n", style="dim")
    return lines


def _bars(values: Sequence[int], ascii_only: bool) -> str:
    most = max(*values, 1)
    steps = NUMBERS if ascii_only else HEIGHTS
    return "".join(steps[-(-value * (len(steps) - 1) // most)] if value else " " for value in values)


def _waits(story: Story) -> RenderableType:
    table = Table(box=box.ROUNDED)
    table.add_column("a short call waited at most")
    for name, style in COLOURS.items():
        table.add_column(f"for {name}", justify="right", style=style)
    for phase, waits in story.waits.items():
        table.add_row(phase, *(_milliseconds(waits.get(name)) for name in COLOURS))
    return Padding(table, (0, 0, 1, 1), expand=False)


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:,.1f} ms"


def _decisions(story: Story) -> RenderableType:
    """List the last decisions; consecutive ones of a kind share a line."""
    lines = Table.grid(padding=(0, 2, 0, 0))
    groups = [
        list(group) for _, group in itertools.groupby(story.log, lambda one: (one[1].change, one[1].reason))
    ]
    for group in groups[-LAST:]:
        (first, entry), (last, final) = group[0], group[-1]
        when = f"{first:.2f} s" if len(group) == 1 else f"{first:.2f}-{last:.2f} s"
        word = {1: "started", -1: "ended", 0: "not started"}[entry.change]
        now = f"{final.active} now"
        lines.add_row(when, f"{len(group)} {word}: {MEANING.get(entry.reason, entry.reason)}", now)
    title = Text(" Decisions about IO threads", style="bold")
    return Group(title, Padding(lines, (0, 0, 1, 1), expand=False))
