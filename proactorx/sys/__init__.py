"""The ground floor: what the operating system offers, and nothing of this package.

The only room that includes system headers.  Each header has one ``.pxd`` that declares it, and every module
cimports from there.  Where POSIX and Windows differ a header includes its other half (``socket.h``,
``socket_windows.h``), and both have the same functions.  All calls have one convention: the result, or
``-errno`` with the numbers of ``errnos.h``.

=============  ============================================================================================
atomic         words that threads share: load_acquire, store_release, compare_exchange and so on
clock          the monotonic clock
datagram       many datagrams in one call, and socket addresses as asyncio shows them
errnos         error numbers as Python's ``errno`` module has them
event          how another thread ends a wait
file           calls on files: those that may wait, and those that never do
overlapped     what an operation holds for the kernel while it is in flight
park           where a waiting thread sleeps, and whether another one sleeps
socket         calls on non-blocking sockets and pipes
thread         the name of a thread
epoll, ring    Linux: epoll(7); io_uring(7), with the numbers of its interface in ``ring_abi.h``
inotify        Linux: inotify(7)
iocp           Windows: overlapped calls and the kernel's completion port
afd, pollthread  Windows: readiness, from the socket driver or from a thread in select()
=============  ============================================================================================
"""
