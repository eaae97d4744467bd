"""Files that are part of the loop, with the API of aiofiles: ``from proactorx import files as aiofiles``."""

from __future__ import annotations

from proactorx.files import os, tempfile
from proactorx.files.binary import AsyncBufferedIOBase, AsyncBufferedReader
from proactorx.files.copying import Copied, CopiedTree, copy, copy_tree
from proactorx.files.coroutines import read_bytes, read_text
from proactorx.files.direct import aligned
from proactorx.files.opening import (
    open,
    stderr,
    stderr_bytes,
    stdin,
    stdin_bytes,
    stdout,
    stdout_bytes,
    wrap,
)
from proactorx.files.text import AsyncTextIOWrapper
from proactorx.files.tree import scandir, stat_many, walk
from proactorx.files.unbuffered import AsyncFileIO
from proactorx.files.watching import Change, watch
from proactorx.files.writing import write_bytes

__all__ = [
    "AsyncBufferedIOBase",
    "AsyncBufferedReader",
    "AsyncFileIO",
    "AsyncTextIOWrapper",
    "Change",
    "Copied",
    "CopiedTree",
    "aligned",
    "copy",
    "copy_tree",
    "open",
    "os",
    "read_bytes",
    "read_text",
    "scandir",
    "stat_many",
    "stderr",
    "stderr_bytes",
    "stdin",
    "stdin_bytes",
    "stdout",
    "stdout_bytes",
    "tempfile",
    "walk",
    "watch",
    "wrap",
    "write_bytes",
]
