from proactorx.ops.op import Op

class Driver:
    name: str
    closed: bool
    forked: bool
    spin_ns: int
    @property
    def native_files(self) -> int: ...
    @property
    def inflight(self) -> list[Op]: ...
