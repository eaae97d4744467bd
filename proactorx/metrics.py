"""The counters of all running loops, for monitoring systems.

``prometheus()`` gives text for Prometheus; ``opentelemetry()`` reports to OpenTelemetry. Serve the text with
whatever you serve, or with ``serve(host, port)``, which has a thread of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proactorx.observe.exposition import CONTENT_TYPE, prometheus

if TYPE_CHECKING:
    from proactorx.observe.endpoint import Endpoint

__all__ = ["CONTENT_TYPE", "opentelemetry", "prometheus", "serve"]


def serve(host: str, port: int) -> Endpoint:
    """Serve ``/metrics`` on a thread of its own, which answers while a loop is stuck.

    Args:
        host: an address or a name.
        port: 0: any that is free; ``address`` of the result says which.

    Returns:
        The endpoint; ``close()`` ends it.

    Raises:
        OSError: it cannot listen there.
    """
    from proactorx.observe.endpoint import Endpoint

    return Endpoint(host, port)


def opentelemetry(provider: Any = None) -> None:
    """Report the running loops to OpenTelemetry, whenever its readers collect.

    Args:
        provider: a ``MeterProvider``; None: the global one.

    Raises:
        ModuleNotFoundError: OpenTelemetry is not installed; the extra ``otel`` brings it.
    """
    from proactorx.observe.otel import instrument

    instrument(provider)
