import io
from collections.abc import Callable
from typing import Any

from _typeshed import FileDescriptorOrPath, ReadableBuffer, WriteableBuffer

class RawFile(io.FileIO):
    _state: Any
    def __init__(
        self,
        file: FileDescriptorOrPath,
        mode: str = "r",
        closefd: bool = True,
        opener: Callable[[str, int], int] | None = None,
    ) -> None: ...
    def readinto(self, buffer: WriteableBuffer, /) -> int | None: ...  # type: ignore[override, unused-ignore]
    def read(self, size: int | None = -1, /) -> bytes | None: ...  # type: ignore[override, unused-ignore]
    def readline(self, size: int | None = -1, /) -> bytes | None: ...  # type: ignore[override, unused-ignore]
    def readall(self) -> bytes | None: ...  # type: ignore[override, unused-ignore]
    def write(self, data: ReadableBuffer, /) -> int: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def truncate(self, size: int | None = None, /) -> int: ...
    def close(self) -> None: ...
