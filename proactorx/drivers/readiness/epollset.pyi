from proactorx.drivers.readiness.driver import ReadinessDriver

class EpollSet(ReadinessDriver):
    def __init__(self, *args: object, **kwargs: object) -> None: ...
