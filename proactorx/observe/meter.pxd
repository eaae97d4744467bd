"""What a loop measures of itself in each turn: a few words, written by its thread and read by any other.

A turn is the time from one look at the port to the next.  The loop reads the clock of `sys/ticks.h` when a
turn begins, and once more when it goes to sleep; nothing is measured for each callback.  Each word is written
whole, so that a reader sees the old value or the new one; two words may be of two turns.

A reading takes 8 ns, and the brief turns of a task that gives way are 300 ns long.  So where no timer and no
operation waits, only callbacks, brief turns are timed by the group: see ``joins``.
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
    RECORDS = 65536          # that the recorder keeps: of a turn each, or of several brief ones
    BRIEF = 1000             # ns: turns that are shorter share a record,
    SHARERS = 64             # at most so many
    # Turns that begin without a reading, between two that begin with one.  With that one they are no multiple
    # of SAMPLE_EVERY.
    MOST_JOINED = 15
    BRISK = 16000            # ns: after a group that took longer, turns are timed one by one

cdef extern from "<stdint.h>":
    const int64_t NEVER "INT64_MAX"


cdef struct Times:
    int64_t total            # ns
    int64_t longest
    uint64_t counts[PLACES]


cdef struct Record:         # one turn, or several
    int64_t began
    int64_t ended
    # When the sleep before it ended, before the GIL was had; 0: unknown, or none.  Below 0: of how many
    # turns the record is.
    int64_t woke
    uint32_t packets, callbacks  # so far, the lower bits


cdef struct Meter:
    # When the current turn began; 0: the loop sleeps, or does not run.  It changes with each turn: without a
    # reading it is 1 more than in the turn before.
    int64_t began
    int64_t read             # when the last turn began that began with a reading
    int64_t previous         # when the turn before this one began
    int64_t woke             # as of the current turn's Record
    Record *records          # a ring, made when the loop first runs; NULL: there was no memory
    uint64_t recorded
    uint64_t callbacks       # handles that were taken off the ready queue
    uint64_t packets
    # So far a line of the cache, which each turn takes.
    int64_t slept            # when the loop went to sleep
    int64_t idle             # in sleeps that are over
    int64_t limit            # a turn, or a wait for the GIL, of this length is noted for the watchdog
    int countdown            # to the next turn whose parts are measured
    int left                 # so many turns may begin without a reading
    int most                 # ... after one that began with one
    bint shares              # brief turns share records
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


cdef inline void keep(Meter *meter, int64_t now, int64_t count) noexcept nogil:
    """Record the turns since the last reading, `count`."""
    cdef Record *record
    if meter.records != NULL:
        record = &meter.records[meter.recorded % RECORDS]
        record.began = meter.read
        record.ended = now
        record.woke = -count if count > 1 else meter.woke
        record.packets = <uint32_t>meter.packets
        record.callbacks = <uint32_t>meter.callbacks
        meter.recorded += 1


cdef inline bint shared(Meter *meter, int64_t now, int64_t count) noexcept nogil:
    """Record them in the last record: where they are brief, follow those that it is of, and so are they."""
    cdef Record *record
    cdef int64_t length = now - meter.read, sharers
    if length >= BRISK or length >= count * BRIEF or not meter.shares or meter.records == NULL:
        return False
    record = &meter.records[(meter.recorded - 1) % RECORDS]
    sharers = -record.woke if record.woke else 1
    if (sharers < 1 or sharers > SHARERS - count or record.ended != meter.read
            or record.ended - record.began >= sharers * BRIEF):
        return False
    record.ended = now
    record.woke = -(sharers + count)
    record.packets = <uint32_t>meter.packets
    record.callbacks = <uint32_t>meter.callbacks
    return True


cdef inline void group_over(Meter *meter, int64_t now, int64_t count, bint late) noexcept nogil:
    """Several turns are over, of which all but the first began without a reading, and callbacks were ready.

    Where they took long, one of them did: which one is not known.
    """
    cdef int64_t length = now - meter.read
    cdef int64_t each = length // count if length < BRISK else 0
    cdef int place = px_bit_length(2 * (<uint64_t>each // 1000) + 1) - 1
    # The parts of the first one may have been measured.  The others have one part: to call handles.
    meter.ready += (length - length // count) // SAMPLE_EVERY
    meter.late.counts[place] += count - 2
    meter.late.total += each * (count - 2)
    record(&meter.late, length - each * (count - 1))
    record(&meter.late if late else &meter.turns, each)


cdef inline void turn_over(Meter *meter, int64_t now, bint late, bint busy) noexcept nogil:
    """The current turn ends.  `late`: callbacks became ready in it, and run in the next one.  `busy`: the
    next one follows at once.
    """
    cdef int64_t count = meter.began - meter.read + 1
    if meter.began:  # else somebody turns the loop who does not run it
        if count == 1:
            record(&meter.late if late else &meter.turns, now - meter.began)
        else:
            group_over(meter, now, count, late)
        if now - meter.began >= meter.limit:
            note_slow(meter, meter.began, now)
        if not busy or not shared(meter, now, count):
            keep(meter, now, count)


cdef inline bint joins(Meter *meter) noexcept nogil:
    """Whether the next turn may begin without a reading of the clock; if so, it has.

    The caller knows that callbacks are ready, and that no operation waits; no timer does, else `left` were 0.
    So nobody has to wait for a turn that takes long but those callbacks, and threads.
    """
    if meter.left <= 0:
        return False
    meter.left -= 1
    meter.began += 1
    return True


cdef inline void turn_begins(Meter *meter, int64_t now, bint late, bint no_timers) noexcept nogil:
    """The next turn begins without a sleep; `late` as for ``turn_over``."""
    cdef int64_t count = meter.began - meter.read + 1, length = now - meter.read
    turn_over(meter, now, late, True)
    meter.left = 0
    if no_timers and length < BRISK:
        # So many turns were brisk: then so are as many again, or twice as many if there was room.
        meter.left = <int>min(2 * count if length < BRISK // 2 else count - 1, meter.most)
    meter.woke = 0
    meter.previous = meter.began
    meter.began = meter.read = now


cdef inline void goes_to_sleep(Meter *meter, int64_t now) noexcept nogil:
    turn_over(meter, now, False, False)
    meter.slept = now
    meter.previous = meter.began
    meter.began = 0
    meter.left = 0


cdef inline void wakes_up(Meter *meter, int64_t returned, int64_t now) noexcept nogil:
    """The loop has slept.  `returned`: when the system call did, before the GIL was had again; 0: unknown."""
    if returned:
        record(&meter.gil, now - returned)
        if now - returned >= meter.limit:
            note_slow(meter, returned, now)
    meter.woke = returned
    meter.idle += (returned if returned else now) - meter.slept
    meter.began = meter.read = now


cdef inline void choose_timing(Meter *meter, int64_t limit, bint noting) noexcept nogil:
    """Note turns of this length, if not 0, for the watchdog: then each is timed by itself.

    `noting`: each has a record of its own, too.
    """
    meter.limit = limit if limit else NEVER
    meter.most = MOST_JOINED if meter.limit == NEVER and not noting else 0
    meter.left = 0
    meter.shares = not noting


cdef inline void run_begins(Meter *meter, int64_t now) noexcept nogil:
    meter.run = meter.began = meter.read = meter.previous = now
    meter.woke = 0  # as of a turn of the last run
    meter.left = 0


cdef inline void run_ends(Meter *meter, int64_t now) noexcept nogil:
    turn_over(meter, now, False, False)
    if meter.run:
        meter.running += now - meter.run
    meter.run = meter.began = 0
    meter.left = 0
