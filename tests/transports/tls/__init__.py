"""Pipes, FIFOs, sockets and terminals as transports of one direction."""
