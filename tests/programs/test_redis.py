"""redis-cli and redis-benchmark, through the proxy of examples/, to a redis server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import EXAMPLES, Server, Start, call, running, script, tool

pytestmark = pytest.mark.programs


@pytest.fixture(scope="module")
def redis(short_path: Path) -> Iterator[Path]:
    """The path of a redis server's Unix socket."""
    path = short_path / "redis.sock"
    options = ("--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", short_path)
    with running(tool("redis-server"), *options) as program:
        program.wait_for("(?i)ready to accept connections")
        yield path
        program.stop()


@pytest.fixture
def proxy(example: Start, redis: Path, driver_name: str) -> Server:
    return example("redis_proxy", driver_name, "--upstream", redis)


def redis_cli(proxy: Server, *args: str, stdin: bytes = b"") -> str:
    return call("redis-cli", "--no-auth-warning", "-h", proxy.host, "-p", str(proxy.port), *args, stdin=stdin)


def test_ping(proxy: Server) -> None:
    assert redis_cli(proxy, "PING") == "PONG\n"


def test_what_is_set_is_got(proxy: Server) -> None:
    assert redis_cli(proxy, "SET", "greeting", "hello") == "OK\n"
    assert redis_cli(proxy, "GET", "greeting") == "hello\n"
    assert redis_cli(proxy, "DEL", "greeting") == "1\n"


def test_a_value_of_some_mib_arrives_whole(proxy: Server) -> None:
    value = b"".join(b"%08d" % n for n in range(500_000))
    assert redis_cli(proxy, "-x", "SET", "large", stdin=value) == "OK\n"
    assert redis_cli(proxy, "STRLEN", "large") == f"{len(value)}\n"
    assert redis_cli(proxy, "--raw", "GET", "large").encode() == value + b"\n"


def test_many_commands_in_one_pipe(proxy: Server) -> None:
    """``--pipe`` sends all it has before it reads, and knows from the last answer that none is missing."""
    commands = b"".join(b"*2\r\n$4\r\nINCR\r\n$7\r\ncounter\r\n" for _ in range(20_000))
    redis_cli(proxy, "SET", "counter", "0")
    assert "errors: 0, replies: 20000" in redis_cli(proxy, "--pipe", stdin=commands)
    assert redis_cli(proxy, "GET", "counter") == "20000\n"


def test_a_subscriber_hears_what_others_publish(proxy: Server) -> None:
    argv = [tool("redis-cli"), "-h", proxy.host, "-p", str(proxy.port), "SUBSCRIBE", "news"]
    with running(*argv) as subscriber:
        subscriber.wait_for(r"subscribe\s+(.*\s+)?news")
        assert redis_cli(proxy, "PUBLISH", "news", "it works") == "1\n"
        subscriber.wait_for("it works")


def test_redis_benchmark(proxy: Server) -> None:
    """Every command of the benchmark is answered at its full count, by fifty connections at once."""
    report = call("redis-benchmark", "-h", proxy.host, "-p", str(proxy.port), "-n", "2000", "-q")
    rates = re.findall(r"([\d.]+) requests per second", report)
    assert len(rates) >= 15, report
    assert all(float(rate) > 0 for rate in rates), report


def test_an_upstream_that_is_not_there(driver_name: str, tmp_path: Path) -> None:
    """The client is turned away, the proxy says why, and goes on."""
    with script(EXAMPLES / "redis_proxy.py", driver_name, "--upstream", tmp_path / "nobody") as proxy:
        for _ in range(2):
            with proxy.connect() as sock:
                assert sock.recv(1) == b""
        proxy.wait_for(r"(?s)a connection failed: .*Errno 2\b.*a connection failed: .*Errno 2\b")
