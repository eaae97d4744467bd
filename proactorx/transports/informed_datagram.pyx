"""The datagram transport of those who want more than single datagrams.

A protocol that defines ``datagrams_received`` gets all that one receive has brought, as a list of ``(data,
address, info)``; and trains, which a socket with UDP_GRO receives in one piece, are cut before any protocol
sees them.  ``info`` is a ``DatagramInfo``, or None where the kernel was not asked.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memcmp
from proactorx.sys.datagram cimport (
    AF_INET, px_arena, px_taken_data, px_taken_name, px_taken_name_size, px_taken_size,
)
from proactorx.sys.trains cimport px_datagram_info, px_informed_done, px_taken_info
from proactorx.transports.datagram cimport DatagramTransport

import socket

from proactorx.transports.udp import DatagramInfo


cdef class InformedDatagramTransport(DatagramTransport):
    """A datagram transport that receives batches, trains, and what the kernel tells."""

    def __init__(self, loop, registry, sock, protocol, **options):
        DatagramTransport.__init__(self, loop, registry, sock, protocol, **options)
        self.informed = True
        self.whole = _wants_batches(protocol)

    def set_protocol(self, protocol):
        """Call `protocol` from now on."""
        self._protocol = protocol
        self.whole = _wants_batches(protocol)

    cdef int take_in(self, px_arena *arena, int count) except -1:
        cdef list taken = []
        cdef px_datagram_info told
        cdef Py_ssize_t size, start, step
        cdef char *data
        cdef object address, info
        cdef int i
        try:
            for i in range(count):
                px_taken_info(arena, i, &told)
                info = self.info_of(&told)
                address = self.addresses.address_of(px_taken_name(arena, i), px_taken_name_size(arena, i))
                data = px_taken_data(arena, i)
                size = px_taken_size(arena, i)
                step = told.segment if 0 < told.segment < size else size
                taken.append((PyBytes_FromStringAndSize(data, step), address, info))
                start = step
                while start < size:
                    step = min(step, size - start)
                    taken.append((PyBytes_FromStringAndSize(data + start, step), address, info))
                    start += step
        finally:
            px_informed_done(arena)
        return self.hand_over(taken)

    cdef object info_of(self, px_datagram_info *told):
        """A `DatagramInfo`; mostly the same one as for the datagram before."""
        if told.ecn < 0 and told.interface_index < 0:
            return None
        told.segment, segment = 0, told.segment
        if self.told_info is None or memcmp(&self.told, told, sizeof(px_datagram_info)):
            local = None
            if told.interface_index >= 0:
                size = 4 if told.family == AF_INET else 16
                local = socket.inet_ntop(told.family, (<char *>told.local)[:size])
            self.told_info = DatagramInfo(
                None if told.ecn < 0 else told.ecn,
                local,
                None if told.interface_index < 0 else told.interface_index,
            )
            self.told = told[0]
        told.segment = segment
        return self.told_info

    cdef int hand_over(self, list taken) except -1:
        """Give the protocol what was taken; what it does not want yet is kept."""
        cdef Py_ssize_t done = 0
        if self.closing or not taken:
            return 0
        if self.stash is not None:
            self.stash.extend(taken)
            return 0
        if self.reading_paused:
            self.stash = taken
            return 0
        if self.whole:
            return self.deliver_batch(taken)
        try:
            for data, address, _ in taken:
                if self.closing or self.reading_paused:
                    break
                done += 1
                DatagramTransport.deliver(self, data, address)
        finally:
            if done < len(taken) and not self.closing:
                self.stash = taken[done:]
                if not self.reading_paused:
                    # A callback has ended the run: the rest is the protocol's when the loop runs again.
                    self._loop.call_soon(self._read_again, context=self.context)
        return 0

    cdef int unstash(self) except -1:
        cdef list taken = self.stash
        if taken is not None and not self.reading_paused and not self.closing:
            self.stash = None
            self.in_callback = True
            try:
                self.hand_over(taken)
            finally:
                self.in_callback = False
        if not self.reading_paused and not self.closing and self.stash is None:
            if self.receive is not None:
                self.port.resume(self.receive)
            else:
                self.start_reading()
        return 0

    cdef int deliver(self, object data, object address) except -1:
        # One that came through the socket module.
        if self.whole:
            return self.deliver_batch([(data, address, None)])
        return DatagramTransport.deliver(self, data, address)

    cdef int deliver_batch(self, list taken) except -1:
        try:
            self._protocol.datagrams_received(taken)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._callback_failed("datagrams_received", exc)
        return 0


def _wants_batches(protocol):
    # Of the class: a mock has every attribute.
    return hasattr(type(protocol), "datagrams_received")
