"""The tasks of a loop as data: where each one is, and which others it waits for. Any thread may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen

MOST_TASKS = 10_000
MOST_FRAMES = 50
LONGEST = 200  # characters


@dataclass(frozen=True)
class TaskInfo:
    """One task that is not done."""

    id: int
    name: str
    coroutine: str
    state: str
    """``running``, ``waiting`` or ``ready``."""
    stack: tuple[str, ...]
    """Where it is, from the outermost coroutine to the innermost: ``function file:line``."""
    waits_for: tuple[int, ...]
    """The tasks that it waits for: it awaits them, by themselves or in ``gather``, or leaves their group."""
    what: str
    """What it waits for where that is no task."""


def tasks_of(loop: Seen) -> list[TaskInfo]:
    """Look at all tasks of `loop`, in the order in which they were made as far as names tell."""
    everything: Any = loop
    found = sorted(asyncio.all_tasks(everything), key=lambda task: (len(task.get_name()), task.get_name()))
    running = asyncio.current_task(everything)
    groups: dict[int, list[int]] = {}
    for task in found:
        for parent in _parents(task):
            groups.setdefault(id(parent), []).append(id(task))
    return [_info(task, running, groups.get(id(task), [])) for task in found[:MOST_TASKS]]


def _info(task: asyncio.Task[Any], running: object, group: list[int]) -> TaskInfo:
    coroutine: Any = task.get_coro()
    waiter = getattr(task, "_fut_waiter", None)
    others = [id(each) for each in _tasks_behind(waiter)]
    others += [each for each in group if each not in others]
    return TaskInfo(
        id=id(task),
        name=task.get_name(),
        coroutine=getattr(coroutine, "__qualname__", None) or repr(coroutine)[:LONGEST],
        state="running" if task is running else "ready" if waiter is None else "waiting",
        stack=tuple(_stack(coroutine)),
        waits_for=tuple(others),
        what="" if others or waiter is None else _words(waiter),
    )


def _words(waiter: Any) -> str:
    try:
        return repr(waiter)[:LONGEST]
    except Exception:  # of the user's own class
        return f"<{type(waiter).__name__}>"


def _tasks_behind(waiter: Any) -> Iterator[asyncio.Task[Any]]:
    """The tasks that a future stands for."""
    if isinstance(waiter, asyncio.Task):
        yield waiter
    for child in getattr(waiter, "_children", ()):  # of gather()
        if isinstance(child, asyncio.Task) and not child.done():
            yield child


def _parents(task: asyncio.Task[Any]) -> Iterator[object]:
    """The tasks that have this one in a group of theirs, which they wait for at its end."""
    for callback, _ in getattr(task, "_callbacks", None) or ():
        group = getattr(callback, "__self__", None)
        if isinstance(group, asyncio.TaskGroup) and getattr(group, "_exiting", False):
            yield getattr(group, "_parent_task", None)


def _stack(coroutine: Any) -> Iterator[str]:
    for _ in range(MOST_FRAMES):
        frame = _first(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            return
        code = frame.f_code
        yield f"{code.co_qualname} {code.co_filename}:{frame.f_lineno}"
        coroutine = _first(coroutine, "cr_await", "gi_yieldfrom", "ag_await")


def _first(value: Any, *names: str) -> Any:
    for name in names:
        found = getattr(value, name, None)
        if found is not None:
            return found
    return None


def tree(tasks: list[TaskInfo]) -> Iterator[tuple[int, TaskInfo]]:
    """(depth, task): those that nobody waits for first, below each what it waits for; a circle once."""
    by_id = {task.id: task for task in tasks}
    waited = {other for task in tasks for other in task.waits_for}
    seen: set[int] = set()

    def below(task: TaskInfo, depth: int) -> Iterator[tuple[int, TaskInfo]]:
        stack = [(depth, task)]
        while stack:
            level, each = stack.pop()
            if each.id in seen:
                continue
            seen.add(each.id)
            yield level, each
            stack += [(level + 1, by_id[other]) for other in reversed(each.waits_for) if other in by_id]

    for task in tasks:
        if task.id not in waited:
            yield from below(task, 0)
    for task in tasks:  # a circle has no beginning
        yield from below(task, 0)
