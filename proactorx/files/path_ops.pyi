from typing import Any

from proactorx.files.access import Access

UNLINK: int
RMDIR: int
RENAME: int

async def change(access: Access, what: int, event: str, paths: tuple[Any, ...]) -> bool: ...
