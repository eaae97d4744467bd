from proactorx.loop.handles import Handle, HandleOwner
from proactorx.ops.op import Watch
from proactorx.port.loop_port import LoopPort

class CallQueue(HandleOwner):
    _closed: bool
    @property
    def _port(self) -> LoopPort: ...

class HandleWatch(Watch):
    def __init__(self, fd: int, events: int, queue: CallQueue, handle: Handle) -> None: ...

def call_fast(kind: type[CallQueue]) -> None: ...
