"""Blocking calls on IO threads, whose callers may be cancelled meanwhile."""

from proactorx.files.access cimport Access

import asyncio
import functools


cdef class ThreadCall:
    """A blocking call on an IO thread.  Its end is noticed also after its caller was cancelled."""

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
        """The caller was cancelled: have `then` called with the inner future, or None if the call failed."""
        self.future.cancel()
        if self.inner.done():
            # Soon, as if it had ended later: the caller has still to clean up.
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
    """Run the blocking ``fn(*args)`` on an IO thread, and return its result.

    Args:
        access: of the loop that waits.
        fn: what to call.
        orphan: called with the result if the caller was cancelled meanwhile: to close a descriptor, say.
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
    """Read on an IO thread: return the position where the read began, and its result."""
    try:
        before = stack.tell() if stack.seekable() else None
    except (OSError, AttributeError):
        before = None  # telling is off while a text file is iterated, or it has no position
    return before, getattr(stack, name)(*args)
