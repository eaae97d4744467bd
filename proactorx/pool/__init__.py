"""IO threads: a pool for what blocks and what a kernel cannot do asynchronously,
apart from the executor's workers.
"""

from __future__ import annotations

from proactorx.pool.threads import Growth, IOThreadPool, PoolStats, default_pool

__all__ = ["Growth", "IOThreadPool", "PoolStats", "default_pool"]
