from proactorx.loop.handles import HandleOwner
from proactorx.port.loop_port import LoopPort

class CallQueue(HandleOwner):
    _closed: bool
    @property
    def _port(self) -> LoopPort: ...

def call_fast(kind: type[CallQueue]) -> None: ...
