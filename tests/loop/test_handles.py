"""What a program can do with the handles that the loop gives it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from .helpers import step

var: contextvars.ContextVar[int] = contextvars.ContextVar("var")


def some_callback(*args: Any) -> None:
    pass


def other_callback(*args: Any) -> None:
    pass


MAKERS: dict[str, Callable[..., asyncio.Handle]] = {
    "call_soon": lambda loop, *args, **kw: loop.call_soon(*args, **kw),
    "call_soon_threadsafe": lambda loop, *args, **kw: loop.call_soon_threadsafe(*args, **kw),
    "call_later": lambda loop, *args, **kw: loop.call_later(10, *args, **kw),
    "call_at": lambda loop, *args, **kw: loop.call_at(loop.time() + 10, *args, **kw),
}


@pytest.fixture(params=list(MAKERS))
def maker(request: pytest.FixtureRequest) -> Callable[..., asyncio.Handle]:
    return MAKERS[request.param]


def test_handles_are_asyncios(loop: asyncio.AbstractEventLoop) -> None:
    assert isinstance(loop.call_soon(some_callback), asyncio.Handle)
    assert isinstance(loop.call_soon_threadsafe(some_callback), asyncio.Handle)
    assert not isinstance(loop.call_soon(some_callback), asyncio.TimerHandle)
    assert isinstance(loop.call_later(1, some_callback), asyncio.TimerHandle)
    assert isinstance(loop.call_at(loop.time(), some_callback), asyncio.TimerHandle)


def test_cancelled_tells_whether_it_was(
    loop: asyncio.AbstractEventLoop, maker: Callable[..., asyncio.Handle]
) -> None:
    handle = maker(loop, some_callback)
    assert handle.cancelled() is False
    assert handle.cancel() is None  # type: ignore[func-returns-value]
    assert handle.cancelled() is True


def test_a_handle_that_ran_is_not_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    handles = [loop.call_soon(some_callback), loop.call_later(0, some_callback)]
    step(loop)
    assert not any(handle.cancelled() for handle in handles)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="get_context is new in 3.12")
def test_get_context(loop: asyncio.AbstractEventLoop, maker: Callable[..., asyncio.Handle]) -> None:
    context = contextvars.copy_context()
    assert maker(loop, some_callback, context=context).get_context() is context

    var.set(1)
    handle = maker(loop, some_callback)
    var.set(2)
    assert handle.get_context()[var] == 1


def test_handles_can_be_watched_by_weak_references(
    loop: asyncio.AbstractEventLoop, maker: Callable[..., asyncio.Handle]
) -> None:
    handle = maker(loop, some_callback)
    watched = weakref.ref(handle)
    assert watched() is handle
    handle.cancel()
    del handle
    loop.close()
    gc.collect()
    assert watched() is None


def test_a_handle_is_kept_by_the_loop_until_it_runs(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    soon = weakref.ref(loop.call_soon(seen.append, "soon"))
    later = weakref.ref(loop.call_later(0, seen.append, "later"))
    gc.collect()
    assert soon() is not None
    assert later() is not None
    step(loop)
    gc.collect()
    assert seen == ["soon", "later"]
    assert soon() is None
    assert later() is None


def test_plain_handles_compare_by_identity(loop: asyncio.AbstractEventLoop) -> None:
    one, two = loop.call_soon(some_callback), loop.call_soon(some_callback)
    assert one == one
    assert one != two
    assert len({one, two}) == 2
    with pytest.raises(TypeError):
        one < two  # type: ignore[operator]  # noqa: B015


def test_timer_handles_are_ordered_by_their_deadlines(loop: asyncio.AbstractEventLoop) -> None:
    now = loop.time() + 10
    early, late = loop.call_at(now, some_callback), loop.call_at(now + 1, some_callback)
    assert early < late
    assert early <= late
    assert late > early
    assert late >= early
    assert not late < early
    assert not early > late
    assert early != late
    assert sorted([late, early]) == [early, late]
    assert hash(early) == hash(early.when())


def test_timer_handles_are_equal_when_all_of_them_is(loop: asyncio.AbstractEventLoop) -> None:
    when = loop.time() + 10
    first, second = loop.call_at(when, some_callback, 1), loop.call_at(when, some_callback, 1)
    assert first == second
    assert first <= second
    assert first >= second
    assert not first < second
    assert not first > second
    assert hash(first) == hash(second)
    assert first != loop.call_at(when, some_callback, 2)
    assert first != loop.call_at(when, other_callback, 1)
    assert first != loop.call_at(when + 1, some_callback, 1)
    second.cancel()
    assert first != second


def test_timer_handles_cannot_be_compared_with_other_things(loop: asyncio.AbstractEventLoop) -> None:
    timer = loop.call_later(1, some_callback)
    soon = loop.call_soon(some_callback)
    for other in (soon, 5, None, "timer"):
        assert timer != other
        assert (timer == other) is False
        with pytest.raises(TypeError):
            timer < other  # type: ignore[operator]  # noqa: B015
        with pytest.raises(TypeError):
            timer >= other  # type: ignore[operator]  # noqa: B015


def test_repr_says_what_will_be_called(
    loop: asyncio.AbstractEventLoop, maker: Callable[..., asyncio.Handle]
) -> None:
    handle = maker(loop, some_callback, "argument")
    text = repr(handle)
    assert text.startswith("<")
    assert "Handle" in text
    assert "some_callback" in text
    assert "test_handles.py" in text
    assert "cancelled" not in text
    if isinstance(handle, asyncio.TimerHandle):
        assert f"when={handle.when()}" in text
    handle.cancel()
    assert "cancelled" in repr(handle)


def test_repr_in_debug_mode_says_who_asked_for_it(
    loop: asyncio.AbstractEventLoop, maker: Callable[..., asyncio.Handle]
) -> None:
    loop.set_debug(True)
    handle = maker(loop, some_callback, "argument")
    assert "created at" in repr(handle)
    assert "'argument'" in repr(handle)
    assert repr(handle).count("test_handles.py") >= 2 or "helpers.py" in repr(handle)
    handle.cancel()
    assert "cancelled" in repr(handle)
    assert "some_callback" in repr(handle), "the cancelled handle still says what it was"


def test_repr_of_a_running_and_of_a_finished_handle(loop: asyncio.AbstractEventLoop) -> None:
    texts: list[str] = []
    handles = [loop.call_soon(lambda: texts.append(repr(handles[0])))]
    step(loop)
    texts.append(repr(handles[0]))
    assert all("lambda" in text for text in texts)


def test_handles_live_longer_than_their_loop(loop: asyncio.AbstractEventLoop) -> None:
    handles = [loop.call_soon(some_callback), loop.call_later(5, some_callback)]
    loop.close()
    for handle in handles:
        assert "Handle" in repr(handle)
        handle.cancel()
        assert handle.cancelled()


def test_handles_made_by_users_can_be_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    """Programs make handles of their own, with a loop as the third argument."""
    handle = asyncio.Handle(some_callback, (), loop)
    timer = asyncio.TimerHandle(loop.time(), some_callback, (), loop)
    assert "some_callback" in repr(handle)
    assert "some_callback" in repr(timer)
    handle.cancel()
    timer.cancel()
    assert handle.cancelled()
    assert timer.cancelled()


def test_a_kept_handle_is_never_used_for_another_call(loop: asyncio.AbstractEventLoop) -> None:
    called: list[int] = []
    kept = {n: loop.call_soon(called.append, n) for n in range(300) if n % 3 == 0}
    for n in range(100):
        loop.call_soon(called.append, 1000 + n)
    kept[0].cancel()
    step(loop)
    texts = {n: repr(handle) for n, handle in kept.items()}
    for n in range(500):
        loop.call_soon(called.append, 2000 + n)
    step(loop)
    assert {n: repr(handle) for n, handle in kept.items()} == texts
    assert [n for n, handle in kept.items() if handle.cancelled()] == [0]
    kept[3].cancel()  # it has run: this is no other call's
    for n in range(500):
        loop.call_soon(called.append, 3000 + n)
    step(loop)
    assert called == [
        *range(3, 300, 3), *range(1000, 1100), *range(2000, 2500), *range(3000, 3500)
    ]  # fmt: skip


def test_a_weak_reference_ends_with_the_call(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    references = [weakref.ref(loop.call_soon(seen.append, n)) for n in range(5)]
    assert all(reference() is not None for reference in references)
    step(loop)
    loop.call_soon(seen.append, 5)
    assert [reference() for reference in references] == [None] * 5
    step(loop)
    assert seen == list(range(6))


def test_what_a_call_refers_to_is_freed_when_it_has_run(loop: asyncio.AbstractEventLoop) -> None:
    """Also where its finalizer schedules the next call."""
    called: list[str] = []

    class Finalized:
        def __del__(self) -> None:
            loop.call_soon(called.append, "next")

    loop.call_soon(some_callback, Finalized())
    loop.call_soon(called.append, "first")
    step(loop)
    step(loop)
    assert called == ["first", "next"]


def test_a_cancelled_handle_is_used_again_without_that(loop: asyncio.AbstractEventLoop) -> None:
    called: list[int] = []
    for _ in range(20):
        loop.call_soon(called.append, -1).cancel()
    step(loop)
    for n in range(20):
        loop.call_soon(called.append, n)
    step(loop)
    assert called == list(range(20))
