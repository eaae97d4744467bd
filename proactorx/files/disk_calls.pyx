"""What a file object asks of the disk: keep what was written, reserve room, expect a pattern of reads."""

from proactorx.files.access cimport FileOp
from proactorx.files.transfer cimport Transfer, error_of
from proactorx.ops.kinds cimport PUNCH
from proactorx.ops.op cimport FSYNC, FSYNC_DATA
from proactorx.sys.errnos cimport EINVAL

import os

from proactorx.files.disk import advise_call, allocate_call


cdef class DiskCalls(Transfer):
    """Methods of all file objects that concern the disk."""

    async def _sync(self, bint data_only):
        cdef FileOp op
        await self.turn()
        try:
            await self._flush()
            op = self.access.new_op(FSYNC, self.descriptor(), -1)
            op.events = FSYNC_DATA if data_only else 0
            await self._whole(op)
            self.unsynced = op.error != 0
        finally:
            self.lock.release()
        if op.error:
            raise error_of(op, self.state)

    async def fsync(self):
        """Flush, and wait until the disk has the bytes and the file's attributes: fsync(2).

        Raises:
            OSError: not all was written, or the disk has failed.
        """
        await self._sync(False)

    async def fdatasync(self):
        """``fsync`` without the attributes that no later read needs: fdatasync(2).

        Raises:
            OSError: as for ``fsync``.
        """
        await self._sync(True)

    async def _about(self, fn, *args):
        """``fn(descriptor, *args)`` on an IO thread, in line with the other operations."""
        await self.turn()
        try:
            self.unsynced = True
            await self._call(fn, (self.descriptor(), *args), self._call_ended)
        finally:
            self.lock.release()

    async def allocate(self, offset, length):
        """Reserve room on the disk, so that writing there cannot fail for want of it.

        A shorter file grows to ``offset + length`` bytes: posix_fallocate(3); FileAllocationInfo on Windows.

        Args:
            offset: of the first byte.
            length: in bytes.

        Raises:
            OSError: there is not so much room.
            io.UnsupportedOperation: this system has no such call.
        """
        await self._about(allocate_call(), offset, length)

    async def punch(self, offset, length):
        """Give the disk the blocks of a part of the file back, which reads as zeros then: a hole.

        The file stays as long as it is: fallocate(2), FALLOC_FL_PUNCH_HOLE.

        Args:
            offset: of the first byte.
            length: in bytes.

        Raises:
            OSError: EINVAL for a negative offset or a length that is not positive; EOPNOTSUPP where the
                system or the file system has no such call.
        """
        cdef FileOp op
        if offset < 0 or length <= 0:
            raise OSError(EINVAL, os.strerror(EINVAL))
        await self.turn()
        try:
            await self._flush()
            op = self.access.new_op(PUNCH, self.descriptor(), offset)
            op.size = length
            await self._whole(op)
        finally:
            self.lock.release()
        if op.error:
            raise error_of(op, self.state)

    async def advise(self, advice, offset=0, length=0):
        """Tell the kernel how the file will be read: posix_fadvise(2).

        Args:
            advice: ``normal``, ``sequential``, ``random``, ``noreuse``, ``willneed`` or ``dontneed``.
            offset: of the first byte that this is about.
            length: in bytes; 0: up to the end.

        Raises:
            ValueError: another word.
            io.UnsupportedOperation: this system has no such call.
        """
        call = advise_call()
        words = ("normal", "sequential", "random", "noreuse", "willneed", "dontneed")
        if advice not in words:
            raise ValueError(f"unknown advice {advice!r}: one of {', '.join(words)}")
        await self._about(call, offset, length, getattr(os, f"POSIX_FADV_{advice.upper()}"))
