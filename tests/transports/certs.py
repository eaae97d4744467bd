"""Certificates for the TLS tests, made by the ``openssl`` command when the tests run."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Certificates:
    """A self-signed certificate for ``localhost`` and 127.0.0.1, and contexts that use it."""

    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client(self) -> ssl.SSLContext:
        """Trusts our certificate and nothing else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.certificate)
        return context

    def stranger(self) -> ssl.SSLContext:
        """Does not trust our certificate."""
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def make_certificates(directory: Path) -> Certificates:
    ready = os.environ.get("PROACTORX_TEST_CERTIFICATES")  # made before, for a system without the command
    if ready:
        return Certificates(Path(ready, "certificate.pem"), Path(ready, "key.pem"))
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    made = Certificates(directory / "certificate.pem", directory / "key.pem")
    command = [openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return made
