"""A loop that is watched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from observe.planted import AFTER, Loop, Seen


@pytest.fixture
def seen(loop: Loop) -> Iterator[Seen]:
    seen = Seen(loop)
    loop.watch(AFTER, report=seen)
    yield seen
    loop.watch(None)
