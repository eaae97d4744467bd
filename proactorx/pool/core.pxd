cimport cython
from libc.stdint cimport int64_t, uint64_t
from proactorx.pool.jobs cimport Job, Jobs
from proactorx.sys.bell cimport PyThread_type_lock

cdef class ResultInbox:
    cdef object loop             # a weak reference: the inbox is an attribute of the loop
    cdef object drain            # the bound method
    cdef list done               # calls that have ended, for the loop to take
    cdef bint posted             # the loop knows of them
    cdef cython.pymutex mutex
    cdef int add(self, Call call) except -1
    cdef int give_up(self) except -1

cdef class Call:
    cdef PoolCore pool
    cdef ResultInbox inbox        # None: a callback without a future
    cdef object future            # None: `on_end` is called
    cdef object on_end            # with this call, in the loop's thread, when it has ended
    cdef object fn
    cdef tuple args
    cdef object on_orphan
    cdef readonly object result
    cdef readonly object error    # what `fn` has raised, or None
    cdef readonly bint cancelled           # the pool was closed before it began
    cdef object what              # for `job`
    cdef Job job                  # the record of it
    cdef void *next               # PoolCore.first
    cdef int finish(self) except -1
    cdef int orphan(self) except -1

cdef class IOThread:
    cdef public str name
    cdef PyThread_type_lock bell  # what it sleeps on while it is idle
    cdef IOThread above, below        # in the stack of idle threads
    cdef bint idle                # in that stack
    cdef bint member              # counted in PoolCore.active
    cdef bint expected            # about to look at the queue: new, woken, or done with a call
    cdef bint working
    cdef int blocking             # depth of ``blocking()``
    cdef uint64_t taken, seen     # packets; at the gate's last look
    cdef readonly str why         # it ends

cdef class PoolCore:
    cdef readonly Jobs _jobs      # that have been run
    cdef cython.pymutex mutex
    # The mutex guards everything below.
    cdef void *first              # the queue, of owned references
    cdef void *last
    cdef IOThread top                 # the idle thread that was last to come
    cdef list threads               # of all threads
    cdef int active, working, blocked, expected
    cdef uint64_t retired, queued, taken, completed
    cdef uint64_t seen            # `taken` at the gate's last look
    cdef int minimum, maximum
    cdef int64_t idle_us
    cdef bint gate                # the gate thread runs, or is about to
    cdef bint quiet               # nothing was queued at the gate's last look
    cdef bint closing
    cdef int generation           # of the process, counted in forks
    cdef object __weakref__
    cdef int start(self, object loop, object fn, tuple args, object on_end) except -1
    cdef int put(self, Call call) except -1
    cdef IOThread react(self, int *step)
    cdef int go(self, int step) except -1
    cdef IOThread pop_idle(self)
    cdef int push_idle(self, IOThread thread) except -1
    cdef int remove_idle(self, IOThread thread) except -1
    cdef Call pop(self)
    cdef Call take(self, IOThread thread)
    cdef int ended(self, IOThread thread) except -1
    cdef bint wait(self, IOThread thread) except -1
    cdef int retire(self, IOThread thread, str why) except -1
    cdef int perform(self, IOThread thread, Call call) except -1
    cdef int fail_queued(self, object error) except -1
