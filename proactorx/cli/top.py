"""``top``, ``ps`` and ``pstree``: what the loops of another process do.

The process has to ask for it: ``PROACTORX_TOP=1``, ``loop.expose()`` or ``run --top``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from proactorx.cli.errors import NO_RICH, CliError
from proactorx.cli.keys import END, Keys
from proactorx.observe import expose, trace
from proactorx.observe.stats import Histogram
from proactorx.observe.tasks import TaskInfo, tree

PERIOD = 1.0  # seconds between two looks
BARS = " ▁▂▃▄▅▆▇█"
HISTORY = 30
FULL = 0.1  # seconds of lag that make a whole bar
MOST_OPS = 12
MOST_BUFFERS = 5
MOST_CALLS = 8

ORDERS = ("age", "kind", "fd", "peer", "task")
HELP = "q quit, s sort, space freeze, t tasks, a who awaits whom, w write a trace"

Answer = dict[str, Any]


def top(pid: int | None, *, once: bool, as_json: bool) -> int:
    """Show the loops of a process until somebody interrupts; without one: the processes."""
    if pid is None:
        return _list()
    if as_json:
        print(json.dumps(_ask(pid, "stats"), indent=2))
        return 0
    answer = _ask(pid, "stats")
    try:
        from rich.console import Console
        from rich.live import Live
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        raise CliError(NO_RICH) from None
    screen, console = Screen(0 if once else pid), Console()
    if once:
        console.print(screen.draw(answer))
        return 0
    with Keys() as keys, Live(screen.draw(answer), console=console, screen=True, auto_refresh=False) as live:
        while True:
            key = keys.wait(PERIOD)
            if key in ("q", END):
                return 0
            if not screen.press(key):
                answer = _ask(pid, "stats")
            live.update(screen.draw(answer), refresh=True)


def record(pid: int | None, path: str) -> int:
    """Write the trace of a process to a file here."""
    if pid is None:
        raise CliError("--record needs the PID of a process")
    print(_record(pid, path))
    return 0


def _record(pid: int, path: str) -> str:
    traces = _ask(pid, "trace")["traces"]
    if not traces:
        raise CliError(f"no loop runs in process {pid}")
    try:
        trace.save(trace.joined(traces), path)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from None
    return f"{path}: {sum(len(each['traceEvents']) for each in traces)} events"


def ps(pid: int, *, as_json: bool) -> int:
    """List the tasks of a process, and where each one is."""
    answer = _ask(pid, "tasks")
    if as_json:
        print(json.dumps(answer, indent=2))
        return 0
    print("\n".join(_tasks(answer)))
    return 0


def _tasks(answer: Answer) -> Iterator[str]:
    for loop in answer["loops"]:
        names = {task["id"]: task["name"] for task in loop["tasks"]}
        yield f"loop {loop['number']}: {len(loop['tasks'])} tasks"
        for task in loop["tasks"]:
            waits = ", ".join(names.get(other, "?") for other in task["waits_for"]) or task["what"]
            yield f"  {task['name']}  {task['state']}  {task['coroutine']}" + f"  waits for {waits}" * bool(
                waits
            )
            for line in task["stack"]:
                yield f"      {line}"


def _tree(answer: Answer) -> Iterator[str]:
    for loop in answer["loops"]:
        tasks = [
            TaskInfo(**task | {"stack": tuple(task["stack"]), "waits_for": tuple(task["waits_for"])})
            for task in loop["tasks"]
        ]
        yield f"loop {loop['number']}: {len(tasks)} tasks"
        for depth, task in tree(tasks):
            place = task.stack[-1] if task.stack else task.coroutine
            yield f"  {'    ' * depth}{'`-- ' * bool(depth)}{task.name}: {place}"


def pstree(pid: int) -> int:
    """Draw who waits for whom."""
    print("\n".join(_tree(_ask(pid, "tasks"))))
    return 0


def _list() -> int:
    try:
        found = expose.processes()
    except RuntimeError as error:
        raise CliError(str(error)) from None
    for pid in found:
        answer = _ask(pid, "stats")
        print(f"{pid}  {len(answer['loops'])} loops  {' '.join(answer['argv'])}")
    if not found:
        print("No process of yours answers. Start one with PROACTORX_TOP=1, or run --top.")
    return 0


def _ask(pid: int, question: str) -> Answer:
    try:
        return expose.ask(pid, question)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError):
            raise CliError(
                f"process {pid} does not answer ({error.strerror or error}): it has ended, or was not "
                "started with PROACTORX_TOP=1 or run --top"
            ) from None
        raise CliError(str(error)) from None


class Screen:
    """What was seen before, for rates and the sparkline, and what the keys have chosen."""

    def __init__(self, pid: int = 0) -> None:
        self._pid = pid
        self._before: dict[int, Answer] = {}
        self._lag: dict[int, deque[float]] = {}
        self._order = 0
        self._frozen = False
        self._lines: Callable[[Answer], Iterator[str]] | None = None
        self._said = ""

    def press(self, key: str) -> bool:
        """Do what a key asks for; whether the picture stays the one of the last look."""
        self._said = ""
        if key == " ":
            self._frozen = not self._frozen
        elif key == "s":
            self._order = (self._order + 1) % len(ORDERS)
        elif key in LINES:
            self._lines = None if self._lines is LINES[key] else LINES[key]
        elif key == "w":
            try:
                self._said = _record(self._pid, f"trace-{self._pid}.html")
            except CliError as error:
                self._said = str(error)
        return self._frozen or key == "s"

    def draw(self, answer: Answer) -> Any:
        """One picture, as something that rich prints."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        words = f"{'frozen, ' * self._frozen}sorted by {ORDERS[self._order]}; {self._said or HELP}"
        head = Text(words, no_wrap=True, overflow="ellipsis")
        if self._lines is not None:
            return Group(head, Text("\n".join(self._lines(_ask(self._pid, "tasks")))))
        loops = Table(title=f"process {answer['pid']}: {' '.join(answer['argv'])}", title_justify="left")
        for column in ("loop", "thread", "backend", "turns/s", "idle", "turn p99", "lag p99", "now", "lag"):
            loops.add_column(column, justify="right")
        parts: list[Any] = [loops]
        for loop in answer["loops"]:
            loops.add_row(*self._row(loop))
            parts.append(_ops(loop, Table, ORDERS[self._order]))
            if loop["calls"]:
                parts.append(_calls(loop, Table))
            if loop["buffers"]:
                parts.append(_buffers(loop, Table))
            parts.append(_rest(loop))
        self._before = {loop["number"]: loop for loop in answer["loops"]}
        return Group(head, *parts) if self._pid else Group(*parts)

    def _row(self, loop: Answer) -> list[str]:
        before = self._before.get(loop["number"])
        turns, idle, running = loop["turns"], loop["idle"], loop["running"]
        length, lag = _histogram(loop["turn_length"]), _histogram(loop["lag"])
        seconds = running
        if before is not None:
            turns, idle, running = turns - before["turns"], idle - before["idle"], running - before["running"]
            seconds = loop["time"] - before["time"]
            length = length.since(_histogram(before["turn_length"]))
            lag = lag.since(_histogram(before["lag"]))
        history = self._lag.setdefault(loop["number"], deque(maxlen=HISTORY))
        history.append(lag.quantile(1))
        return [
            str(loop["number"]),
            loop["thread_name"] or "-",
            loop["backend"],
            f"{turns / seconds:.0f}" if seconds > 0 else "-",
            f"{100 * max(0.0, min(1.0, idle / running)):.0f}%" if running > 0 else "-",
            _time(length.quantile(0.99)),
            _time(lag.quantile(0.99)),
            f"turns for {_time(loop['current_turn'])}" if loop["current_turn"] else "sleeps",
            spark(history),
        ]


