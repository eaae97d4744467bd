from proactorx.drivers.epollset import EpollSet

class EpollDriver(EpollSet):
    def __init__(self) -> None: ...
