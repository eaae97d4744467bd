from proactorx.port.op import Op

class Driver:
    name: str
    closed: bool
    forked: bool
    spin_ns: int
    @property
    def inflight(self) -> list[Op]: ...
    def close(self) -> None: ...
    def after_fork_in_child(self) -> None: ...