LINES = {"t": _tasks, "a": _tree}


def spark(values: deque[float]) -> str:
    """Draw the lag of each look as a bar, on a scale of `FULL`."""
    return "".join(BARS[min(len(BARS) - 1, round(value / FULL * (len(BARS) - 1)))] for value in values)


def _histogram(value: Answer) -> Histogram:
    return Histogram(tuple(value["counts"]), value["total"], value["longest"])


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def _ops(loop: Answer, make_table: Any, order: str = ORDERS[0]) -> Any:
    table = make_table(title=f"loop {loop['number']}: oldest operations in flight", title_justify="left")
    ops = loop["in_flight"]
    if order != ORDERS[0]:
        ops = sorted(ops, key=lambda op: op[order] or (0 if order == "fd" else "~"))
    for column in ("kind", "in flight", "fd", "age"):
        table.add_column(column, justify="right")
    table.add_column("peer")
    table.add_column("task that waits")
    for op in ops[:MOST_OPS]:
        age = "-" if op["age"] is None else _time(op["age"])
        table.add_row(
            op["kind"],
            str(loop["ops"][op["kind"]]["count"] if op["kind"] in loop["ops"] else 1),
            str(op["fd"]),
            age,
            op["peer"],
            op["task"],
        )
    return table


def _calls(loop: Answer, make_table: Any) -> Any:
    table = make_table(title=f"loop {loop['number']}: what took the most time", title_justify="left")
    for column in ("total", "calls", "longest", "callback"):
        table.add_column(column, justify="left" if column == "callback" else "right")
    for each in loop["calls"][:MOST_CALLS]:
        table.add_row(_time(each["total"]), str(each["count"]), _time(each["longest"]), each["name"])
    return table


def _buffers(loop: Answer, make_table: Any) -> Any:
    table = make_table(title=f"loop {loop['number']}: clients that do not read", title_justify="left")
    for column in ("bytes buffered", "fd", "peer"):
        table.add_column(column, justify="left" if column == "peer" else "right")
    for each in loop["buffers"][:MOST_BUFFERS]:
        table.add_row(f"{each['size']:,}", str(each["fd"]), each["peer"])
    return table


def _rest(loop: Answer) -> str:
    lines = [f"ready {loop['ready']}, timers {loop['timers']} ({loop['cancelled_timers']} cancelled)"]
    for kind, each in loop["transports"].items():
        lines.append(
            f"{kind}: {each['open']} open, {each['buffered']} bytes buffered, "
            f"{each['paused_reading']} paused, {each['paused_writing']} cannot write"
        )
    for listener in loop["listeners"]:
        if listener["waiting"] is not None:
            lines.append(f"listener fd {listener['fd']}: {listener['waiting']} of {listener['limit']} wait")
    for name, each in (("IO threads", loop["io_threads"]), ("workers", loop["workers"])):
        lines.append(f"{name}: {each['threads']}, {each['active']} active, {each['queued']} calls queued")
    return "\n".join(lines)
