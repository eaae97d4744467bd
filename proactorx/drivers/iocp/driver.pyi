from proactorx.drivers.iocp.encode import OverlappedCalls

class IocpDriver(OverlappedCalls):
    polls_in_kernel: int
    binds: bool
    def __init__(
        self, *, afd: bool = True, skip: bool = True, buffers: int = 256, binds: bool = True
    ) -> None: ...
