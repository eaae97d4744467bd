"""The tests of this room run on all ways of the bytes: by libssl directly, with a BIO of ours, with one that
notes the keys for the kernel, and on the ssl module's, and through the module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from proactorx.transports import tls_direct


@pytest.fixture(
    autouse=True,
    params=[
        "direct",
        *(pytest.param(way, marks=pytest.mark.exhaustive) for way in ("kernel", "buffers", "ssl")),
    ],
)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    allowed, refused = tls_direct.allow(request.param), None
    if request.param == "kernel":  # the keys are noted, whether this kernel takes them or not
        refused = tls_direct.refuse_kernel("" if sys.platform == "linux" else "only Linux is looked at")
    yield request.param
    tls_direct.allow(allowed)
    if refused is not None:
        tls_direct.refuse_kernel(refused)
