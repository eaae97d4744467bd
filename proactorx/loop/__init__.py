"""The asyncio face: one file per family of ``AbstractEventLoop`` methods."""
