"""What a loop has at this moment, counted by any thread while the loop goes on: figures, ops, transports.

Nothing here waits for the loop.  Where another thread could free what is looked at, only words of it are
read, and under the mutex that it has to take before it is freed.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int64_t, uint64_t
from proactorx.drivers.driver cimport Driver
from libc.string cimport memcpy, memset
from proactorx.observe.meter cimport BUCKETS, Meter, PLACES, RECORDS, Record, Times
from proactorx.ops.kinds cimport PX_FD, PX_ON_SOCKET, px_kinds
from proactorx.ops.op cimport Op
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.pages cimport px_pages, px_pages_free
from proactorx.sys.watch cimport px_listen_queue, px_thread_cpu_ns
from proactorx.transports.base cimport BaseTransport
from proactorx.transports.datagram cimport DatagramTransport
from proactorx.transports.registry cimport Registry
from proactorx.transports.sending cimport SendingTransport
from proactorx.transports.stream cimport StreamTransport

cdef enum:
    MOST_BUFFERS = 32        # that `buffered_of` finds

cdef extern from "Python.h":
    int PyType_IsSubtype(PyTypeObject *one, PyTypeObject *other)


def bounds():
    """The upper bounds of the buckets but the last, in seconds."""
    return tuple(round(1e-6 * (1 << place), 6) for place in range(BUCKETS - 1))


cdef tuple _times(Times *times, Times *more=NULL):
    cdef Times none
    if more == NULL:
        memset(&none, 0, sizeof(none))
        more = &none
    cdef list counts = [times.counts[place] + more.counts[place] for place in range(PLACES)]
    counts[BUCKETS - 1:] = [sum(counts[BUCKETS - 1:])]
    return tuple(counts), (times.total + more.total) * 1e-9, max(times.longest, more.longest) * 1e-9


cdef dict figures_of(Meter *meter):
    """What the meter says now; times in seconds."""
    cdef int64_t now = px_now_ns(), began = meter.began, run = meter.run, slept = meter.slept
    cdef int64_t idle = meter.idle, running = meter.running + (now - run if run else 0)
    cdef double parts = <double>(meter.flush + meter.dispatch + meter.ready), scale = 0
    if run and not began and slept >= run:
        idle += now - slept
    if parts > 0:
        scale = max(0, running - idle) * 1e-9 / parts
    return {
        "running": running * 1e-9,
        "idle": idle * 1e-9,
        "current_turn": max(0, now - began) * 1e-9 if began else 0.0,
        "callbacks": meter.callbacks,
        "packets": meter.packets,
        "turn_length": _times(&meter.turns, &meter.late),
        "lag": _times(&meter.lag, &meter.late),
        "gil_wait": _times(&meter.gil),
        "in_flush": meter.flush * scale,
        "in_dispatch": meter.dispatch * scale,
        "in_callbacks": meter.ready * scale,
    }


cdef int make_records(Meter *meter) noexcept:
    """The recorder's memory, which the system gives page by page; without it, nothing is kept."""
    if meter.records == NULL:
        meter.records = <Record *>px_pages(RECORDS * sizeof(Record))
    return 0


cdef void free_records(Meter *meter) noexcept:
    px_pages_free(meter.records, RECORDS * sizeof(Record))
    meter.records = NULL


cdef bytes records_of(Meter *meter):
    """The last turns, oldest first.  The loop may go on: what it may have written over is left out."""
    cdef uint64_t last = meter.recorded, first = last - RECORDS if last > RECORDS else 0, place, step
    cdef size_t size = sizeof(Record)
    cdef Record *records = meter.records
    cdef char *to
    if records == NULL:
        return b""
    copy = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>((last - first) * size))
    to = PyBytes_AS_STRING(copy)
    place = first
    with nogil:
        while place < last:
            step = min(last - place, RECORDS - place % RECORDS)
            memcpy(to + (place - first) * size, &records[place % RECORDS], step * size)
            place += step
    # One more: the loop is about to write it.
    step = meter.recorded + 1 - RECORDS if meter.recorded >= RECORDS else 0
    return copy[min(last, max(first, step)) * size - first * size:]


