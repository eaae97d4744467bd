"""What can be seen of a loop's thread without the GIL: for when the watchdog cannot have it.

One thread asks for the GIL now and then, and does nothing with it; another one, without any Python, looks
when that takes long.  Where a loop does not turn meanwhile, it writes the stack of its thread, by the
interpreter's function behind ``faulthandler``, which needs no GIL, or by ours where that is hidden, and adds
what the kernel says of that thread.  As with ``faulthandler`` nobody has stopped it; but it waits for
the GIL too, or is in the code that keeps it.
"""

from libc.stdint cimport int64_t, uint64_t
from proactorx.sys.bell cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_release_lock, PyThread_type_lock, new_bell,
    ring_bell, sleep_on,
)
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.frames cimport PX_FRAMES, px_frames
from proactorx.sys.thread cimport px_name_thread
from proactorx.sys.watch cimport px_copy_rest, px_file_end, px_kernel_view, px_say, px_take_no_signals

import os
import sys

from proactorx.sys import python

cdef extern from "pythread.h":
    unsigned long PyThread_start_new_thread(void (*body)(void *) noexcept nogil, void *argument)
    unsigned long PYTHREAD_INVALID_THREAD_ID

cdef extern from "Python.h":
    void *PyThreadState_Get()

ctypedef void (*Dump)(int fd, void *state) noexcept nogil

cdef enum:
    MOST = 64                # loops that are looked at
    GRACE = 20_000_000       # ns of a wait for the GIL: four times what Python code keeps it
    SHORTEST = 5_000         # us, between two looks
    LONGEST = 250_000

cdef struct Suspect:         # a loop that runs and is watched
    size_t owner             # its number; 0: the place is free
    int64_t *began           # when its turn began; 0: it sleeps
    int64_t after            # ns
    void *state              # the PyThreadState of its thread
    uint64_t native_id
    int loud                 # write it to the standard error output too
    int64_t dumped           # the turn that was looked at
    int64_t start, size      # of its text in `file`

cdef Suspect suspects[MOST]
cdef int used = 0            # places, free ones included
cdef int64_t asked = 0       # since when the thread that asks waits for the GIL; 0: it does not
cdef PyThread_type_lock guard = NULL  # of all this; who holds it calls no Python
cdef PyThread_type_lock bell = NULL
cdef Dump dump = NULL
cdef int file = -1
cdef bint sleeps_for_good = False


def thread_state():
    """The address of this thread's state."""
    return <size_t>PyThreadState_Get()


def begin():
    """Start the thread, once; False: this Python or this system lacks what it needs."""
    global guard, bell, dump, file
    cdef size_t function
    if dump != NULL:
        return True
    if sys.platform == "win32" or python.FREE_THREADED:
        return False
    function = <size_t><void *>px_frames if PX_FRAMES else _function()
    if not function:
        return False
    try:
        file = _file()
    except OSError:
        return False
    if guard == NULL:
        guard = PyThread_allocate_lock()
        bell = new_bell()
    if guard == NULL or PyThread_start_new_thread(_look, NULL) == PYTHREAD_INVALID_THREAD_ID:
        os.close(file)
        return False
    dump = <Dump><void *>function
    return True


def _function():
    """The address of the interpreter's own function; 0: it is not to be found."""
    try:
        import ctypes
    except ImportError:
        return 0
    for name in ("PyUnstable_DumpTraceback", "_Py_DumpTraceback"):  # of 3.15; of 3.11 and 3.12
        found = getattr(ctypes.pythonapi, name, None)
        if found is not None:
            return ctypes.cast(found, ctypes.c_void_p).value
    return 0


def _file():
    """A file for what is seen, without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("proactorx-witness")
    import tempfile

    with tempfile.TemporaryFile() as made:
        return os.dup(made.fileno())


def suspect(size_t owner, size_t began, int64_t after, size_t state, uint64_t native_id, bint loud):
    """Look at this loop from now on, until ``release``; `began`: the address of that word."""
    global used, sleeps_for_good
    cdef int place
    release(owner)
    PyThread_acquire_lock(guard, 1)
    for place in range(MOST):
        if not suspects[place].owner:
            suspects[place] = Suspect(
                owner, <int64_t *>began, after, <void *>state, native_id, loud, 0, 0, 0)
            used = max(used, place + 1)
            break
    if sleeps_for_good:
        sleeps_for_good = False
        ring_bell(bell)
    PyThread_release_lock(guard)


def release(size_t owner):
    """Look at it no more: its thread may end."""
    global used
    cdef int place
    if guard == NULL:
        return
    PyThread_acquire_lock(guard, 1)
    for place in range(used):
        if suspects[place].owner == owner:
            suspects[place].owner = 0
    while used and not suspects[used - 1].owner:
        used -= 1
    PyThread_release_lock(guard)


def collect():
    """[(loop, turn, text)] of what was seen since the last call; the caller has waited for the GIL."""
    cdef int place
    found = []
    places = []
    if dump == NULL:
        return found
    PyThread_acquire_lock(guard, 1)
    for place in range(used):
        if suspects[place].owner and suspects[place].size:
            places.append((suspects[place].owner, suspects[place].dumped, suspects[place].size,
                           suspects[place].start))
            suspects[place].size = 0
    PyThread_release_lock(guard)
    for owner, turn, size, start in places:
        text = os.pread(file, size, start).decode("utf-8", "replace")
        found.append((owner, turn, text))
    if found:
        os.ftruncate(file, 0)
    return found


def forked():
    """In the child, which has no such thread, and where somebody may have held the lock."""
    global guard, bell, dump, used, asked, sleeps_for_good
    guard = bell = NULL
    dump = NULL
    used = 0
    asked = 0
    sleeps_for_good = False


cdef void asks_for_gil(int64_t now) noexcept nogil:
    global asked
    asked = now


cdef void has_gil() noexcept:
    """The thread that has asked has it.  Nobody is looked at any more, so that threads may go on."""
    global asked
    asked = 0
    if dump != NULL:
        PyThread_acquire_lock(guard, 1)
        PyThread_release_lock(guard)


# ----------------------------------------------------------------------------- the thread: without any Python

cdef void _look(void *nothing) noexcept nogil:
    global sleeps_for_good
    cdef int64_t since, now
    cdef int place
    cdef long long period
    px_take_no_signals()
    px_name_thread("proactorx-wit")
    while True:
        PyThread_acquire_lock(guard, 1)
        period = LONGEST
        for place in range(used):
            if suspects[place].owner:
                period = min(period, suspects[place].after // 2000)
        if not used:
            period = -1
            sleeps_for_good = True
        PyThread_release_lock(guard)
        sleep_on(bell, period if period < 0 else max(SHORTEST, period))
        since, now = asked, px_now_ns()
        if not since or now - since < GRACE:
            continue
        PyThread_acquire_lock(guard, 1)
        if asked == since:  # who waits has to take the guard first, when it has the GIL
            for place in range(used):
                if suspects[place].owner:
                    _look_at(&suspects[place], now)
        PyThread_release_lock(guard)


cdef void _look_at(Suspect *suspect, int64_t now) noexcept nogil:
    cdef int64_t began = suspect.began[0], end
    if not began or now - began < suspect.after or suspect.dumped == began:
        return
    suspect.dumped = began
    suspect.start = px_file_end(file)
    dump(file, suspect.state)
    px_kernel_view(file, suspect.native_id)
    end = px_file_end(file)
    suspect.size = end - suspect.start
    if suspect.loud:
        px_say(2, "the loop does not turn, and nobody can have the GIL; read without it:\n")
        px_copy_rest(file, suspect.start, 2)
