"""What a loop measures of itself in each turn: a few words, written by its thread and read by any other.

A turn is the time from one look at the port to the next.  The loop reads the clock of `sys/ticks.h` when a
turn begins, and once more when it goes to sleep; nothing is measured for each callback.  Each word is written
whole, so that a reader sees the old value or the new one; two words may be of two turns.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from proactorx.sys.bits cimport px_bit_length

cdef enum:
    # Less than 1 us, less than 2 us, less than 4 us, ..., less than 2**25 us; the rest.
    BUCKETS = 27
    PLACES = 64              # as the loop counts them: all but the first BUCKETS - 1 are the rest
    # Every so many turns the parts of a turn are measured too.  A prime number, so that it does not fall into
    # step with what a program does in every second, fourth or tenth turn.
    SAMPLE_EVERY = 17
    RECORDS = 65536          # of turns, that the recorder keeps


cdef struct Times:
    int64_t total            # ns
    int64_t longest
    uint64_t counts[PLACES]


cdef struct Record:         # one turn
    int64_t began
    int64_t ended
    int64_t woke             # when the sleep before it ended, before the GIL was had; 0: unknown, or none
    uint32_t packets, callbacks  # so far, the lower bits


cdef struct Meter:
    int64_t began            # when the current turn began; 0: the loop sleeps, or does not run
    int64_t previous         # when the one before it began
    int64_t slept            # when the loop went to sleep
    int64_t woke             # as of the current turn's Record
    Record *records          # a ring, made when the loop first runs; NULL: there was no memory
    uint64_t recorded
    uint64_t callbacks       # handles that were taken off the ready queue
    uint64_t packets
    # So far a line of the cache, which each turn takes.
    int64_t idle             # in sleeps that are over
    int64_t limit            # a turn, or a wait for the GIL, of this length is noted for the watchdog
    int countdown            # to the next turn whose parts are measured
    Times turns              # those that are not in `late`
    Times late               # in which callbacks became ready, that run in the next one
    Times gil
    Times lag
    int64_t run              # when the run began; 0: the loop does not run
    int64_t running          # how long earlier runs have lasted
    int64_t slow_began       # the last of those
    int64_t slow_ended
    uint64_t slow            # how many there were
    # of every SAMPLE_EVERYth turn
    int64_t flush, dispatch, ready


cdef inline void record(Times *times, int64_t ns) noexcept nogil:
    # Without a branch: what is 1 us long in one turn is not in the next.
    times.counts[px_bit_length(2 * (<uint64_t>max(ns, 0) // 1000) + 1) - 1] += 1
    times.total += ns
    if ns > times.longest:
        times.longest = ns


cdef inline void note_slow(Meter *meter, int64_t began, int64_t ended) noexcept nogil:
    meter.slow_began = began
    meter.slow_ended = ended
    meter.slow += 1


cdef inline void turn_over(Meter *meter, int64_t now, bint late) noexcept nogil:
    """The current turn ends.  `late`: callbacks became ready in it, and run in the next one."""
    cdef int64_t length = now - meter.began
    cdef Record *written
    if meter.began:  # else somebody turns the loop who does not run it
        record(&meter.late if late else &meter.turns, length)
        if length >= meter.limit:
            note_slow(meter, meter.began, now)
        if meter.records != NULL:
            written = &meter.records[meter.recorded % RECORDS]
            written.began = meter.began
            written.ended = now
            written.woke = meter.woke
            written.packets = <uint32_t>meter.packets
            written.callbacks = <uint32_t>meter.callbacks
            meter.recorded += 1


cdef inline void turn_begins(Meter *meter, int64_t now, bint late) noexcept nogil:
    """The next turn begins without a sleep; `late` as for ``turn_over``."""
    turn_over(meter, now, late)
    meter.woke = 0
    meter.previous = meter.began
    meter.began = now


cdef inline void goes_to_sleep(Meter *meter, int64_t now) noexcept nogil:
    turn_over(meter, now, False)
    meter.slept = now
    meter.previous = meter.began
    meter.began = 0


cdef inline void wakes_up(Meter *meter, int64_t returned, int64_t now) noexcept nogil:
    """The loop has slept.  `returned`: when the system call did, before the GIL was had again; 0: unknown."""
    if returned:
        record(&meter.gil, now - returned)
        if now - returned >= meter.limit:
            note_slow(meter, returned, now)
    meter.woke = returned
    meter.idle += (returned if returned else now) - meter.slept
    meter.began = now


cdef inline void run_begins(Meter *meter, int64_t now) noexcept nogil:
    meter.run = meter.began = meter.previous = now


cdef inline void run_ends(Meter *meter, int64_t now) noexcept nogil:
    turn_over(meter, now, False)
    if meter.run:
        meter.running += now - meter.run
    meter.run = meter.began = 0
