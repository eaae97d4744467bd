"""The tests of this room run on both ways of the bytes: by libssl directly, and through the ssl module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proactorx.transports import tls_direct


@pytest.fixture(autouse=True, params=["libssl", pytest.param("ssl-module", marks=pytest.mark.exhaustive)])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    allowed = tls_direct.allow(request.param == "libssl")
    yield request.param
    tls_direct.allow(allowed)
