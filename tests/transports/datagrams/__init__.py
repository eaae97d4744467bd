"""Datagram transports, endpoints, and operations on datagram sockets."""
