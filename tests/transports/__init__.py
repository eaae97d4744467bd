"""Tests of stream transports and servers, as their users and their peers see them."""
