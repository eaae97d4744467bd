"""What the epoll, select and iocp drivers share, and the io_uring driver's epoll set:
completions made of readiness.
"""
