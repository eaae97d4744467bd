"""What runs per call: the queue, the stack of idle threads, and how a result returns to its loop.

A mutex guards the pool. Code that holds it calls no Python and allocates nothing that the garbage collector
tracks. So no foreign code runs there, and with the GIL it is never contended. A thread is woken only if no
thread that was woken before has yet to look at the queue, since that one wakes the next itself.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from proactorx.pool.jobs cimport Jobs, what_of
from proactorx.sys.bell cimport free_bell, new_bell, ring_bell, sleep_on
from proactorx.sys.clock cimport px_now_ns

import os
import weakref

cdef extern from "Python.h":
    object PyObject_Call(object callback, object args, PyObject *kwargs)

CLOSED = "the pool is closed"
FORKED = "this pool belongs to the parent process; make a new one after fork()"

cdef int generation = 0

cdef enum:
    NOTHING
    GROW      # start the thread that is counted already
    WATCH     # start the gate's thread


def _after_fork():
    global generation
    generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ------------------------------------------------------------------------------------------- back to the loop

cdef ResultInbox inbox_of(loop):
    """The inbox of `loop`, which has it, so that it lives as long: in `_shared`, or as an attribute."""
    # Not getattr: a mock has every attribute that it is asked for.
    attributes = loop._shared if hasattr(type(loop), "_shared") else vars(loop)
    found = attributes.get("_proactorx_results")
    if found is None:
        # One, whichever thread comes first.
        found = attributes.setdefault("_proactorx_results", ResultInbox(loop))
    return <ResultInbox?>found


@cython.final
cdef class ResultInbox:
    """Calls that have ended and whose loop does not know yet.  Those that come together share one wake-up."""

    def __cinit__(self, *args):
        self.done = []

    def __init__(self, loop):
        self.loop = weakref.ref(loop)
        self.drain = self._drain

    cdef int add(self, Call call) except -1:
        cdef bint post
        with self.mutex:
            self.done.append(call)
            post = not self.posted
            self.posted = True
        if post:
            try:
                loop = self.loop()
                if loop is None:
                    self.give_up()  # it was forgotten: nothing waits for the result
                else:
                    loop.call_soon_threadsafe(self.drain)
            except RuntimeError:
                self.give_up()  # the loop is closed
            except BaseException:
                with self.mutex:
                    self.posted = False
                raise
        return 0

    def _drain(self):
        cdef list done, fresh = []
        cdef Call call
        cdef Py_ssize_t taken = 0
        with self.mutex:
            done = self.done
            self.done = fresh
            self.posted = False
        try:
            for call in done:
                taken += 1
                try:
                    call.finish()
                except Exception as exc:
                    self.loop().call_exception_handler({
                        "message": "the result of a call on an IO thread could not be delivered",
                        "exception": exc, "future": call.future,
                    })
        finally:
            # A KeyboardInterrupt ends the run of the loop, and must lose none of the others.
            for call in done[taken:]:
                self.add(call)

    cdef int give_up(self) except -1:
        cdef list done, fresh = []
        cdef Call call
        with self.mutex:
            done = self.done
            self.done = fresh
            self.posted = False
        for call in done:
            call.orphan()
        return 0

    def close(self):
        """The loop is closed: hand all results to ``on_orphan``."""
        self.give_up()
        self.drain = None

    def __del__(self):
        # A loop that was closed and forgotten with results under way.
        self.give_up()


@cython.final
@cython.freelist(256)
cdef class Call:
    """One packet of a pool: a function to call, and the future that waits for its result, or ``on_end``."""

    cdef int finish(self) except -1:
        cdef object on_end = self.on_end
        if on_end is not None:
            self.on_end = None
            on_end(self)
            return 0
        if self.future.done():
            return self.orphan()
        if self.cancelled:
            self.future.cancel("the pool was closed")
            return 0
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)
        return 0

    cdef int orphan(self) except -1:
        """The caller was cancelled: pass the result to `on_orphan`, on an IO thread if there still is one."""
        cdef object on_orphan = self.on_orphan
        if on_orphan is None or self.error is not None or self.cancelled:
            return 0
        self.on_orphan = None
        try:
            self.pool.queue(on_orphan, self.result)
        except RuntimeError:
            self.pool._run_callback(on_orphan, (self.result,))
        return 0


# --------------------------------------------------------------------------------------------------- the pool

@cython.final
cdef class IOThread:
    """A thread's place in its pool."""

    def __cinit__(self):
        self.bell = new_bell()

    def __dealloc__(self):
        free_bell(self.bell)


