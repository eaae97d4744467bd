"""Blocking calls on IO threads, for who may be cancelled meanwhile."""

from proactorx.files.access cimport Access

import asyncio
import functools


cdef class ThreadCall:
    """A blocking call on an IO thread, whose end is noticed also when nobody waits for it."""

    def _ended(self, inner):
        if self.future.done():
            error = None if inner.cancelled() else inner.exception()
            if self.then is not None:
                then, self.then = self.then, None
                then(inner if error is None else None)
        elif inner.cancelled():
            self.future.cancel()
        elif inner.exception() is not None:
            self.future.set_exception(inner.exception())
        else:
            self.future.set_result(inner.result())

    cdef int abandon(self, then) except -1:
        """Who waited has been cancelled: have `then` called with the inner future, or None where that failed."""
        self.future.cancel()
        if self.inner.done():
            # (Soon, as if it had ended later: who leaves has still to clean up.)
            found = self.inner if not self.inner.cancelled() and self.inner.exception() is None else None
            self.inner.get_loop().call_soon(then, found)
        else:
            self.then = then
        return 0


cdef ThreadCall start_call(Access access, fn, tuple args):
    cdef ThreadCall call = <ThreadCall>ThreadCall.__new__(ThreadCall)
    call.future = access.loop.create_future()
    call.inner = access.call(fn, args)
    call.inner.add_done_callback(call._ended)
    return call


async def in_thread(Access access not None, fn, *args, orphan=None):
    """The result of the blocking ``fn(*args)``, run on an IO thread.

    Args:
        access: of the loop that waits.
        fn: what to call.
        orphan: called with the result when it is there and the caller was cancelled: to close a descriptor, say.
    """
    cdef ThreadCall call = start_call(access, fn, args)
    try:
        return await call.future
    except asyncio.CancelledError:
        call.abandon(functools.partial(_orphaned, orphan))
        raise


def _orphaned(orphan, inner):
    if orphan is not None and inner is not None and not inner.cancelled():
        orphan(inner.result())


def read_at(stack, name, args):
    """The body of a read that is not ours to split: its result, and where it began."""
    try:
        before = stack.tell() if stack.seekable() else None
    except (OSError, AttributeError):
        before = None  # telling is off while a text file is iterated, or it has no position
    return before, getattr(stack, name)(*args)
