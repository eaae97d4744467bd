"""The way of the bytes past the ssl module shows nothing that the module's own way does not."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import subprocess
import sys
import sysconfig
from typing import Any

import pytest

from proactorx.transports import tls_direct
from transports.certs import Certificates
from transports.support import LIMIT, Recorder, collect_errors

from .support import accepted

pytestmark = pytest.mark.ours

HEADER = 5  # of a record: type, version, length, RFC 8446 section 5.1


def test_it_is_used_where_it_can_be(way: str) -> None:
    """A libssl or a Python that is not known is a failure here, not silently slower."""
    if way == "ssl":
        assert tls_direct.how() == "the ssl module (switched off)"
    elif sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert tls_direct.how().startswith("the ssl module (free-threaded")
    elif sys.platform == "win32":
        assert tls_direct.how().startswith("the ssl module (Windows")
    elif way == "buffers":
        assert tls_direct.how() == "libssl directly, on the ssl module's buffers (switched off)"
    else:
        assert tls_direct.how() == "libssl directly"


@pytest.mark.parametrize("value", ["ssl", "buffers", "direct", "other"])
def test_the_switch(value: str) -> None:
    code = "from proactorx.transports import tls_direct; print(tls_direct.how())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROACTORX_TLS": value},
        capture_output=True,
        text=True,
        check=False,
    )
    if value == "ssl":
        assert done.stdout == "the ssl module (PROACTORX_TLS=ssl)\n"
    elif value == "other":
        assert "PROACTORX_TLS='other'" in done.stderr
    elif value == "buffers" and done.stdout.startswith("libssl directly"):
        assert done.stdout == "libssl directly, on the ssl module's buffers (PROACTORX_TLS=buffers)\n"
    else:
        assert done.returncode == 0


def damage(dice: random.Random, wire: bytearray, record: int) -> None:
    """What comes of it must not depend on the ciphertext, which is never the same twice."""
    body = record + HEADER + dice.randrange(16)
    match dice.randrange(6):
        case 0:  # type, version or length
            wire[record + dice.randrange(HEADER)] ^= 1 << dice.randrange(8)
        case 1:
            wire[body] ^= 1 << dice.randrange(8)
        case 2:
            del wire[body:]
        case 3:
            wire[body:body] = dice.randbytes(dice.randrange(1, 40))
        case 4:
            del wire[body : body + dice.randrange(1, 4)]
        case _:
            wire[record:record] = dice.randbytes(60)


async def outcome(certificates: Certificates, seed: int, *, way: str, version: Any) -> tuple[Any, ...]:
    """What a server sees of records of which one is damaged, cut off, made up or left out."""
    dice = random.Random(seed)
    before = tls_direct.allow(way)
    errors = collect_errors()
    server = Recorder()
    peer_context = certificates.client()
    peer_context.maximum_version = version
    lost: Any = None
    try:
        async with accepted(certificates, server, peer=peer_context) as peer:
            wire, starts = bytearray(), []
            for _ in range(dice.randrange(1, 4)):
                starts.append(len(wire))
                peer.ssl.write(dice.randbytes(dice.choice([1, 100, 5000, 16384])))
                wire += peer.outgoing.read()
            damage(dice, wire, dice.choice(starts))
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(peer.sock, wire)
            peer.sock.shutdown(1)
            await asyncio.wait_for(server.until_lost(), LIMIT)
    except (ConnectionError, EOFError, ssl.SSLError) as exc:
        lost = type(exc)
    finally:
        tls_direct.allow(before)
    said = [(e["message"], type(e.get("exception")), str(e.get("exception"))) for e in errors]
    return bytes(server.data), type(server.error), str(server.error), said, lost


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(1, 10))])
async def test_damaged_records_are_told_alike(certificates: Certificates, part: int, version: Any) -> None:
    for seed in range(part * 20, part * 20 + 20):
        by_module = await outcome(certificates, seed, way="ssl", version=version)
        for way in ("buffers", "direct"):
            assert await outcome(certificates, seed, way=way, version=version) == by_module, (seed, way)
