from proactorx.drivers.driver import Driver

class ReadinessDriver(Driver): ...

# What a subclass gives: _open(), _interest(fd, before, after), _sleep(timeout), and _poll(timeout), which yields
# (fd, mask).
class PythonReadinessDriver(ReadinessDriver):
    def _wake_through(self, fd: int) -> None: ...
