"""IO threads: a pool for blocking calls that no driver can make asynchronous."""

from __future__ import annotations

from proactorx.pool.threads import Growth, IOThreadPool, PoolStats, default_pool

__all__ = ["Growth", "IOThreadPool", "PoolStats", "default_pool"]
