"""The tests of this room run on all ways of the bytes: by libssl directly, with a BIO of ours and on the ssl
module's, and through the module.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proactorx.transports import tls_direct


@pytest.fixture(
    autouse=True,
    params=["direct", *(pytest.param(way, marks=pytest.mark.exhaustive) for way in ("buffers", "ssl"))],
)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    allowed = tls_direct.allow(request.param)
    yield request.param
    tls_direct.allow(allowed)
