"""CPython's own tests of asyncio, from the running interpreter, on our loops."""