cdef class PoolCore:
    """The compiled half of ``IOThreadPool``: the rules of when a thread is woken, started and let go."""

    def __cinit__(self, *args, **kwargs):
        self.generation = generation
        self.minimum = self.maximum = 1
        self.idle_us = 1000000
        self.threads = []
        self._jobs = Jobs()

    def __dealloc__(self):
        cdef Call call
        while self.first != NULL:
            call = <Call>self.first
            self.first = call.next
            Py_DECREF(call)

    # --------------------------------------------------------------------------------------------- packets in

    def call(self, loop, fn, *args, on_orphan=None):
        """Run the blocking ``fn(*args)`` on an IO thread.

        Cancelling the future before the call has begun takes it out; later, the call runs to its end and its
        result is dropped.

        Args:
            loop: the asyncio loop that waits for the result; call this in its thread.
            fn: what to call.
            on_orphan: called with the result, on an IO thread, if the future was cancelled meanwhile: to
                close a descriptor, say.

        Returns:
            asyncio.Future: of `loop`; it gets what `fn` returns or raises.

        Raises:
            RuntimeError: the pool is closed, or belongs to the parent of this (forked) process, or it has no
                thread and the system refuses one.
        """
        cdef Call call = <Call>Call.__new__(Call)
        call.pool = self
        call.inbox = inbox_of(loop)
        call.future = loop.create_future()
        call.fn = fn
        call.args = args
        call.on_orphan = on_orphan
        self.put(call)
        return call.future

    cdef int start(self, object loop, object fn, tuple args, object on_end) except -1:
        """``call`` without a future: ``on_end(call)`` runs in the loop's thread, a turn before a waiter.

        It is not called after the loop was closed.
        """
        cdef Call call = <Call>Call.__new__(Call)
        call.pool = self
        call.inbox = inbox_of(loop)
        call.on_end = on_end
        call.fn = fn
        call.args = args
        return self.put(call)

    def queue(self, callback, *args):
        """Have an IO thread call ``callback(*args)``; from any thread.

        Its result is dropped; ``threading.excepthook`` reports what it raises.

        Raises:
            RuntimeError: as of ``call``.
        """
        if not callable(callback):
            raise TypeError(f"a callable object was expected, got {callback!r}")
        self._queue(callback, args)

    def _queue(self, callback, tuple args):
        cdef Call call = <Call>Call.__new__(Call)
        call.pool = self
        call.fn = callback
        call.args = args
        self.put(call)

    cdef int put(self, Call call) except -1:
        cdef IOThread woken = None
        cdef int step = NOTHING
        cdef bint refused
        if self.generation != generation:
            raise RuntimeError(FORKED)
        call.what = what_of(call.fn)
        call.job.what = <PyObject *>call.what
        call.job.since = px_now_ns()
        with self.mutex:
            refused = self.closing
            if not refused:
                Py_INCREF(call)
                if self.last == NULL:
                    self.first = <void *>call
                else:
                    (<Call>self.last).next = <void *>call
                self.last = <void *>call
                self.queued += 1
                woken = self.react(&step)
        if refused:
            raise RuntimeError(CLOSED)
        if woken is not None:
            ring_bell(woken.bell)
        elif step != NOTHING:
            self.go(step)
        return 0

    cdef IOThread react(self, int *step):
        """Under the mutex, with packets queued: return the thread to wake, or set a step for ``go``."""
        step[0] = NOTHING
        if self.queued <= <uint64_t>self.expected:
            return None
        if self.top is not None:
            return None if self.expected else self.pop_idle()
        if self.active >= self.maximum:
            return None
        if self.active - self.blocked < self.minimum:
            step[0] = GROW
            self.active += 1
            self.expected += 1
        elif not self.gate:
            step[0] = WATCH
            self.gate = True
        return None

    cdef int go(self, int step) except -1:
        if step == GROW:
            self._start("blocking" if self.active > self.minimum else "minimum")
        elif step == WATCH:
            self._start_gate()
        return 0

    cdef Call pop(self):
        cdef Call call = <Call>self.first
        self.first = call.next
        if self.first == NULL:
            self.last = NULL
        call.next = NULL
        self.queued -= 1
        Py_DECREF(call)  # the queue's; `call` holds one
        return call

    # ------------------------------------------------------------------------------------------- idle threads

    cdef IOThread pop_idle(self):
        """The thread to wake; the caller rings its bell."""
        cdef IOThread thread = self.top
        self.remove_idle(thread)
        thread.expected = True
        self.expected += 1
        return thread

    cdef int push_idle(self, IOThread thread) except -1:
        thread.below = self.top
        if self.top is not None:
            self.top.above = thread
        self.top = thread
        thread.idle = True
        return 0

    cdef int remove_idle(self, IOThread thread) except -1:
        if thread.above is None:
            self.top = thread.below
        else:
            thread.above.below = thread.below
        if thread.below is not None:
            thread.below.above = thread.above
        thread.above = thread.below = None
        thread.idle = False
        return 0

    # -------------------------------------------------------------------------------------------- the threads

    cdef Call take(self, IOThread thread):
        """The next packet for this thread, which may wait for it; None: the thread is to end."""
        cdef Call call = None
        cdef IOThread woken
        cdef int step
        while True:
            with self.mutex:
                if thread.expected:
                    thread.expected = False
                    self.expected -= 1
                self.ended(thread)
                if not thread.member:
                    return None
                if self.active > self.maximum:
                    self.retire(thread, "limit lowered")
                elif self.first != NULL:
                    call = self.pop()
                    self.taken += 1
                    self.working += 1
                    thread.taken += 1
                    thread.working = True
                elif self.closing:
                    self.retire(thread, "closed")
                else:
                    self.push_idle(thread)
                woken = self.react(&step)
            if woken is not None:
                ring_bell(woken.bell)
            elif step != NOTHING:
                self.go(step)
            if call is not None:
                return call
            if not thread.member or not self.wait(thread):
                return None

    cdef int ended(self, IOThread thread) except -1:
        """Under the mutex: what the thread had taken has been run."""
        if thread.working:
            thread.working = False
            self.working -= 1
            self.completed += 1
        return 0

    cdef bint wait(self, IOThread thread) except -1:
        """Wait for packets; False: there were none for so long that the thread is to end."""
        cdef int64_t timeout = self.idle_us
        cdef bint rung
        while True:
            with nogil:
                rung = sleep_on(thread.bell, timeout)
            if rung:
                return True
            timeout = -1  # woken just now, or the last one, which stays
            with self.mutex:
                if thread.idle and (self.active > 1 or self.closing):
                    self.remove_idle(thread)
                    self.retire(thread, "idle")
                    return False

    cdef int retire(self, IOThread thread, str why) except -1:
        thread.member = False
        thread.why = why
        self.threads.remove(thread)
        self.active -= 1
        self.retired += 1
        return 0

    def _serve(self, IOThread thread not None):
        """The body of a thread."""
        cdef Call call
        while True:
            call = self.take(thread)
            if call is None:
                return
            try:
                self.perform(thread, call)
            except BaseException as exc:  # memory has run out, on the way of the result back
                self._report(exc)
            call = None

    cdef int perform(self, IOThread thread, Call call) except -1:
        if call.inbox is not None and call.future is not None and call.future.cancelled():
            return 0
        self._jobs.begin(&call.job, thread.name)
        if call.inbox is None:
            self._run_callback(call.fn, call.args)
            return self._jobs.end(&call.job)
        try:
            call.result = PyObject_Call(call.fn, call.args, NULL)
        except StopIteration as exc:
            # A future refuses it, since a coroutine that raised it would seem to have returned.
            call.error = RuntimeError("StopIteration was raised by a call on an IO thread")
            call.error.__cause__ = exc
        except BaseException as exc:
            call.error = exc
        self._jobs.end(&call.job)
        with self.mutex:
            self.ended(thread)
            # This thread looks at the queue next, so that a caller that calls again needs no other thread.
            thread.expected = True
            self.expected += 1
        return call.inbox.add(call)

    def _run_callback(self, callback, tuple args):
        try:
            PyObject_Call(callback, args, NULL)
        except BaseException as exc:
            self._report(exc)

    # ---------------------------------------------------------------------------------- growing and shrinking

    def _enter(self, IOThread thread not None):
        """Count the thread for which `active` was raised."""
        with self.mutex:
            self.threads.append(thread)
            thread.member = thread.expected = True

    def _refused(self, IOThread thread not None, error):
        """The system refused the thread that ``_enter`` has counted."""
        cdef bint alone
        with self.mutex:
            if thread.member:
                self.retire(thread, "refused")
                self.retired -= 1
            if thread.expected:
                thread.expected = False
                self.expected -= 1
            alone = self.active == 0
        if alone:
            self.fail_queued(error)

    cdef int fail_queued(self, object error) except -1:
        """No thread can be started: fail what is queued."""
        cdef list calls = []
        cdef Call call
        while True:
            with self.mutex:
                call = self.pop() if self.first != NULL else None
            if call is None:
                return 0
            call.error = error
            if call.inbox is not None:
                call.inbox.add(call)
            else:
                self._report(error)

    def _sample_threads(self):
        """Called by the gate: why to start a thread, None, or ``"end"`` if nothing was queued for a while."""
        cdef IOThread thread
        cdef int stuck = 0, none_taken
        with self.mutex:
            none_taken = self.taken == self.seen
            self.seen = self.taken
            for thread in self.threads:
                if thread.blocking or (thread.working and thread.taken == thread.seen):
                    stuck += 1
                thread.seen = thread.taken
            if self.first == NULL or self.active >= self.maximum:
                if self.quiet or self.closing:
                    self.quiet = self.gate = False
                    return "end"
                self.quiet = True
                return None
            self.quiet = False
            if self.top is not None or self.expected:
                return None
            if not none_taken and self.active - stuck >= self.minimum:
                return None
            self.active += 1
            self.expected += 1
        return "starvation" if none_taken else "compensation"

    def _gate_ended(self):
        with self.mutex:
            self.gate = False

    def _reconsider(self):
        """The limits, or the number of blocked threads, have changed: start and wake threads accordingly."""
        cdef IOThread woken
        cdef list surplus = []
        cdef int step = GROW
        while step == GROW:
            with self.mutex:
                while self.top is not None and self.active - self.maximum > len(surplus):
                    surplus.append(self.pop_idle())
                woken = self.react(&step)
            while surplus:
                ring_bell((<IOThread>surplus.pop()).bell)
            if woken is not None:
                ring_bell(woken.bell)
            self.go(step)

    def _block(self, IOThread thread not None, int step):
        """Enter (1) or leave (-1) ``blocking()`` on this thread."""
        with self.mutex:
            if thread.blocking == 0:
                self.blocked += 1
            thread.blocking += step
            if thread.blocking == 0:
                self.blocked -= 1

    def _limits(self, int minimum=0, int maximum=0):
        """Set the limits that are not 0; both, as they are then."""
        cdef bint wrong
        with self.mutex:
            minimum = minimum or self.minimum
            maximum = maximum or self.maximum
            wrong = minimum < 1 or maximum < minimum
            if not wrong:
                self.minimum = minimum
                self.maximum = maximum
        if wrong:
            raise ValueError(f"not 1 <= min_threads <= max_threads: {minimum} and {maximum}")
        return minimum, maximum

    def _close(self, bint cancel_queued):
        """Take nothing more; wake every thread, so that it ends when nothing is left to do."""
        cdef list idle = []
        cdef list dropped = []
        cdef IOThread thread
        cdef Call call
        with self.mutex:
            self.closing = True
            while self.top is not None:
                idle.append(self.pop_idle())
            while cancel_queued and self.first != NULL:
                dropped.append(self.pop())
        for thread in idle:
            ring_bell(thread.bell)
        for call in dropped:
            if call.inbox is not None:
                call.cancelled = True
                call.inbox.add(call)

    def _set_idle(self, int64_t microseconds):
        self.idle_us = microseconds

    def _forked(self):
        return self.generation != generation

    def _counts(self):
        """The numbers of ``stats()``."""
        cdef int64_t since, now = px_now_ns()
        cdef uint64_t active, working, retired, queued, completed
        with self.mutex:
            active, working, retired = self.active, self.working, self.retired
            queued, completed = self.queued, self.completed
            since = (<Call>self.first).job.since if self.first != NULL else now
        return active, working, retired, queued, completed, max(0, now - since) * 1e-9
