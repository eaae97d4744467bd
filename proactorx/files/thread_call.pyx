"""Blocking calls on IO threads, whose callers may be cancelled meanwhile."""

from proactorx.files.access cimport Access
from proactorx.pool.core cimport Call

import asyncio
import functools


cdef class ThreadCall:
    """A blocking call on an IO thread.  Its end is noticed also after its caller was cancelled."""

    def _ended(self, Call call not None):
        self.ended = call
        if self.future.done():
            if self.then is not None:
                then, self.then = self.then, None
                then(self.succeeded())
        elif call.cancelled:
            self.future.cancel()
        elif call.error is not None:
            self.future.set_exception(call.error)
        else:
            self.future.set_result(call.result)

    cdef Call succeeded(self):
        """The call that has ended; None if it failed."""
        return None if self.ended.cancelled or self.ended.error is not None else self.ended

    cdef int abandon(self, then) except -1:
        """The caller was cancelled: have `then` called with the ``Call`` at its end, or None if it failed."""
        self.future.cancel()
        if self.ended is not None:
            # Soon, as if it had ended later: the caller has still to clean up.
            self.future.get_loop().call_soon(then, self.succeeded())
        else:
            self.then = then
        return 0


cdef ThreadCall start_call(Access access, fn, tuple args):
    cdef ThreadCall call = <ThreadCall>ThreadCall.__new__(ThreadCall)
    call.future = access.loop.create_future()
    access.call(fn, args, call._ended)
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


def _orphaned(orphan, Call call):
    if orphan is not None and call is not None:
        orphan(call.result)


def read_at(stack, name, args):
    """Read on an IO thread: return the position where the read began, and its result."""
    try:
        before = stack.tell() if stack.seekable() else None
    except (OSError, AttributeError):
        before = None  # telling is off while a text file is iterated, or it has no position
    return before, getattr(stack, name)(*args)
