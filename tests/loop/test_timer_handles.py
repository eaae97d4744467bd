"""Timers and what refers to them: handles that the loop uses again, their contexts, the garbage collector."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from .helpers import Factory, run_until, step

var: contextvars.ContextVar[object] = contextvars.ContextVar("var", default="unset")


class Owner:
    """In a cycle with its handle."""

    handle: asyncio.Handle

    def call(self, *args: Any) -> None:
        pass


def own(loop: asyncio.AbstractEventLoop, delay: float, *args: Any) -> Owner:
    owner = Owner()
    owner.handle = loop.call_later(delay, owner.call, *args)
    return owner


def test_a_dense_train_of_timers_is_in_order_and_never_early(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[float] = []
    early: list[float] = []

    def note(when: float) -> None:
        seen.append(when)
        if loop.time() < when:
            early.append(when)

    now = loop.time()
    deadlines = [now + n * 7919 % 3000 * 1e-5 for n in range(3000)]
    for when in deadlines:
        loop.call_at(when, note, when)
    run_until(loop, lambda: len(seen) == len(deadlines))
    assert seen == sorted(deadlines)
    assert not early


def test_a_kept_timer_is_never_used_for_another_call(loop: asyncio.AbstractEventLoop) -> None:
    called: list[int] = []
    kept = [loop.call_later(n * 1e-5, called.append, n) for n in range(100)]
    for n in range(100):
        loop.call_later(1e-3 + n * 1e-6, called.append, 1000 + n)
    kept[0].cancel()
    run_until(loop, lambda: len(called) == 199)
    times = [handle.when() for handle in kept]
    texts = [repr(handle) for handle in kept]
    later = [loop.call_later(0.001, called.append, 2000 + n) for n in range(300)]
    assert not {id(handle) for handle in later} & {id(handle) for handle in kept}
    for handle in kept:  # they have run: these are no other calls
        handle.cancel()
    run_until(loop, lambda: len(called) == 499)
    assert [handle.when() for handle in kept] == times
    assert texts[1] != repr(kept[1])  # it says that it is cancelled now
    assert called == [*range(1, 100), *range(1000, 1100), *range(2000, 2300)]


def test_cancelled_timers_are_used_again_without_that(loop: asyncio.AbstractEventLoop) -> None:
    called: list[int] = []
    for turn in range(3):
        for _ in range(500):
            loop.call_later(0.001, called.append, -1).cancel()
        handles = [loop.call_later(0.001, called.append, n) for n in range(500)]
        assert not any(handle.cancelled() for handle in handles)
        for handle in handles[::2]:
            handle.cancel()
        del handles, handle
        run_until(loop, lambda: len(called) == 250 * (turn + 1))  # noqa: B023
    assert called == list(range(1, 500, 2)) * 3


def test_a_timer_may_cancel_others_and_set_new_ones(loop: asyncio.AbstractEventLoop) -> None:
    called: list[str] = []
    handles: list[asyncio.TimerHandle] = []

    def call() -> None:
        called.append("first")
        while handles:
            handles.pop().cancel()
        for _ in range(300):
            loop.call_later(0.001, called.append, "new")

    when = loop.time() + 0.002
    loop.call_at(when, call)
    handles += [loop.call_at(when, called.append, "cancelled") for _ in range(300)]
    run_until(loop, lambda: len(called) == 301)
    step(loop, 3)
    assert called == ["first"] + ["new"] * 300


def test_each_of_many_timers_sets_what_no_other_sees(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []

    def note(number: int) -> None:
        seen.append(var.get())
        var.set(number)

    for number in range(30):
        loop.call_later(0, note, number)
    run_until(loop, lambda: len(seen) == 30)
    assert seen == ["unset"] * 30
    assert var.get() == "unset"


def test_a_timer_has_the_context_as_it_was_when_it_was_set(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []

    def schedule() -> None:
        for number in range(10):
            var.set(number // 2)
            loop.call_later(number * 1e-6, lambda: seen.append(var.get()))
        var.set("after")

    contextvars.copy_context().run(schedule)
    run_until(loop, lambda: len(seen) == 10)
    assert seen == [number // 2 for number in range(10)]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("cancel", [False, True])
def test_a_handle_in_a_cycle_is_collected(loop: asyncio.AbstractEventLoop, cancel: bool, debug: bool) -> None:
    async def main() -> list[weakref.ref[Owner]]:
        owners = [own(loop, 0.001, *range(n)) for n in range(3)]
        for schedule in (loop.call_soon, loop.call_soon_threadsafe):
            owners.append(Owner())
            owners[-1].handle = schedule(owners[-1].call)
        found = [weakref.ref(owner) for owner in owners]
        for owner in owners:
            if cancel:
                owner.handle.cancel()
        del owners, owner
        gc.collect()
        await asyncio.sleep(0.01)
        gc.collect()
        return [reference for reference in found if reference() is not None]

    loop.set_debug(debug)
    assert loop.run_until_complete(main()) == []


def test_a_timer_that_is_not_due_keeps_what_it_calls(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> weakref.ref[Owner]:
        reference = weakref.ref(own(loop, 3600))
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()
        return reference

    reference = loop.run_until_complete(main())
    gc.collect()
    assert reference() is not None


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_timers_that_a_run_has_left_go_with_the_loop(loop_factory: Factory) -> None:
    def leave(close: bool) -> list[weakref.ref[Any]]:
        loop = loop_factory()
        owners = [own(loop, 3600)]

        async def main() -> None:
            owners.append(own(loop, 3600))
            owners.append(own(loop, 3600))
            owners[-1].handle.cancel()

        loop.run_until_complete(main())
        owners.append(own(loop, 3600))
        for owner in owners:
            owner.loop = loop  # type: ignore[attr-defined]
        if close:
            loop.close()
        return [weakref.ref(loop), *map(weakref.ref, owners)]

    for close in (True, False):
        found = leave(close)
        gc.collect()
        assert [reference() for reference in found] == [None] * 5


@pytest.mark.parametrize("name", ["call_later", "call_at"])
def test_timers_take_their_arguments_by_position_and_by_name(
    loop: asyncio.AbstractEventLoop, name: str
) -> None:
    seen: list[object] = []
    call: Any = getattr(loop, name)
    first = "delay" if name == "call_later" else "when"
    context = contextvars.copy_context()
    context.run(var.set, "given")
    call(0.0, lambda *args: seen.append(args))
    call(0.0, lambda *args: seen.append(args), 1)
    call(0.0, lambda *args: seen.append(args), 1, 2, 3)
    call(0, lambda: seen.append(var.get()), context=context)
    call(0.0, lambda: seen.append(var.get()), **{"con" + "text": context})
    call(0.0, lambda: seen.append(var.get()), context=None)
    call(**{first: 0.0}, callback=lambda: seen.append("named"))
    run_until(loop, lambda: len(seen) == 7)
    assert sorted(seen, key=repr) == sorted(
        [(), (1,), (1, 2, 3), "given", "given", "unset", "named"], key=repr
    )
    assert list(inspect.signature(call).parameters) == [first, "callback", "args", "context"]
    wrong: list[Callable[[], object]] = [
        lambda: call(),
        lambda: call(0.0),
        lambda: call(0.0, print, other=1),
    ]
    for attempt in wrong:
        with pytest.raises(TypeError):
            attempt()