def ops_of(Driver driver not None):
    """The ops in flight: (name of the kind, descriptor, age in seconds or None, the op) of each."""
    cdef Op op
    cdef int64_t now = px_now_ns()
    found = []
    for op in list(driver.inflight):
        found.append((px_kinds[op.kind].name.decode(), op.fd,
                      max(0.0, (now - op.since) * 1e-9) if op.since else None, op))
    return found


def subject_of(Op op not None):
    """Whose callbacks its packets lead to: a transport, a socket, or the op itself."""
    return op.subject()


def is_listener(Op op not None):
    """Whether it accepts connections."""
    return px_kinds[op.kind].on == PX_ON_SOCKET and px_kinds[op.kind].brings == PX_FD


def listen_queue(int fd):
    """(connections that wait to be accepted, the most there may be) of a TCP listener; None: not known."""
    cdef int waiting, limit
    return None if px_listen_queue(fd, &waiting, &limit) else (waiting, limit)


def thread_cpu(native_id):
    """The CPU time of a thread in ns, by its native id; None: this system does not say, or it has ended."""
    cdef int64_t ns = px_thread_cpu_ns(native_id)
    return None if ns < 0 else ns


def transports_of(Registry registry not None):
    """{kind: (open, bytes buffered, paused reading, told to pause writing)} of streams and datagrams.

    Under the mutex, and without taking a reference: a transport that is being freed waits for the mutex.
    """
    cdef Py_ssize_t count[3]
    cdef Py_ssize_t buffered[3]
    cdef Py_ssize_t paused[3]
    cdef Py_ssize_t choked[3]
    cdef PyTypeObject *stream = <PyTypeObject *>StreamTransport
    cdef PyTypeObject *datagram = <PyTypeObject *>DatagramTransport
    cdef PyTypeObject *kind
    cdef void *item
    cdef int fd, place
    for place in range(3):
        count[place] = buffered[place] = paused[place] = choked[place] = 0
    with registry.mutex:
        for fd in range(registry.owner_count):
            item = registry.owners[fd]
            if item == NULL:
                continue
            kind = (<PyObject *>item).ob_type
            if PyType_IsSubtype(kind, stream):
                place = 0
                if (<StreamTransport>item).raw_protocol:
                    count[1] += 1
                    buffered[1] += (<SendingTransport>item).buffered + (<StreamTransport>item).layer_unsent
                    paused[1] += (<StreamTransport>item).layer_paused
                    choked[1] += (<StreamTransport>item).layer_told
                    continue
            elif PyType_IsSubtype(kind, datagram):
                place = 2
            else:
                continue
            count[place] += 1
            buffered[place] += (<SendingTransport>item).buffered
            paused[place] += (<BaseTransport>item).reading_paused
            choked[place] += (<SendingTransport>item).protocol_paused
    return {
        name: (count[place], buffered[place], paused[place], choked[place])
        for place, name in enumerate(("stream", "tls", "datagram"))
        if count[place]
    }


def buffered_of(Registry registry not None):
    """[(descriptor, bytes buffered)] of the streams and datagrams with the most, the largest first.

    No object is made under the mutex: that might free a transport, which takes it too.
    """
    cdef Py_ssize_t sizes[MOST_BUFFERS]
    cdef int fds[MOST_BUFFERS]
    cdef int fd, place, found = 0
    cdef Py_ssize_t size
    cdef PyTypeObject *sending = <PyTypeObject *>SendingTransport
    cdef PyTypeObject *stream = <PyTypeObject *>StreamTransport
    cdef void *item
    with registry.mutex:
        for fd in range(registry.owner_count):
            item = registry.owners[fd]
            if item == NULL or not PyType_IsSubtype((<PyObject *>item).ob_type, sending):
                continue
            size = (<SendingTransport>item).buffered
            if PyType_IsSubtype((<PyObject *>item).ob_type, stream):
                size += (<StreamTransport>item).layer_unsent
            if not size or (found == MOST_BUFFERS and size <= sizes[found - 1]):
                continue
            place = min(found, MOST_BUFFERS - 1)
            while place and sizes[place - 1] < size:
                sizes[place] = sizes[place - 1]
                fds[place] = fds[place - 1]
                place -= 1
            sizes[place] = size
            fds[place] = fd
            found = min(found + 1, MOST_BUFFERS)
    return [(fds[place], sizes[place]) for place in range(found)]
