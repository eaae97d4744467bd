"""Subprocesses: their pipes, their ends, and what becomes of them when something goes wrong."""
