import asyncio
from concurrent.futures import Executor

from proactorx.ops.op import Overlapped

class FileOp(Overlapped):
    @property
    def future(self) -> asyncio.Future[None]: ...
    def run(self) -> None: ...

class Access:
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

def access_for(loop: asyncio.AbstractEventLoop | None = None, executor: Executor | None = None) -> Access: ...
