"""What monitoring systems are given, read by their own parsers."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from loop.helpers import BOUND, Thread

import proactorx
from proactorx import metrics
from proactorx.observe.exposition import FAMILIES, HISTOGRAMS

pytestmark = pytest.mark.ours

Loop = proactorx.EventLoop


def parse(text: str) -> dict[str, Any]:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def value(families: dict[str, Any], name: str, **labels: str) -> float:
    (found,) = (
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
    return float(found)


async def busy() -> tuple[str, proactorx.LoopStats, str]:
    """A loop with something of everything: (its number, its stats, the text)."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    made: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: made.append(writer), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    loop.call_later(100, int)
    async with asyncio.timeout(BOUND):
        while not made:
            await asyncio.sleep(0.001)
    stats, text = loop.stats(), metrics.prometheus()
    for each in (writer, *made):
        each.close()
        await each.wait_closed()
    server.close()
    return str(loop._number), stats, text


def test_the_parser_of_prometheus_reads_it(loop: Loop) -> None:
    number, stats, text = loop.run_until_complete(busy())
    families = parse(text)
    assert {f"proactorx_loop_{family.name}" for family in FAMILIES} <= families.keys()
    assert {f"proactorx_loop_{name}" for name, _, _ in HISTOGRAMS} <= families.keys()
    own = {"loop": number, "backend": stats.backend}
    assert value(families, "proactorx_loop_turns_total", **own) == stats.turns
    assert (
        value(families, "proactorx_loop_timers", **own) == stats.timers == 2
    )  # one is a time-out, cancelled
    assert value(families, "proactorx_loop_transports", kind="stream", **own) == 2
    assert value(families, "proactorx_loop_ops", kind="accept", **own) == 1
    assert value(families, "proactorx_loop_turn_length_seconds_count", **own) == stats.turn_length.count
    assert value(families, "proactorx_loop_turn_length_seconds_bucket", le="+Inf", **own) == (
        stats.turn_length.count
    )
    assert value(families, "proactorx_loop_turn_length_seconds_sum", **own) == stats.turn_length.total
    assert families["proactorx_loop_buffered_bytes"].unit == "bytes"


def test_it_ends_as_the_format_says() -> None:
    text = metrics.prometheus()
    assert text.endswith("\n# EOF\n")
    assert parse(text)["proactorx_loop_turns"].type == "counter"


def test_buckets_add_up(loop: Loop) -> None:
    number, stats, text = loop.run_until_complete(busy())
    samples = [
        sample
        for sample in parse(text)["proactorx_loop_turn_length_seconds"].samples
        if sample.name.endswith("_bucket") and sample.labels["loop"] == number
    ]
    values = [sample.value for sample in samples]
    assert len(values) == len(stats.turn_length.counts)
    assert values == sorted(values)


@pytest.fixture
def endpoint() -> Any:
    endpoint = metrics.serve("127.0.0.1", 0)
    yield endpoint
    endpoint.close()


def get(endpoint: Any, path: str = "/metrics") -> tuple[str, str]:
    with urllib.request.urlopen("http://{}:{}{}".format(*endpoint.address, path), timeout=BOUND) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


class TestEndpoint:
    def test_it_answers_while_a_loop_is_stuck(self, endpoint: Any) -> None:
        async def main() -> None:
            inside.set()
            assert done.wait(BOUND)

        inside, done = threading.Event(), threading.Event()
        thread = Thread(lambda: proactorx.run(main()))
        thread.start()
        try:
            assert inside.wait(BOUND)
            time.sleep(0.01)
            kind, text = get(endpoint)
        finally:
            done.set()
            thread.finish()
        assert kind == metrics.CONTENT_TYPE
        stuck = [s for s in parse(text)["proactorx_loop_current_turn_seconds"].samples if s.value >= 0.01]
        assert len(stuck) == 1

    def test_what_it_does_not_have(self, endpoint: Any) -> None:
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(endpoint, "/etc/passwd")
        assert caught.value.code == 404
        caught.value.close()
        assert get(endpoint, "/metrics?x=1")[1].endswith("# EOF\n")

    def test_a_client_that_says_nothing_delays_nobody(self, endpoint: Any) -> None:
        with socket.create_connection(endpoint.address):
            assert get(endpoint)[1].endswith("# EOF\n")

    def test_noise(self, endpoint: Any, capfd: pytest.CaptureFixture[str]) -> None:
        for noise in (b"\0" * 100, b"GET", b"\xff\xfe\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
            with socket.create_connection(endpoint.address) as client:
                client.sendall(noise)
        assert get(endpoint)[1].endswith("# EOF\n")
        assert capfd.readouterr().err == ""

    def test_an_address_that_is_taken(self, endpoint: Any) -> None:
        if sys.platform == "win32":
            pytest.skip("Windows lets others listen there too")
        with pytest.raises(OSError):
            metrics.serve(*endpoint.address)


class TestOpenTelemetry:
    def test_the_sdk_collects_it(self, loop: Loop) -> None:
        export = pytest.importorskip("opentelemetry.sdk.metrics.export")
        sdk = pytest.importorskip("opentelemetry.sdk.metrics")
        reader = export.InMemoryMetricReader()
        provider = sdk.MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
        metrics.opentelemetry(provider)

        async def main() -> tuple[int, dict[str, Any]]:
            await asyncio.sleep(0.01)
            data = reader.get_metrics_data()
            (resource,) = data.resource_metrics
            (scope,) = resource.scope_metrics
            return loop.stats().turns, {metric.name: metric for metric in scope.metrics}

        turns, found = loop.run_until_complete(main())
        provider.shutdown()
        own = [
            point
            for point in found["proactorx.eventloop.turns"].data.data_points
            if point.attributes["proactorx.loop"] == str(loop._number)
        ]
        assert [point.value for point in own] == [turns]
        assert found["proactorx.eventloop.running_seconds"].unit == "s"
        shares = [point.value for point in found["proactorx.eventloop.utilization"].data.data_points]
        assert shares
        assert all(0 <= share <= 1 for share in shares)
        assert {
            point.attributes["quantile"]
            for point in found["proactorx.eventloop.turn_length.quantiles"].data.data_points
        } == {"p50", "p90", "p99"}
