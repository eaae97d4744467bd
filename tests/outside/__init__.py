"""Tests that see the loop as others do: from a peer, a sibling, the user's own socket or a duplicate,
and /proc.

Each runs on stock asyncio too, which proves that the expectation is right.  Where stock itself is wrong the
test says so.
"""
