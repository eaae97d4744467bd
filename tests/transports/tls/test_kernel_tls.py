"""What is said of TLS in the kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from proactorx.transports.kernel_tls import kernel_tls

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is looked at")


@pytest.mark.parametrize(
    ("offered", "said"), [(None, "has no TLS"), ("mptcp\n", "has no TLS"), ("espintcp mptcp tls\n", "")]
)
def test_the_kernel_is_asked(tmp_path: Path, offered: str | None, said: str) -> None:
    listed = tmp_path / "tcp_available_ulp"
    if offered is not None:
        listed.write_text(offered)
    answer = kernel_tls(listed)
    assert answer.startswith("no (")
    assert ("has no TLS" in answer) is bool(said)
