from proactorx.drivers.readiness.epollset import EpollSet

class EpollDriver(EpollSet):
    def __init__(self) -> None: ...
