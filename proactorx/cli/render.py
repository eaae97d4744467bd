"""Draws what the commands show, with rich: tables and bars. Only this module and ``picture`` import rich."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from proactorx.cli import report as texts
from proactorx.cli.comparison import Result

COLOURS = {"proactorx": "green", "asyncio": "blue"}
EIGHTHS = " ▏▎▍▌▋▊▉"
BAR_WIDTH = 40


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Callable[[str], None]]:
    """Yield a function that advances a progress bar, which disappears at the end;
    without a terminal it does nothing.

    The bar is drawn only between rounds, so that drawing does not affect the measurement.
    """
    console = Console()
    bar = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_terminal,
    )
    task = bar.add_task("", total=steps)
    done = -1

    def show(text: str) -> None:
        nonlocal done
        bar.update(task, description=text, completed=max(done, 0), refresh=True)
        done += 1

    with bar:
        yield show


def show_demo(result: Result) -> None:
    """Print the result of the demo as a table with bars."""
    console = Console(highlight=False)
    ascii_only = console.options.ascii_only

    def micros(value: float) -> str:
        digits = 1 if value < 1e-4 else 0
        return f"{value * 1e6:.{digits}f} {'us' if ascii_only else 'µs'}"

    console.print()
    console.print(Text(" proactorx demo: an echo server over loopback TCP", style="bold"))
    console.print()
    console.print(_facts(_demo_facts(result)))
    console.print()
    console.print(_figures(result, micros))
    for caption, figure, unit in (
        ("server CPU per request, shorter is better", "cpu", micros),
        ("requests per second, longer is better", "rate", _count),
    ):
        values = {loop: result.median(loop, figure) for loop in result.rounds}
        console.print()
        console.print(Text(f" {caption}", style="bold"))
        console.print(_bars(values, unit, ascii_only=ascii_only))
    console.print()
    for note in result.notes:
        console.print(_inset(Text(note, style="yellow")))


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _demo_facts(result: Result) -> list[tuple[str, str]]:
    ours = result.servers["proactorx"]
    rounds = _plural(len(result.rounds["proactorx"]), "round")
    return [
        ("driver", texts.named(ours)),
        ("why", ours["reason"]),
        ("beside", f"stock asyncio with its {result.servers['asyncio']['name']}"),
        (
            "load",
            (
                f"{_plural(result.connections, 'connection')}, each sending {_plural(result.size, 'byte')} "
                "at a time"
            ),
        ),
        ("rounds", f"{rounds} of {result.seconds:.1f} s for each server, in turn"),
        ("on", f"{platform.python_implementation()} {platform.python_version()}, {_system()}"),
    ]


def _system() -> str:
    return f"{platform.system()} {platform.release()}"


def _facts(facts: Sequence[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in facts:
        table.add_row(name, value)
    return _inset(table)


def _inset(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, 1), expand=False)


def _figures(result: Result, micros: Callable[[float], str]) -> RenderableType:
    def time(value: float) -> str:
        return f"{value * 1e3:.2f} ms" if value >= 1e-3 else micros(value)

    table = Table(box=box.ROUNDED)
    table.add_column("median of the rounds")
    table.add_column("proactorx", justify="right", style=COLOURS["proactorx"])
    table.add_column("asyncio", justify="right", style=COLOURS["asyncio"])
    table.add_column("proactorx is", justify="right")
    for caption, figure, unit in (
        ("requests per second", "rate", _count),
        ("latency p50", "p50", time),
        ("latency p90", "p90", time),
        ("latency p99", "p99", time),
        ("server CPU per request", "cpu", micros),
    ):
        ours, theirs = result.median("proactorx", figure), result.median("asyncio", figure)
        ratio = ours / theirs if figure == "rate" else theirs / ours
        judged = figure == "cpu" or result.loaded
        table.add_row(
            caption,
            unit(ours),
            unit(theirs),
            _ratio(ratio, judged=judged),
            end_section=figure in ("rate", "p99"),
        )
    table.add_section()
    for caption, figure in (("server busy", "server_busy"), ("client busy", "client_busy")):
        table.add_row(
            caption, *(f"{result.median(loop, figure):.0%}" for loop in result.rounds), "", style="dim"
        )
    return _inset(table)


def _ratio(value: float, *, judged: bool) -> Text:
    """Format a ratio, above 1 where this loop is better; coloured if the loops, not the clients,
    decide it.
    """
    times = f"{max(value, 1 / value):.2f}"
    if times == "1.00":
        return Text("equal")
    style = "bold green" if value >= 1.05 else "bold red" if value <= 0.95 else ""
    return Text(f"{times} x {'better' if value > 1 else 'worse'}", style=style if judged else "dim")


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _bars(values: dict[str, float], unit: Callable[[float], str], *, ascii_only: bool) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    for name, value in values.items():
        share = value / max(values.values())
        table.add_row(name, Text(bar(share, BAR_WIDTH, ascii_only), style=COLOURS[name]), unit(value))
    return _inset(table)


def bar(share: float, width: int, ascii_only: bool = False) -> str:
    """Return a bar of ``share`` of ``width`` cells, in eighths of a cell if the encoding has them."""
    if ascii_only:
        return "#" * max(1, round(share * width))
    whole, eighths = divmod(round(share * width * 8), 8)
    return ("█" * whole + EIGHTHS[eighths].strip()) or EIGHTHS[1]


def show_probe(report: dict[str, Any]) -> None:
    """Print the report on drivers as tables."""
    console = Console(highlight=False)
    console.print()
    console.print(_facts(texts.summary(report)))
    table = Table(box=box.ROUNDED)
    for caption in ("driver", "runs here", "tier"):
        table.add_column(caption, no_wrap=True)
    table.add_column("why not")
    for driver in report["drivers"]:
        if not driver["available"]:
            word = Text("no", style="bold red")
        elif driver["suitable"]:
            word = Text("yes", style="bold green")
        else:
            word = Text("by name", style="bold yellow")
        table.add_row(driver["name"], word, driver["tier"], driver["reason"])
    console.print()
    console.print(_inset(table))
    for driver in report["drivers"]:
        more = [(name, text) for name, text in texts.details(driver) if name != "tier"]
        if more:
            console.print()
            console.print(Text(f" {driver['name']}", style="bold"))
            console.print(_inset(_facts(more)))
    console.print()
